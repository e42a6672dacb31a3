"""What happens to tensors between a checkpoint of Hugging Face and a GGUF file, both ways.

A change takes the rows of a rule's tensors on one side and gives those on the other, without reading any: orders of
rows, tensors split and joined, experts stacked. What goes by whole rows keeps blocks of quantised tensors as they are.
The numbers of a vector (one dimension) are ordered, split and joined as the rows of a matrix are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format.rows import (
    Columns,
    Joined,
    Mapped,
    Numbers,
    Picked,
    Rows,
    Shaped,
    Transposed,
    Window,
    rows_of,
)
from ggufpy.support.records import dataclass

Order = NDArray[np.int64]
Tensors = Sequence[Rows]
_ALIKE = 16  # orders that are kept: layers of a model have the same


class Change(Protocol):
    """Both directions. Raises GGUFError for shapes that it is not for."""

    def forward(self, tensors: Tensors) -> Tensors:
        """From a checkpoint's tensors to a GGUF file's."""

    def backward(self, tensors: Tensors) -> Tensors:
        """From a GGUF file's tensors to a checkpoint's."""


@dataclass(frozen=True)
class Same:
    """Nothing."""

    def forward(self, tensors: Tensors) -> Tensors:
        return tensors

    def backward(self, tensors: Tensors) -> Tensors:
        return tensors


SAME = Same()


@dataclass(frozen=True)
class Chain:
    """Changes one after the other."""

    changes: tuple[Change, ...]

    def forward(self, tensors: Tensors) -> Tensors:
        for change in self.changes:
            tensors = change.forward(tensors)
        return tensors

    def backward(self, tensors: Tensors) -> Tensors:
        for change in reversed(self.changes):
            tensors = change.backward(tensors)
        return tensors


def height(source: Rows) -> int:
    """Rows of a matrix, numbers of a vector."""
    return source.columns if len(source.shape) == 1 else rows_of(source.shape)


def ordered(source: Rows, order: Order) -> Rows:
    """Rows of a matrix, or numbers of a vector, in an order, which may leave some out."""
    return Columns(source, order) if len(source.shape) == 1 else Picked(source, order)


def inverse(order: Order) -> Order:
    """The order that undoes another."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return back


@lru_cache(_ALIKE)
def _paired(heads: int, rows: int) -> Order:
    """The order of `PairHalves`."""
    order: Order = np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return order


@lru_cache(_ALIKE)
def _gate_and_up(experts: int, half: int, interleaved: bool) -> tuple[Order, Order]:
    """Where the rows of gate are, and those of up, among experts · 2 · half rows."""
    row = np.arange(half)
    gate, up = (row * 2, row * 2 + 1) if interleaved else (row, row + half)
    first = np.arange(experts)[:, None] * (2 * half)
    return (first + gate).reshape(-1), (first + up).reshape(-1)


@lru_cache(_ALIKE)
def _both(experts: int, half: int, interleaved: bool) -> Order:
    """The way back: where each row of (experts, 2 · half) is among all rows of gate and then all of up."""
    place = np.arange(2 * experts * half).reshape(2, experts, half)
    order: Order = (place.transpose(1, 2, 0) if interleaved else place.transpose(1, 0, 2)).reshape(-1)
    return order


class Reordering:
    """A change of each of its tensors by an order of rows. Subclasses say which."""

    def order(self, rows: int) -> Order:
        """For each row of the GGUF tensor, the row of the checkpoint's that it is."""
        raise NotImplementedError

    def forward(self, tensors: Tensors) -> Tensors:
        return [ordered(tensor, self.order(height(tensor))) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        return [ordered(tensor, inverse(self.order(height(tensor)))) for tensor in tensors]


@dataclass(frozen=True)
class PairHalves(Reordering):
    """Rows of queries or keys whose rotary pairs are halves of a head (i, i + d/2) put side by side (2i, 2i + 1).

    With two heads of 4 rows, 0 to 7 become 0 2 1 3 4 6 5 7. llama.cpp's llama-like models turn neighbours.
    """

    heads: int

    def order(self, rows: int) -> Order:
        if rows % (2 * self.heads):
            raise GGUFError(f"{rows} rows are not {self.heads} heads of an even number of rows")
        return _paired(self.heads, rows)


@dataclass(frozen=True)
class Split:
    """One tensor of a checkpoint, several of the file: runs of rows, `sizes` of them, one after the other."""

    sizes: tuple[int, ...]

    def forward(self, tensors: Tensors) -> Tensors:
        (whole,) = tensors
        if height(whole) != sum(self.sizes):
            raise GGUFError(f"{height(whole)} rows cannot be split into {' + '.join(map(str, self.sizes))}")
        ends = np.cumsum(self.sizes)
        return [_run(whole, int(end) - size, size) for size, end in zip(self.sizes, ends, strict=True)]

    def backward(self, tensors: Tensors) -> Tensors:
        return [joined(tensors)]


@dataclass(frozen=True)
class Join:
    """Several tensors of a checkpoint, one of the file: their rows one after the other, so many of each."""

    sizes: tuple[int, ...]

    def forward(self, tensors: Tensors) -> Tensors:
        there = tuple(map(height, tensors))
        if there != self.sizes or len({min(len(tensor.shape), 2) for tensor in tensors}) > 1:
            raise GGUFError(f"tensors of {there} rows cannot be joined; those of {self.sizes} can")
        return [joined(tensors)]

    def backward(self, tensors: Tensors) -> Tensors:
        return Split(self.sizes).forward(tensors)


def _run(source: Rows, first: int, size: int) -> Rows:
    """Some rows of a matrix, or numbers of a vector."""
    if len(source.shape) == 1:
        return Columns(source, np.arange(first, first + size))
    return Window(source, first, (size, source.columns))


def joined(tensors: Tensors) -> Rows:
    """Matrices one under the other; vectors one behind the other."""
    if len(tensors[0].shape) == 1:
        return _Chained(tuple(tensors))
    return Joined(tensors, (sum(map(height, tensors)), tensors[0].columns))


@dataclass(frozen=True, eq=False)
class _Chained(Rows):
    """Vectors one behind the other, as F32."""

    parts: tuple[Rows, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.columns for part in self.parts),)

    @property
    def type(self) -> str:
        return "F32"

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        values = np.concatenate([part.floats(0, 1) for part in self.parts], axis=1)
        return np.ascontiguousarray(values, "<f4").view(np.uint8)[start:stop]


