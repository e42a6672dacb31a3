"""The arithmetic of a model on a card that is not there: kernels and bytes of a token, by what the compiler says.

A program is made on a device that keeps nothing but what it is given to do. Times are those that the bytes would take
at a rate that is given: a bound, and nothing that was measured.
"""

from __future__ import annotations

import math
import sys
import textwrap
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from synthetic import Shape, model_metadata, tensor_infos

from ggufpy import quants
from ggufpy.backends.cpu.model import cache_shape, read_plan
from ggufpy.backends.cpu.needs import flops_of, matrix_names, products, vectors
from ggufpy.backends.embedding import Embeddings
from ggufpy.backends.gpu import catalogue
from ggufpy.backends.gpu.device import Facts, Launch, Product, Work
from ggufpy.backends.gpu.estimate import CountingDevice
from ggufpy.backends.gpu.memory import Vectors, aligned
from ggufpy.backends.gpu.program import GpuProgram
from ggufpy.backends.gpu.source import KernelSpec, text
from ggufpy.backends.gpu.weights import DeviceMatrix, matrix_of
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Rows, page_table
from ggufpy.format import ArraySource, Blocks
from ggufpy.models.ops import Input
from ggufpy.models.plan import Plan
from gpu import nvrtc
from gpu.nvrtc import Usage, occupancy

# What is planned for: multiprocessors, shared memory of a block, and the rate of memory that NVIDIA's data sheet gives.
CARD = Facts("H100 SXM, as NVIDIA describes it", "sm_90", 132, 227 << 10, 80 << 30)
DATA_SHEET = 3350.0  # GB/s
DATA_SHEET_MATRIX = 989.4  # TFLOPS, f16 with float32 sums


class _Here:
    """See Memory."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes


class NotingDevice(CountingDevice):
    """See Device: memory has addresses, and work is noted. What is downloaded is zeros."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.works: list[Work] = []

    def allocate(self, nbytes: int, about: str) -> _Here:
        at = 1 << 40 | self.allocated
        self.allocated += aligned(nbytes)
        return _Here(at, nbytes)

    def download(self, address: int, out: NDArray[Any]) -> None:
        out[...] = 0

    def run(self, works: Sequence[Work]) -> None:
        self.works += works


@dataclass(frozen=True)
class Model:
    """See `program.Weights`: matrices that have addresses and no bytes."""

    plan: Plan
    device: NotingDevice
    options: EngineOptions
    shape: Any
    matrices: dict[str, DeviceMatrix]
    vectors: Vectors
    embeddings: Embeddings

    def other(self, rows: int) -> None:
        """Nothing is run elsewhere."""


def made(shape: Shape, type_name: str, facts: Facts, options: EngineOptions) -> Model:
    """A model of these sizes, without weights. Raises GGUFError for a type that there is not."""
    tensors = {}
    for info in tensor_infos(shape, type_name):
        kind = quants.get(info.type)
        nbytes = info.shape[-1] // kind.weights * kind.nbytes
        zeros = np.zeros((*info.shape[:-1], nbytes), np.uint8)  # memory that is never touched takes none
        tensors[info.name] = zeros.view(np.float32) if info.type == "F32" else Blocks(zeros, info.type)
    source = ArraySource(model_metadata(shape, type_name, 0), tensors)
    plan, device = read_plan(source, options.n_ctx), NotingDevice(facts)
    matrices = {}
    for name in matrix_names((*plan.body, *plan.head)):
        matrix = matrix_of(source.tensors[name], 0, 1.0)
        matrices[name] = replace(matrix, address=device.allocate(matrix.nbytes, name).address)
    numbers = {weight.name: np.zeros(weight.shape, np.float32) for weight in vectors(plan)}
    return Model(
        plan, device, options, cache_shape(plan, options), matrices, Vectors(device, numbers),
        Embeddings(Input("x", plan.width), source.tensors),
    )  # fmt: skip


@dataclass(frozen=True)
class Step:
    """The work of one step to the logits of its last row, and the bytes that it must read of weights and cache."""

    works: list[Work]
    weights: int
    cache: int


def step(model: Model, rows: int, depth: int) -> Step:
    """A step of rows of one text behind `depth` tokens: one is exact, more are read in bulk."""
    program = GpuProgram(model, rows)
    pages = page_table(len(program.groups), model.shape.pages)
    pages[...] = np.arange(model.shape.pages)
    model.device.works.clear()
    bulk = rows > 1
    tokens = np.zeros(rows, np.int64)
    program.run([Rows(tokens, 0, depth, pages, bulk)], np.zeros((rows, model.plan.width), np.float32))
    program.logits([rows - 1], bulk)
    kept = sum(program.row_bytes(group) for group in range(len(program.groups)))
    return Step(list(model.device.works), sum(m.nbytes for m in model.matrices.values()), kept * (depth + rows))


@dataclass(frozen=True)
class Line:
    """The launches of one kernel in a step: how many, blocks and dynamic shared bytes of the largest, weights' bytes
    that all of them read."""

    spec: KernelSpec
    launches: int
    blocks: int
    dynamic: int
    weights: int


def lines(model: Model, works: Sequence[Work]) -> list[Line]:
    """By kernel, those that read most first. A matrix is read by the launches that are given an address within it, each
    of which has its share: pieces of it, where there are several."""
    order = sorted(model.matrices.values(), key=lambda matrix: matrix.address)
    starts = [matrix.address for matrix in order]
    launches = [work for work in works if isinstance(work, Launch)]
    touched = [{_within(order, starts, address) for address in _pointers(launch)} - {None} for launch in launches]
    sharing = Counter(index for each in touched for index in each)
    found: dict[KernelSpec, list[tuple[Launch, float]]] = {}
    for launch, each in zip(launches, touched, strict=True):
        nbytes = sum(order[index].nbytes / sharing[index] for index in each if index is not None)
        found.setdefault(launch.spec, []).append((launch, nbytes))
    made = [
        Line(
            spec, len(some), max(math.prod(launch.grid) for launch, _ in some),
            max(launch.shared for launch, _ in some), round(sum(nbytes for _, nbytes in some)),
        )
        for spec, some in found.items()
    ]  # fmt: skip
    return sorted(made, key=lambda line: (-line.weights, -line.launches))


