"""What a plan takes on a device, before anything is packed: a program is made on a device that only counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kv import CacheShape
from ggufpy.backends.cpu.model import cache_shape
from ggufpy.backends.cpu.needs import matrix_names, vectors
from ggufpy.backends.embedding import Embeddings
from ggufpy.backends.options import EngineOptions
from ggufpy.models.elsewhere import with_experts_elsewhere
from ggufpy.models.op import Op
from ggufpy.models.ops import Input
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource
from ggufpy.support.records import dataclass

from . import kv
from .device import Arrival, Device, Facts, Graph, Memory, Report, Work
from .memory import Vectors, aligned
from .placing import Costs, runnable
from .program import GpuProgram
from .source import KernelSpec
from .uploading import bytes_of
from .weights import DeviceMatrix, matrix_of, vector_bytes


class _Nowhere:
    """See Memory: of a device that has none."""

    def __init__(self, nbytes: int) -> None:
        self.address, self.nbytes = 0, nbytes


class CountingDevice:
    """See Device: it adds up what is allocated, and nothing can be run."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.allocated = facts, 0

    def free(self) -> int:
        return self.facts.memory - self.allocated

    def allocate(self, nbytes: int, about: str) -> Memory:
        self.allocated += aligned(nbytes)
        return _Nowhere(nbytes)

    def upload(self, address: int, data: NDArray[Any]) -> None:
        """Nothing is kept."""

    def download(self, address: int, out: NDArray[Any]) -> None:
        raise ValueError("a device that counts has nothing to give")

    def fetch(self, copies: Sequence[tuple[int, NDArray[Any]]]) -> Arrival:
        raise ValueError("a device that counts has nothing to give")

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Nothing is kept."""

    def load(self, specs: Sequence[KernelSpec], report: Report | None = None) -> None:
        """Nothing is compiled."""

    def run(self, works: Sequence[Work]) -> None:
        raise ValueError("a device that counts runs nothing")

    def record(self, works: Sequence[Work]) -> Graph:
        raise ValueError("a device that counts runs nothing")

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True)
class _Weightless:
    """See `program.Weights`: matrices and vectors that are nowhere."""

    plan: Plan
    device: Device
    options: EngineOptions
    shape: CacheShape
    matrices: dict[str, DeviceMatrix]
    vectors: Vectors
    embeddings: Embeddings

    def other(self, rows: int) -> None:
        """Nothing is run elsewhere."""


def costs(source: WeightSource, plan: Plan, options: EngineOptions, rows: int, facts: Facts) -> Costs:
    """What layers, the head and a program of them take on such a device, for steps of at most so many rows.

    A layer's cache is counted with it. Raises GGUFError as `cache_shape` does.
    """
    shape = cache_shape(plan, options)

    def weights(ops: Sequence[Op]) -> int:
        matrices = matrix_names(ops)
        others = {weight.name: weight.shape for op in ops for weight in op.weights if weight.name not in matrices}
        packed = sum(bytes_of(source.tensors[name]) for name in matrices)
        return packed + sum(aligned(vector_bytes(each)) for each in others.values())

    n = len(plan.layers)
    kept = [kv.estimate(plan.part(i, i + 1), shape, rows) for i in range(n)]
    layers = tuple(weights(ops) + kept[i] for i, ops in enumerate(plan.layers))
    away = with_experts_elsewhere(plan, n)
    experts = tuple(weights(ops) - weights(others) for ops, others in zip(plan.layers, away.layers, strict=True))
    first = next((i + 1 for i, nbytes in enumerate(experts) if nbytes), 0)

    def work(plan: Plan) -> int:
        can, _ = runnable(plan)
        return _work(source, plan.part(n - can, n), options, rows, facts) if can else 0

    @cache
    def works() -> tuple[int, int]:
        return work(with_experts_elsewhere(plan, first)), work(away)

    return Costs(layers, weights(plan.head), work(plan), experts, works)


def _work(source: WeightSource, plan: Plan, options: EngineOptions, rows: int, facts: Facts) -> int:
    """Bytes that a program of a plan's layers takes beside weights and cache: buffers, steps, and rooms of ops."""
    device, shape = CountingDevice(facts), cache_shape(plan, options)
    matrices = {name: matrix_of(source.tensors[name], 0, 1.0) for name in matrix_names((*plan.body, *plan.head))}
    none = {weight.name: np.zeros(0, np.float32) for weight in vectors(plan)}
    embeddings = Embeddings(Input("x", plan.width), source.tensors)
    silent = replace(options, progress=None)
    model = _Weightless(plan, device, silent, shape, matrices, Vectors(device, none), embeddings)
    program = GpuProgram(model, rows)
    return device.allocated - program.kv_bytes