@dataclass(frozen=True)
class Stack:
    """Matrices (r, c), or vectors, of all experts, made one tensor (experts, r, c)."""

    def forward(self, tensors: Tensors) -> Tensors:
        shapes = {tensor.shape for tensor in tensors}
        if len(shapes) != 1:
            raise GGUFError(f"experts have different shapes: {sorted(shapes)[:3]}")
        return [Joined(tensors, (len(tensors), *tensors[0].shape))]

    def backward(self, tensors: Tensors) -> Tensors:
        (whole,) = tensors
        count, *rest = whole.shape
        step = math.prod(rest[:-1])
        return [Window(whole, i * step, tuple(rest)) for i in range(count)]


@dataclass(frozen=True)
class SplitEach:
    """(experts, 2r, c), the rows of gate and up of each expert, as two tensors (experts, r, c).

    Rows of gate come first, or alternate with those of up where they are `interleaved`.
    """

    interleaved: bool = False

    def forward(self, tensors: Tensors) -> Tensors:
        (whole,) = tensors
        if not 2 <= len(whole.shape) <= 3:
            raise GGUFError(f"a shape of {list(whole.shape)} is none of experts' gate and up")
        experts, both = whole.shape[:2]
        if both % 2:
            raise GGUFError(f"{both} rows of gate and up are not two of a size")
        half = both // 2
        if len(whole.shape) == 2:  # biases: (experts, 2r)
            return [Columns(whole, order) for order in _gate_and_up(1, half, self.interleaved)]
        shape = (experts, half, whole.columns)
        return [Shaped(Picked(whole, order), shape) for order in _gate_and_up(experts, half, self.interleaved)]

    def backward(self, tensors: Tensors) -> Tensors:
        gate, up = tensors
        experts, half = gate.shape[:2]
        if len(gate.shape) == 2:
            values = np.stack([gate.to_numpy(), up.to_numpy()], axis=2 if self.interleaved else 1)
            return [Numbers(np.ascontiguousarray(values.reshape(experts, -1)))]
        both = Joined([gate, up], (2, experts * half, gate.columns))
        order = _both(experts, half, self.interleaved)
        return [Shaped(Picked(both, order), (experts, 2 * half, gate.columns))]


@dataclass(frozen=True)
class Transpose:
    """Rows and columns exchanged, of each matrix: a `Conv1D` of GPT-2 has (in, out)."""

    def forward(self, tensors: Tensors) -> Tensors:
        return [tensor if len(tensor.shape) < 2 else _turned(tensor) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        return self.forward(tensors)


def _turned(source: Rows) -> Rows:
    """Matrices the other way round; what is turned already, as it was, with its blocks."""
    return source.source if isinstance(source, Transposed) else Transposed(source)


@dataclass(frozen=True)
class Plus:
    """A number added to each: norms of Gemma are kept as what they are beyond 1."""

    number: float

    def forward(self, tensors: Tensors) -> Tensors:
        return [Mapped(tensor, lambda x: x + np.float32(self.number)) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        return [Mapped(tensor, lambda x: x - np.float32(self.number)) for tensor in tensors]


@dataclass(frozen=True)
class Reshape:
    """Another shape over the same rows: `shape` in the file, `was` in the checkpoint."""

    shape: tuple[int, ...]
    was: tuple[int, ...]

    def forward(self, tensors: Tensors) -> Tensors:
        return [Shaped(tensor, self.shape) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        return [Shaped(tensor, self.was) for tensor in tensors]
