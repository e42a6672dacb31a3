"""Layers as a program on a device: a step is uploaded, its work launched, and what is wanted downloaded.

Work is made once for each shape of step (`works.py`). Errands among it are for a program of another device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kv import CacheShape
from ggufpy.backends.embedding import Embeddings
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import MOST_FILL, Bytes, Floats, Ints, Rows
from ggufpy.errors import GGUFError
from ggufpy.models.elsewhere import elsewhere
from ggufpy.models.op import Op
from ggufpy.models.ops import Rope, Rotate
from ggufpy.models.plan import Plan

from .bulk import TILE as SHORT
from .device import Device, Launch
from .elsewhere import Errand, Errands, Other
from .kv import CacheMemory
from .lowering import Lowering, Piece
from .memory import Buffers, ProgramParts, Rooms, StepMemory, StepSize, Vectors, buffer_widths, shape_of
from .ops.store_kv import Shift, shift_works
from .rotation import angle_bytes, angle_works
from .select import select
from .source import KernelSpec
from .step import StepShape
from .weights import DeviceMatrix
from .works import Works

EXACT = 16  # rows of a text that is too short to be read in bulk
HEAD_ROWS = 32  # rows of logits computed at a time


class Weights(Protocol):
    """What a program takes of a model."""

    @property
    def plan(self) -> Plan: ...
    @property
    def device(self) -> Device: ...
    @property
    def options(self) -> EngineOptions: ...
    @property
    def shape(self) -> CacheShape: ...
    @property
    def matrices(self) -> Mapping[str, DeviceMatrix]: ...
    @property
    def vectors(self) -> Vectors: ...
    @property
    def embeddings(self) -> Embeddings: ...
    def other(self, rows: int) -> Other | None:
        """The program of what the plan has run elsewhere, for steps of at most so many rows."""


def body_widths(plan: Plan) -> dict[str, int]:
    """Of the buffers of layers."""
    return buffer_widths((plan.embed, *plan.body))


def head_widths(plan: Plan) -> dict[str, int]:
    """Of the buffers of the head, whose "x" is a copy of the body's."""
    widths = buffer_widths(plan.head)
    return {**widths, "x": max(widths.get("x", 0), plan.width)}


def step_sizes(plan: Plan, shape: CacheShape, groups: int, rows: int) -> tuple[StepSize, StepSize]:
    """The most that steps of the layers and of the head have."""
    adapters = plan.adapters
    return (
        StepSize(rows, shape.sequences, shape.pages, groups, adapters),
        StepSize(min(HEAD_ROWS, rows), 1, 0, 0, adapters),
    )


