"""A model as a program on this CPU: buffers, tapes, threads and the memory of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from ggufpy.backends.cpu.kernels.kv_types import PAGE
from ggufpy.backends.program import Bytes, Floats, Ints, Rows
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op
from ggufpy.models.plan import Plan

from .kv import CacheMemory
from .lowering import NO_SINKS, Call, Cut, Lowering, Resources, Sinks, StepKind
from .memory import Region
from .model import Model
from .needs import body_widths, head_widths, position_scales
from .ops.attend import ropes, shift_calls
from .rope import FactorTable, RopeTable
from .step import Span, Spans, Step
from .tape import Tape, stretches
from .threads import Team
from .workspace import GROUPS, MOST, Workspace

if TYPE_CHECKING:  # what few steps want is imported by them: 10 ms of a start
    from .profile import Profile
    from .score import LogitRows
    from .taps import Given

HEAD_ROWS = 64  # rows of logits computed at a time


class CpuProgram:
    """Runs steps of at most `rows` rows, filled up to whole groups. See `backends/program.py`."""

    fill = MOST

    def __init__(self, model: Model, rows: int) -> None:
        plan = model.plan
        self.model, self.head_rows = model, min(HEAD_ROWS, rows)
        self._kv = CacheMemory(plan, model.shape, rows, model.library.level.lanes, model.threads)
        self.groups, self.kv_bytes = self._kv.groups, self._kv.nbytes
        self._rows = rows + MOST  # exact rows are filled up to whole groups when others follow
        self._work = Workspace(
            "body", body_widths(plan), model.forms(plan.body), self._rows, plan.adapters, len(self.groups)
        )
        self._head = Workspace("head", head_widths(plan), model.forms(plan.head), self.head_rows, plan.adapters)
        self._ropes = [RopeTable(rope, self._rows) for rope in ropes(plan.body)]
        self._factors = [FactorTable(by, self._rows) for by in position_scales(plan)]
        self._x = self._work.rows_of("x")
        angles = {table.rope: table.region for table in self._ropes}
        scratch = Region(max(model.scratch_bytes, 1) * model.threads, "scratch of products")
        self._parts = Resources(
            model.matrices, model.vectors, self._kv, angles, {table.by: table.region for table in self._factors},
            model.threads, model.bulk, model.tiled_attention, scratch,
        )  # fmt: skip
        self._source = Step(self._rows, groups=len(self.groups))  # where a shift reads
        self._plan, self._sinks = plan, NO_SINKS
        self._given: dict[Workspace, Given] = {}  # what hooks are given of a workspace
        self._tapes: dict[object, list[Tape | Cut]] = {}
        self._team = Team(model.threads, model.library)
        self.profile: Profile | None = None

    def run(self, step: Sequence[Rows], x: Floats | None = None) -> Floats:
        if self.model.plan.whole_texts and any(part.position for part in step):
            raise GGUFError(
                "the model's tokens see the whole text, so it must be evaluated in one step: begin a new sequence"
            )
        spans = _spans(step, len(self.groups), self.model.tiled_attention)
        rows, positions, _ = spans.each
        width = self.model.plan.width
        if x is None:
            tokens = np.concatenate([part.tokens for part in step])
            self._x[rows, :width] = self.model.embeddings.rows(tokens, positions)
        else:
            self._x[rows, :width] = x[rows, :width]
        self._x[rows, width:] = 0.0
        for angles in self._ropes:
            angles.fill(positions, rows)
        for factors in self._factors:
            factors.fill(positions, rows)
        if self.model.plan.adapters:
            self._set_scales(step)
        self._set_spans(spans.in_order())
        self._run_body(step, spans.end)
        return self._x[:, :width]

    def _set_scales(self, step: Sequence[Rows]) -> None:
        """What each row's sequence says of adapters; rows that only fill up have none."""
        scales = self._work.step.scales
        scales[:] = 0.0
        for part in step:
            if part.scales:
                scales[:, part.row : part.end] = np.array(part.scales[: len(scales)], np.float32)[:, None]

    def _set_spans(self, spans: Spans) -> None:
        """What attends together, and where single rows leave their parts."""
        size = self._kv.part_bytes
        starts = list(accumulate((size * (s.position // PAGE + 1) for s in spans.all if s.kind == 0), initial=0))
        first = self._kv.parts.at(0, starts[-1])
        self._work.step.set_spans(spans, [first + start for start in starts[:-1]])

    def _run_body(self, step: Sequence[Rows], end: int) -> None:
        """Runs the layers on the step's rows, which end there."""
        few, first, many = end, 0, 0
        if bulk := [part.row for part in step if part.bulk]:
            few, first = max((part.end for part in step if not part.bulk), default=0), min(bulk)
            many = end - first
        self._work.step.set_rows(few, first, many)
        kind = StepKind(_group(few), bool(bulk))

        if self._sinks:
            from .taps import of_step

            self._given[self._work] = of_step(step, self._spread())

        def calls() -> Iterable[Call | Cut]:
            return self._lowering(self._work, kind).calls(self._plan.body)

        self._run(("body", kind), calls, self._work)

    def run_layer(self, layer: int, given: Mapping[str, Floats], y: str) -> Floats:
        """Runs a layer that keeps nothing on rows that are given; what it leaves in y, until the next call.

        given has (rows, columns) by buffer, all that the layer reads; (rows, padded columns) are returned, the same
        bits for a row whatever its company.
        """
        rows = len(next(iter(given.values())))
        for name, values in given.items():
            buffer, columns = self._work.rows_of(name), values.shape[1]
            buffer[:rows, :columns], buffer[:rows, columns:] = values, 0.0
        self._work.step.set_rows(rows, 0, 0)
        kind = StepKind(_group(rows), bulk=False)

        def calls() -> Iterable[Call | Cut]:
            return self._lowering(self._work, kind).calls(self._plan.layers[layer])

        self._run((layer, kind), calls, self._work)
        return self._work.rows_of(y)[:rows]

    def logits(self, rows: Sequence[int], bulk: bool) -> Floats:
        if not self.model.plan.makes_logits:
            raise ValueError("these layers are not the last: they make no logits")
        self._run_head(("head",), self._plan.head, rows, bulk)
        return self._head.rows_of("logits")[: len(rows), : self.model.plan.vocabulary]

    def hidden(self, rows: Sequence[int], bulk: bool) -> Floats:
        ops, buffer, width = self._plan.hidden
        self._run_head(("hidden",), ops, rows, bulk)
        return self._head.rows_of(buffer)[: len(rows), :width]

    def _run_head(self, name: tuple[str], ops: Sequence[Op], rows: Sequence[int], bulk: bool) -> None:
        """Runs these ops of the head, whose tape is named so, on some rows of the last step."""
        count = len(rows)
        self._head.step.sources[:count] = rows
        if self.model.plan.adapters:
            self._head.step.scales[:, :count] = self._work.step.scales[:, rows]
        self._head.step.set_rows(0 if bulk else count, 0, count if bulk else 0)
        kind = StepKind(0 if bulk else _group(count), bulk)

        if self._sinks:
            from .taps import of_head

            self._given[self._head] = of_head(self._given[self._work], rows)

        def calls() -> Iterable[Call | Cut]:
            lowering = self._lowering(self._head, kind)
            return [lowering.select(self._work, "x"), *lowering.calls(ops)]

        self._run((*name, kind), calls, self._head)

    def logit_rows(self, count: int) -> LogitRows:
        """What `logits` has computed last, where it lies."""
        from .score import LogitRows

        return LogitRows(self._head, count, self.model.plan.vocabulary, self.model.threads, self._spread())

    def _spread(self) -> Callable[[Call], None]:
        """What runs one kernel on every thread; it does not hold this program."""
        library, team = self.model.library, self._team
        return lambda call: Tape([call], library).run(team)

    def rewrite(self, plan: Plan, sinks: Sinks) -> None:
        """Steps run the model's plan with other ops on the same matrices from now on, and what stands behind its taps.

        Kernels that this takes are loaded here.
        """
        self.model.load_kernels(plan, sinks)
        self._work.add(body_widths(plan))
        self._head.add(head_widths(plan))
        self._plan, self._sinks = plan, sinks
        self._tapes.clear()

    def _lowering(self, work: Workspace, kind: StepKind) -> Lowering:
        return Lowering(self._parts, work, kind, self._sinks)

    def _run(self, name: object, calls: Callable[[], Iterable[Call | Cut]], work: Workspace) -> None:
        """Runs the tape of this name on a workspace, made by `calls` when it is first wanted; hooks run at its cuts."""
        if name not in self._tapes:
            self._tapes[name] = stretches(calls(), self.model.library)
        for stretch in self._tapes[name]:
            if isinstance(stretch, Cut):
                stretch.give(self._given[work], work)
            elif self.profile is None:
                stretch.run(self._team)
            else:
                self.profile.run(stretch, self._team, work)

    def copy(self, group: int, source: int, target: int) -> None:
        self._kv.copy(group, source, target)

    def move(self, group: int, tables: tuple[Ints, Ints], positions: range, drop: int) -> None:
        def calls() -> list[Call]:
            lowering = Lowering(self._parts, self._work, StepKind(MOST, bulk=False))
            return shift_calls(lowering, self.model.plan.body, self._source, group)

        size = self._rows - MOST
        for start in range(positions.start, positions.stop, size):
            count = min(size, positions.stop - start)
            for step, first, table in zip((self._source, self._work.step), (start, start - drop), tables, strict=True):
                addresses = np.full((len(self.groups), 1), table.ctypes.data)  # only this group's are read
                step.set_rows(count, 0, 0)
                step.set_spans(Spans([Span(0, count, first, 2)], addresses), [])  # nothing attends
            for angles in self._ropes:
                angles.turn(np.full(count, -drop), slice(0, count))
            self._run(("shift", group), calls, self._work)

    def form(self, group: int) -> str:
        return self._kv.form(group)

    def row_bytes(self, group: int) -> int:
        return self._kv.row_bytes(group)

    def read_page(self, group: int, page: int) -> Bytes:
        return self._kv.read_page(group, page)

    def write_page(self, group: int, page: int, rows: Bytes) -> None:
        self._kv.write_page(group, page, rows)

    def close(self) -> None:
        self._team.close()


def _spans(step: Sequence[Rows], groups: int, tiles: bool) -> Spans:
    """A step as kernels take it; bulk rows attend by tiles where there are `tiles`."""
    spans: list[Span] = []
    for part in step:
        count, (n_groups, pages) = len(part.tokens), part.pages.shape
        if n_groups != groups:
            raise ValueError(f"rows with a page table of {part.pages.shape}, of {groups} groups")
        if not 0 <= part.position <= pages * PAGE - count:
            raise ValueError(f"{count} rows from position {part.position}, with pages for {pages * PAGE}")
        spans.append(Span(part.row, count, part.position, 2 if part.bulk and tiles else int(count > 1)))
    tables = np.array([[part.pages.address for part in step]])
    if groups != 1:  # a row of the table each
        tables = tables + np.arange(groups)[:, None] * [part.pages.shape[1] * 8 for part in step]
    return Spans(spans, tables)


def _group(rows: int) -> int:
    """How many of so many exact rows share a reading of the weights."""
    return 0 if not rows else min(group for group in GROUPS if group >= min(rows, MOST))