def _pointers(launch: Launch) -> Iterator[int]:
    record = np.frombuffer(launch.arguments, launch.spec.dtype)[0]
    for name, kind in launch.spec.args:
        if kind.endswith("*"):
            yield int(record[name])


def _within(order: Sequence[DeviceMatrix], starts: Sequence[int], address: int) -> int | None:
    index = bisect_right(starts, address) - 1
    return index if index >= 0 and address < order[index].address + order[index].nbytes else None


def usages(specs: Sequence[KernelSpec], level: str) -> dict[KernelSpec, Usage]:
    """What the compiler says of each. Raises GGUFError where NVRTC is missing or a kernel does not compile."""
    compiler = nvrtc.compiler()
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda spec: compiler.compile(text(spec), level), specs)
        return dict(zip(specs, found, strict=True))


HEAD = ("kernel", "launches", "blocks", "threads", "regs", "shared", "spills", "occupied", "waves", "MB", "us")


def table(model: Model, works: Sequence[Work], gb_per_s: float) -> list[tuple[str, ...]]:
    """Rows for reading. `occupied` is the part of a multiprocessor's threads that can be busy, `waves` how many times
    the card is filled by the blocks of the largest launch, `us` what its bytes of weights take at that rate."""
    facts, found = model.device.facts, lines(model, works)
    used = usages([line.spec for line in found], facts.level)
    rows: list[tuple[str, ...]] = [HEAD]
    for line in found:
        spec, usage = line.spec, used[line.spec]
        busy = occupancy(facts.level, spec.threads, usage, line.dynamic)
        resident = busy * nvrtc.MULTIPROCESSORS[facts.level].threads / (32 * -(-spec.threads // 32))
        waves = line.blocks / (resident * facts.processors) if resident else math.inf
        rows.append((
            named(spec), f"{line.launches}", f"{line.blocks:,}", f"{spec.threads}", f"{usage.registers}",
            f"{usage.shared + line.dynamic:,}", f"{usage.stores + usage.loads}", f"{busy:.0%}", f"{waves:.1f}",
            f"{line.weights / 1e6:,.1f}" if line.weights else "-",
            f"{line.weights / gb_per_s / 1e3:,.1f}" if line.weights else "-",
        ))  # fmt: skip
    return rows


def named(spec: KernelSpec) -> str:
    """A kernel with its constants, those that are long cut short: "norm_rows rms 8 4"."""
    return " ".join(
        [spec.name, *(textwrap.shorten(str(value).lower(), 16, placeholder="..") for _, value in spec.defines)]
    )


def arithmetic(shape: Shape, type_name: str, gb_per_s: float, facts: Facts = CARD) -> str:
    """Both steps of a model: a token behind 512 others, and a prompt of 512."""
    parts = []
    for rows, depth, about in ((1, 512, "a token behind 512 others"), (512, 0, "a prompt of 512 tokens")):
        model = made(shape, type_name, facts, EngineOptions(n_ctx=1024, n_threads=1))
        done = step(model, rows, depth)
        library = sum(isinstance(work, Product) for work in done.works)
        parts += [
            f"{type_name}, {about}: {len(done.works)} launches, {library} of them of cuBLAS; "
            f"{done.weights / 1e9:.3f} GB of weights and {done.cache / 1e6:.0f} MB of keys and values",
            layout(table(model, done.works, gb_per_s)),
            _read(done, gb_per_s) if rows == 1 else _multiplied(model.plan, rows),
        ]
    return "\n\n".join(parts)


def _read(done: Step, gb_per_s: float) -> str:
    nbytes, count = done.weights + done.cache, len(done.works)
    seconds = nbytes / gb_per_s / 1e9
    return (
        f"at {gb_per_s:,.0f} GB/s the bytes take {1e3 * seconds:.3f} ms, {1e6 * seconds / count:.2f} us a launch: "
        f"at most {1 / seconds:,.0f} tokens a second"
    )


def _multiplied(plan: Plan, rows: int) -> str:
    body, head = (sum(map(flops_of, products(ops))) for ops in (plan.body, plan.head))
    work = body * rows + head
    return (
        f"{work / 1e12:.2f} TFLOP of products: at {DATA_SHEET_MATRIX:,.0f} TFLOPS, NVIDIA's for an H100 SXM, at most "
        f"{DATA_SHEET_MATRIX * 1e12 * rows / work:,.0f} tokens a second; "
        f"12,000 a second are {12e-9 * work / rows:,.0f} TFLOPS"
    )


def every_kernel(level: str) -> str:
    """All variants of all kernels at a level."""
    specs = catalogue.kernels()
    used = usages(specs, level)
    rows: list[tuple[str, ...]] = [("kernel", "threads", "regs", "shared", "stack", "spills", "occupied")]
    for spec in sorted(specs, key=named):
        usage = used[spec]
        rows.append((
            named(spec), f"{spec.threads}", f"{usage.registers}", f"{usage.shared:,}", f"{usage.stack}",
            f"{usage.stores + usage.loads}", f"{occupancy(level, spec.threads, usage):.0%}",
        ))  # fmt: skip
    return layout(rows)


def layout(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns: one of text, then numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
