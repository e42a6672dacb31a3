"""Hessians H = Σ x xᵀ of what a model's matrices are multiplied by on a text, a layer at a time, for GPTQ.

In: an open model and a text. Out, by calls of a function: `Moments` of every input of a layer's matrices; the function
says what the matrices become, and later layers are measured behind those. So every layer is read twice, once as it is
and once as it will be, from rows that are kept in a file between layers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.caches.base import pages_of
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Rows, page_table
from ggufpy.errors import GGUFError
from ggufpy.format import GGUFFile
from ggufpy.format.arrays import in_memory
from ggufpy.format.values import shown
from ggufpy.measure.perplexity import Ints, text_tokens, windows
from ggufpy.models.inputs import MatrixInput, with_input_taps
from ggufpy.models.ops import Attend, ExpertMatMul, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource
from ggufpy.quantizer.options import Advance, Moments, Solve
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.backends.cpu.lowering import Sinks
    from ggufpy.format import Tensor
    from ggufpy.format.metadata import Metadata
    from ggufpy.models.taps import TapRows

CHUNKS = 128  # of a text that are read, as in the paper
N_CTX = 512
MEMORY = 1 << 30  # bytes of Hessians at a time

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TextHessians:
    """Measured on the first `chunks` chunks of `n_ctx` tokens of the text at `path` (-1: of all).

    Hessians of a layer that take more than `memory` bytes are measured in several passes over it.
    """

    path: str | os.PathLike[str]
    chunks: int = CHUNKS
    n_ctx: int = N_CTX
    threads: int | None = None
    memory: int = MEMORY

    def __post_init__(self) -> None:
        checks.path("the calibration text", self.path)
        if checks.whole("chunks", self.chunks) < -1 or not self.chunks:
            raise GGUFError(f"{self.chunks} chunks of a text cannot be read: 1 or more, or -1 for the whole text")
        if checks.whole("memory", self.memory) < 0:
            raise GGUFError(f"a memory of {self.memory} bytes cannot be")

    @property
    def dataset(self) -> str:
        """The name of the text."""
        return os.fspath(self.path)

    def visit(self, file: GGUFFile, solve: Solve, progress: Advance) -> int:
        """Calls `solve` with every input of every layer, in order; how many chunks were read.

        Raises GGUFError for a model that does not run, or without a vocabulary, for too short a text, and for
        activations that are not finite.
        """
        from ggufpy.backends.cpu.model import read_plan

        plan = read_plan(file)
        tokens = self._tokens(file, min(self.n_ctx, plan.context))
        options = EngineOptions(n_ctx=tokens.shape[1], n_batch=tokens.shape[1], n_threads=self.threads)
        with _states((*tokens.shape, plan.width)) as states:
            parts = list(units(plan))
            for i, (start, stop) in enumerate(parts):
                one = _Unit(plan, range(start, stop), options, tokens, states)
                changed: dict[str, Tensor] = {}
                for inputs in passes(one.inputs, self.memory):
                    for moments in one.measured(_Changed(file, changed), inputs):
                        for name, blocks in solve(moments).items():
                            changed[name] = in_memory(name, blocks)
                if stop < len(plan.layers):
                    one.advance(_Changed(file, changed))
                progress("calibrate", i + 1, len(parts))
        return len(tokens)

    def _tokens(self, file: GGUFFile, n_ctx: int) -> Ints:
        """The text's chunks (chunks, n_ctx)."""
        from ggufpy.tokenizers import load_tokenizer

        try:
            text = Path(self.path).read_bytes()
            text.decode("utf-8")
        except OSError as error:
            raise GGUFError(f"cannot read the calibration text {self.dataset}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise GGUFError(f"{self.dataset} is not UTF-8 text (byte {error.start}): convert it first") from error
        tokenizer = load_tokenizer(file)
        tokens = text_tokens(tokenizer, text)
        return windows(tokens, n_ctx, tokenizer.bos if tokenizer.add_bos else None, self.chunks)


def units(plan: Plan) -> Iterator[tuple[int, int]]:
    """Layers that can be read alone, as (start, stop): one, or as many as attend to one another's keys."""
    stored = {op.layer: i for i, ops in enumerate(plan.layers) for op in ops if isinstance(op, StoreKv)}
    first = [min([i, *(stored[op.layer] for op in ops if isinstance(op, Attend))]) for i, ops in enumerate(plan.layers)]
    start = 0
    for stop in range(1, len(first) + 1):
        if all(needed >= stop for needed in first[stop:]):
            yield start, stop
            start = stop


def passes(inputs: Sequence[MatrixInput], memory: int) -> Iterator[list[MatrixInput]]:
    """Inputs in order, as many at a time as have Hessians of so many bytes; one at least."""
    some: list[MatrixInput] = []
    used = 0
    for one in inputs:
        size = 0 if isinstance(one.of, ExpertMatMul) else 4 * one.columns**2
        if some and used + size > memory:
            yield some
            some, used = [], 0
        some.append(one)
        used += size
    if some:
        yield some


class _Changed:
    """A source in which some tensors are others."""

    def __init__(self, source: WeightSource, changed: Mapping[str, Any]) -> None:
        self.metadata: Metadata = source.metadata
        self.tensors = {**source.tensors, **changed}


@contextmanager
def _states(shape: tuple[int, ...]) -> Iterator[Floats]:
    """Room for what layers leave of every token, in a file without a name."""
    with tempfile.TemporaryFile(prefix="ggufpy-") as file:
        yield np.memmap(file, np.float32, "w+", shape=shape)


class _Unit:
    """Layers that are read together, from what those before have left."""

    def __init__(self, plan: Plan, layers: range, options: EngineOptions, tokens: Ints, states: Floats) -> None:
        self._options, self._tokens, self._states = options, tokens, states
        self._whole = replace(plan, layers=plan.layers[layers.start : layers.stop])  # what kernels are tried with
        self._plan = replace(plan.part(layers.start, layers.stop), head=())
        tapped = [with_input_taps(ops) for ops in self._plan.layers]
        self.inputs = [one for _, inputs in tapped for one in inputs]
        self._tapped = replace(self._plan, layers=tuple(ops for ops, _ in tapped))

    def measured(self, source: WeightSource, inputs: Sequence[MatrixInput]) -> list[Moments]:
        """One pass over the text. Raises GGUFError for what is not finite."""
        from ggufpy.backends.cpu.collect import SquaresSink
        from ggufpy.backends.cpu.taps import HookSink

        sums = {one.tap: _Products(one.columns) for one in inputs if not isinstance(one.of, ExpertMatMul)}
        squares = {one.tap: SquaresSink(one) for one in inputs if isinstance(one.of, ExpertMatMul)}
        sinks: Sinks = {**{tap: HookSink((total.add,)) for tap, total in sums.items()}, **squares}
        for _ in self._read(source, sinks):
            pass
        every = []
        for one in inputs:
            if one.tap in sums:
                moments = sums[one.tap].moments(tuple(one.names))
            else:
                total, rows = squares[one.tap].total(), squares[one.tap].rows[:, None]
                means = np.where(rows > 0, total / np.maximum(rows, 1), 1.0).astype(np.float32)
                moments = Moments(tuple(one.names), None, means)
            if not np.isfinite(moments.squares).all():
                raise GGUFError(
                    f"what {shown(moments.names[0])} is multiplied by is not finite: the file may be damaged "
                    "(ggufpy verify)"
                )
            every.append(moments)
        return every

    def advance(self, source: WeightSource) -> None:
        """The rows become what these layers leave."""
        for chunk, x in self._read(source, {}):
            self._states[chunk] = x

    def _read(self, source: WeightSource, sinks: Sinks) -> Iterator[tuple[int, Floats]]:
        """Every chunk, and what the layers leave of it: (n_ctx, width), there until the next."""
        from ggufpy.backends.cpu.model import Model, load_kernels
        from ggufpy.runtime.choice import right_kernels

        kernels = right_kernels(source, self._whole, self._options)
        load_kernels(source, self._plan, self._options, kernels)
        model = Model(source, self._plan, self._options, kernels)
        count, n_ctx = self._tokens.shape
        program = model.program(n_ctx)
        try:
            if sinks:
                program.rewrite(self._tapped, sinks)
            table = page_table(len(program.groups), pages_of(n_ctx))
            table[:] = np.arange(table.shape[1])
            first = self._plan.embed.weights
            for chunk in range(count):
                rows = Rows(self._tokens[chunk], 0, 0, table, model.bulk_rows)
                x = None if first else np.array(self._states[chunk])
                yield chunk, program.run([rows], x)[:n_ctx]
        finally:
            program.close()


class _Products:
    """Σ x xᵀ of rows as they come."""

    def __init__(self, columns: int) -> None:
        self._sum = np.zeros((columns, columns), np.float32)
        self._rows = 0

    def add(self, values: Floats, rows: TapRows) -> None:
        """values (rows, columns)."""
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found in the end
            self._sum += values.T @ values
        self._rows += len(values)

    def moments(self, names: tuple[str, ...]) -> Moments:
        """As means over the rows."""
        self._sum /= max(self._rows, 1)
        return Moments(names, self._sum, self._sum.diagonal()[None].copy())