class GpuProgram:
    """Runs steps of at most `rows` rows, and those that fill up for a program beside it. See `backends/program.py`.

    Layers that others follow return what they leave. Those that a head follows return nothing: it stays where it is,
    and nobody else wants it.
    """

    fill = 1

    def __init__(self, model: Weights, rows: int) -> None:
        plan, device, room = model.plan, model.device, rows + MOST_FILL
        self.model, self._plan, self._device, self._rows = model, plan, device, rows
        self._kv = CacheMemory(device, plan, model.shape, rows)
        self.groups, self.kv_bytes = self._kv.groups, self._kv.nbytes
        body, head = step_sizes(plan, model.shape, len(self.groups), room)
        self.head_rows = head.rows
        self._step, self._head_step = StepMemory(device, body), StepMemory(device, head)
        self._ropes = list(dict.fromkeys(op.rope for op in plan.body if isinstance(op, Rotate)))
        rooms = self._rooms = Rooms(device)
        turns = {rope: rooms.get(f"angles {i}", angle_bytes(rope, room)) for i, rope in enumerate(self._ropes)}
        self._widths, self._head_widths = body_widths(plan), head_widths(plan)
        self._parts = self._made_parts(self._widths, room, self._step, turns)
        self._head_parts = self._made_parts(self._head_widths, head.rows, self._head_step, {})
        self._x: Floats = np.zeros((room, self._parts.buffer("x").stride), np.float32)
        self._logits: Floats = np.zeros((head.rows, 0), np.float32)
        self._body = Works(device, self._body_works, self._run_errand)
        self._heads = {name: Works(device, self._head_works(ops), self._run_errand) for name, ops in self._head_ops()}
        self._load()
        self._errands = Errands(device, model.other(rows), elsewhere(plan))  # last: it has threads, which must be ended
        self._open = True

    def _made_parts(self, widths: dict[str, int], rows: int, step: StepMemory, turns: dict[Rope, int]) -> ProgramParts:
        model, device = self.model, self._device
        return ProgramParts(
            Buffers(device, widths, rows), model.matrices, model.vectors, self._kv, self._rooms, turns,
            step.addresses, device.facts.processors,
        )  # fmt: skip

    def _head_ops(self) -> Iterator[tuple[str, Sequence[Op]]]:
        yield "logits", self._plan.head
        yield "hidden", self._plan.hidden[0]

    def _run_errand(self, errand: Errand) -> None:
        self._errands.run(errand)

    def _body_works(self, shape: StepShape) -> Iterator[Piece]:
        yield from angle_works(self._ropes, self._parts.step, shape.end, self._parts.angles)
        yield from Lowering(self._parts, {"x": self._plan.width}, shape).works(self._plan.body)

    def _head_works(self, ops: Sequence[Op]) -> Callable[[StepShape], Iterator[Piece]]:
        parts, width = self._head_parts, self._plan.width

        def works(shape: StepShape) -> Iterator[Piece]:
            x, y = self._parts.buffer("x"), parts.buffer("x")
            yield select(parts.step.sources, x, y, width, shape.end)
            yield from Lowering(parts, {"x": width}, shape).works(ops)

        return works

    def _load(self) -> None:
        """Makes the work of the largest steps, so that rooms have their sizes, and of others; and loads its kernels."""
        rows, few = self._rows, self.model.shape.sequences
        shapes = [StepShape(0, 0, rows, min(few, rows)), StepShape(min(rows, EXACT))]
        shapes += map(StepShape, range(1, min(rows, 9)))
        shapes.append(StepShape(0, 0, min(rows, SHORT), 1))
        if rows > few:
            shapes.append(StepShape(few, few, rows - few, few))
        specs: dict[KernelSpec, None] = {}
        for shape in shapes:
            specs.update(_specs(self._body_works(shape)))
        for name, ops in self._head_ops():
            if name == "logits" and not self._plan.makes_logits:
                continue
            for count in {1, self.head_rows}:
                for shape in (StepShape(0, 0, count, 1), StepShape(count)):
                    specs.update(_specs(self._head_works(ops)(shape)))
        for group in range(len(self.groups)):
            specs.update(_specs(shift_works(self._parts, self._plan.body, Shift(group, 0, 0, range(1), 0))))
        progress = self.model.options.progress
        report = None if progress is None else lambda done, total: progress("compile", done, total)
        self._device.load(list(specs), report)

    def run(self, step: Sequence[Rows], x: Floats | None = None) -> Floats:
        self._must_be_open()
        if self._plan.whole_texts and any(part.position for part in step):
            raise GGUFError(
                "the model's tokens see the whole text, so it must be evaluated in one step: begin a new sequence"
            )
        shape, width = shape_of(step), self._plan.width
        self._step.write(step)
        for part in step:
            rows = slice(part.row, part.end)
            if x is None:
                positions = np.arange(part.position, part.position + len(part.tokens))
                self._x[rows, :width] = self.model.embeddings.rows(part.tokens, positions)
            else:
                self._x[rows, :width] = x[rows, :width]
        place = self._parts.buffer("x")
        self._device.upload(place.address, self._x[: shape.end])
        self._body.run(shape)
        if self._plan.head:
            return self._x[:0, :width]
        self._device.download(place.address, self._x[: shape.end])
        return self._x[: shape.end, :width]

    def logits(self, rows: Sequence[int], bulk: bool) -> Floats:
        if not self._plan.makes_logits:
            raise ValueError("these layers are not the last: they make no logits")
        return self._run_head("logits", "logits", self._plan.vocabulary, (rows, bulk))

    def hidden(self, rows: Sequence[int], bulk: bool) -> Floats:
        _, buffer, width = self._plan.hidden
        return self._run_head("hidden", buffer, width, (rows, bulk))

    def _must_be_open(self) -> None:
        """Raises GGUFError if it has been closed: its memory is gone."""
        if not self._open:
            raise GGUFError("the model has been closed")

    def _run_head(self, name: str, buffer: str, width: int, wanted: tuple[Sequence[int], bool]) -> Floats:
        """Runs the ops of the head that are named so on some rows of the last step; a buffer of what they leave."""
        self._must_be_open()
        rows, bulk = wanted
        count = len(rows)
        self._head_step.write_sources(rows, self._step.scales)
        self._heads[name].run(StepShape(0, 0, count, 1) if bulk else StepShape(count))
        place = self._head_parts.buffer(buffer)
        if self._logits.shape[1] != place.stride:
            self._logits = np.zeros((self.head_rows, place.stride), np.float32)
        self._device.download(place.address, self._logits[:count])
        return self._logits[:count, :width]

    def copy(self, group: int, source: int, target: int) -> None:
        self._kv.copy(group, source, target)

    def move(self, group: int, tables: tuple[Ints, Ints], positions: range, drop: int) -> None:
        self._must_be_open()
        if not len(positions):
            return
        addresses = [self._table(i, table) for i, table in enumerate(tables)]
        shift = Shift(group, addresses[0], addresses[1], positions, drop)
        self._device.run(shift_works(self._parts, self._plan.body, shift))

    def _table(self, number: int, pages: NDArray[np.int64]) -> int:
        """The address of a table of pages that a shift goes by."""
        numbers = np.ascontiguousarray(pages, np.int32).reshape(-1)
        room = self._rooms.get(f"pages of a shift, {number}", 4 * max(self.model.shape.pages, numbers.size))
        self._device.upload(room, numbers)
        return room

    def form(self, group: int) -> str:
        return self._kv.form(group)

    def row_bytes(self, group: int) -> int:
        return self._kv.row_bytes(group)

    def read_page(self, group: int, page: int) -> Bytes:
        return self._kv.read_page(group, page)

    def write_page(self, group: int, page: int, rows: Bytes) -> None:
        self._kv.write_page(group, page, rows)

    def close(self) -> None:
        self._open = False
        self._errands.close()
        self._device.close()


def _specs(works: Iterable[Piece]) -> dict[KernelSpec, None]:
    """The kernels of some work."""
    return {work.spec: None for work in works if isinstance(work, Launch)}
