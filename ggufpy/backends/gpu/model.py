"""Layers in a device's memory: their packed matrices and vectors, and what a program of them takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ggufpy.backends.cpu.kv import CacheShape
from ggufpy.backends.cpu.model import cache_shape
from ggufpy.backends.cpu.needs import flops_of, matrix_names, products, vectors
from ggufpy.backends.embedding import Embeddings
from ggufpy.backends.options import EngineOptions
from ggufpy.models.op import Op
from ggufpy.models.ops import ExpertMatMul
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource

from . import kv
from .device import Device
from .memory import Buffers, StepMemory, StepSize, Vectors, aligned, buffer_widths
from .placing import Costs
from .uploading import bytes_of, uploaded
from .weights import vector, vector_bytes

if TYPE_CHECKING:
    from .program import GpuProgram

HEAD_ROWS = 32  # rows of logits computed at a time


class GpuModel:
    """`plan`, which may be a part of a model's, with what it needs on a device that is its own.

    See `backends/program.py`. Raises GGUFError for tensors that cannot be packed, a context longer than the model's, or
    too little memory.
    """

    bulk_rows = True

    def __init__(self, source: WeightSource, plan: Plan, options: EngineOptions, device: Device) -> None:
        self.plan, self.device, self.options = plan, device, options
        self._tensors = source.tensors
        self._names = matrix_names((*plan.body, *plan.head))
        self.shape = cache_shape(plan, options)
        self.threads = options.threads()
        tensors = [self._tensors[name] for name in self._names]
        self.matrices = uploaded(device, tensors, self.threads, self._counter(sum(t.nbytes for t in tensors)))
        self.vectors = Vectors(device, {w.name: vector(self._tensors[w.name]) for w in vectors(plan)})
        self.embeddings = Embeddings(plan.embed, self._tensors)

    def _counter(self, total: int) -> Callable[[int], None]:
        """advance(bytes): reports what is on the device, as a sum."""
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if self.options.progress is not None:
                self.options.progress("load", done, total)

        return advance

    @property
    def positions(self) -> int:
        """Of a sequence."""
        return self.shape.positions

    @property
    def sequences(self) -> int:
        """That can be full at once."""
        return self.shape.sequences

    @property
    def isa(self) -> str:
        """The device's name."""
        return self.device.facts.name

    @property
    def weight_bytes(self) -> int:
        """Bytes of matrices that are read for a token: all of them, or those of the experts that it uses."""
        read: dict[str, int] = {}
        for op in products((*self.plan.body, *self.plan.head)):
            used = op.count / op.weight.shape[0] if isinstance(op, ExpertMatMul) else 1
            read[op.weight.name] = int(self.matrices[op.weight.name].nbytes * used)
        return sum(read.values())

    @property
    def type_name(self) -> str:
        """The type that most of the matrices' bytes are in."""
        sizes: Counter[str] = Counter()
        for name in self._names:
            sizes[self._tensors[name].type] += self._tensors[name].nbytes
        return sizes.most_common(1)[0][0]

    def prompt_flops(self, tokens: int) -> float:
        """Floating-point operations of the matrix products for a text, and for the logits of its last token."""
        body, head = (sum(map(flops_of, products(ops))) for ops in (self.plan.body, self.plan.head))
        return body * tokens + head

    def program(self, rows: int) -> GpuProgram:
        """For steps of at most so many rows."""
        from .program import GpuProgram  # it imports this module

        return GpuProgram(self, rows)


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


def costs(source: WeightSource, plan: Plan, options: EngineOptions, rows: int) -> Costs:
    """What a plan's layers, its head and a program of any of them take on a device, but for rooms of ops.

    Each layer's cache is counted with it. Raises GGUFError as `cache_shape` does.
    """
    shape = cache_shape(plan, options)

    def weights(ops: Sequence[Op]) -> int:
        matrices = matrix_names(ops)
        others = {weight.name: weight.shape for op in ops for weight in op.weights if weight.name not in matrices}
        packed = sum(bytes_of(source.tensors[name]) for name in matrices)
        return packed + sum(aligned(vector_bytes(shape)) for shape in others.values())

    n = len(plan.layers)
    kept = [kv.estimate(plan.part(i, i + 1), shape, rows) for i in range(n)]
    body, head = step_sizes(plan, shape, 1, rows)
    work = sum(map(StepMemory.nbytes, (body, head)))
    work += Buffers.nbytes(body_widths(plan), body.rows) + Buffers.nbytes(head_widths(plan), head.rows)
    return Costs(tuple(weights(ops) + kept[i] for i, ops in enumerate(plan.layers)), weights(plan.head), work)
