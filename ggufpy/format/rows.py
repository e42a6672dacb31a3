"""Tensors that are not there yet: shape, type, and rows that are made when they are asked for.

A row is a run of the last dimension; the rows of a tensor of any shape are counted through, so (experts, rows, columns)
has experts · rows of them. `rows(start, stop)` gives them as they would lie in a little-endian file, uint8
(stop - start, bytes a row). Converting stands on these: a matrix of a checkpoint is decoded, put in order and written
a few rows at a time, on several threads at once, and never whole.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format import blocktypes
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
FLOATS = ("F32", "F16", "BF16", "F64")
_WORDS = {"F32": "<u4", "F16": "<u2", "BF16": "<u2", "F64": "<u8"}  # as wide as a number
PIECE = 1 << 20  # numbers that are looked at together where a whole tensor is gone through


def rows_of(shape: tuple[int, ...]) -> int:
    """Rows of all matrices of a tensor together."""
    return math.prod(shape[:-1])


class Rows(ABC):
    """A tensor by its rows. Whoever reads may do so from several threads."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Dimensions in NumPy order."""

    @property
    @abstractmethod
    def type(self) -> str:
        """The name of the type that `rows` are in."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop`, uint8 (stop - start, bytes a row), little-endian."""

    def release(self) -> None:  # noqa: B027
        """Says that what was read is not wanted for a while: memory that can be read again may go."""

    @property
    def quantised(self) -> bool:
        """Whether its storage has fewer bits than the numbers that it stands for."""
        return False

    @property
    def exact(self) -> Rows | None:
        """The same numbers in a block type of GGUF, where they fit one without loss."""
        return None

    @property
    def near(self) -> Rows | None:
        """Numbers next to these in a block type of GGUF: what their storage is closest to."""
        return None

    @property
    def columns(self) -> int:
        """Numbers in a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return blocktypes.total_bytes(blocktypes.by_name(self.type), self.shape)

    def floats(self, start: int, stop: int) -> Floats:
        """Rows decoded, float32 (stop - start, columns)."""
        return decoded(self.rows(start, stop), self.type)

    def to_numpy(self) -> Floats:
        """All numbers, decoded, of `shape`: for small ones."""
        return self.floats(0, rows_of(self.shape)).reshape(self.shape)


def decoded(raw: Bytes, type_name: str) -> Floats:
    """Rows of any type of floats or blocks as float32, (rows, columns)."""
    if type_name == "BF16":
        return of_bf16(raw.view("<u2"))
    if type_name in FLOATS:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused when written
            return raw.view({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[type_name]).astype(np.float32)
    from ggufpy import quants

    return quants.dequantize(raw, type_name)


def of_bf16(bits: NDArray[np.uint16]) -> Floats:
    """Bits of bfloat16 as float32, of the same shape."""
    wide: Floats = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def plain_bytes(x: NDArray[Any]) -> Bytes:
    """Numbers (rows, columns) as the bytes of rows."""
    little = np.ascontiguousarray(x, x.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(x), x.shape[1] * x.itemsize)


@dataclass(frozen=True, eq=False)
class Numbers(Rows):
    """An array in memory, of a dtype that GGUF has."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def type(self) -> str:
        return blocktypes.PLAIN_DTYPE[self.array.dtype].name

    def rows(self, start: int, stop: int) -> Bytes:
        return plain_bytes(self.array.reshape(-1, self.columns)[start:stop])


@dataclass(frozen=True, eq=False)
class Single(Rows):
    """What changes numbers of one other tensor, or their order."""

    source: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def type(self) -> str:
        return self.source.type

    @property
    def quantised(self) -> bool:
        return self.source.quantised

    def release(self) -> None:
        self.source.release()


@dataclass(frozen=True, eq=False)
class Arranged(Single):
    """Whole rows of another tensor, arranged otherwise: those of its blocks are, too."""

    @property
    def exact(self) -> Rows | None:
        return self._of(self.source.exact)

    @property
    def near(self) -> Rows | None:
        return self._of(self.source.near)

    def _of(self, source: Rows | None) -> Rows | None:
        return None if source is None else replace(self, source=source)


@dataclass(frozen=True, eq=False)
class Picked(Arranged):
    """Rows of another tensor in the order of their numbers `order`; all other dimensions are folded into rows."""

    order: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.order), self.source.columns

    def rows(self, start: int, stop: int) -> Bytes:
        order = self.order[start:stop]
        low, high = int(order.min()), int(order.max()) + 1
        if high - low <= 2 * len(order):
            return self.source.rows(low, high)[order - low]
        cuts = np.flatnonzero(np.diff(order) != 1) + 1
        runs = np.split(order, cuts)
        return np.concatenate([self.source.rows(int(run[0]), int(run[-1]) + 1) for run in runs])


@dataclass(frozen=True, eq=False)
class Shaped(Arranged):
    """The same rows under another shape, whose last dimension is as it was."""

    new_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.new_shape[-1:] != self.source.shape[-1:] or math.prod(self.new_shape) != math.prod(self.source.shape):
            raise GGUFError(f"a tensor of shape {self.source.shape} cannot be taken as {self.new_shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.new_shape

    def rows(self, start: int, stop: int) -> Bytes:
        return self.source.rows(start, stop)


@dataclass(frozen=True, eq=False)
class Window(Arranged):
    """Rows `first` to `first` + the rows of `new_shape` of another tensor."""

    first: int
    new_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.new_shape

    def rows(self, start: int, stop: int) -> Bytes:
        return self.source.rows(self.first + start, self.first + stop)


class Joined(Rows):
    """Rows of several tensors of one width, one after the other. Where their types differ, they become F32."""

    def __init__(self, parts: Sequence[Rows], shape: tuple[int, ...]) -> None:
        if len({part.columns for part in parts}) != 1 or sum(rows_of(part.shape) for part in parts) != rows_of(shape):
            raise GGUFError(f"tensors of shapes {[part.shape for part in parts[:3]]} cannot be joined to {shape}")
        self._alike = len({part.type for part in parts}) == 1
        self._parts = [part if self._alike or part.type == "F32" else Plain(part, "F32") for part in parts]
        self._shape = shape
        self._ends = np.cumsum([rows_of(part.shape) for part in parts])

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def type(self) -> str:
        return self._parts[0].type

    @property
    def quantised(self) -> bool:
        return any(part.quantised for part in self._parts)

    def rows(self, start: int, stop: int) -> Bytes:
        first = int(np.searchsorted(self._ends, start, "right"))
        pieces = []
        for i in range(first, len(self._parts)):
            before = int(self._ends[i - 1]) if i else 0
            if before >= stop:
                break
            pieces.append(self._parts[i].rows(max(start - before, 0), min(stop, int(self._ends[i])) - before))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def release(self) -> None:
        for part in self._parts:
            part.release()

    @property
    def exact(self) -> Rows | None:
        return self._as([part.exact for part in self._parts])

    @property
    def near(self) -> Rows | None:
        return self._as([part.near for part in self._parts])

    def _as(self, parts: Sequence[Rows | None]) -> Rows | None:
        there = [part for part in parts if part is not None]
        if len(there) != len(parts) or len({part.type for part in there}) != 1:
            return None
        return Joined(there, self._shape)


@dataclass(frozen=True, eq=False)
class Plain(Single):
    """The numbers of another tensor in a float type: "F32", "F16" or "BF16", rounded to nearest even."""

    to: str

    @property
    def type(self) -> str:
        return self.to

    def rows(self, start: int, stop: int) -> Bytes:
        raw = self.source.rows(start, stop)
        return raw if self.source.type == self.to else encoded(decoded(raw, self.source.type), self.to)


@dataclass(frozen=True, eq=False)
class Opened(Plain):
    """As `Plain`, for what is wanted as floats even where it is stored in fewer bits: it has no blocks to keep."""

    @property
    def quantised(self) -> bool:
        return False


def encoded(x: Floats, type_name: str) -> Bytes:
    """float32 (rows, columns) as rows of a float type."""
    if type_name == "F32":
        return plain_bytes(x)
    from ggufpy import quants

    return quants.quantize(x, type_name).reshape(len(x), -1)


@dataclass(frozen=True, eq=False)
class Mapped(Single):
    """f(numbers) by element or by row: float32 (rows, columns) in and out."""

    function: Callable[[Floats], Floats]

    @property
    def type(self) -> str:
        return "F32"

    def rows(self, start: int, stop: int) -> Bytes:
        return plain_bytes(self.function(self.source.floats(start, stop)))


@dataclass(frozen=True, eq=False)
class Scattered(Single):
    """What takes numbers out of their rows: those in blocks become F32."""

    @property
    def type(self) -> str:
        return self.source.type if self.source.type in FLOATS else "F32"

    def words(self, start: int, stop: int) -> NDArray[Any]:
        """Rows of the source, each number as an unsigned one of as many bits, (stop - start, columns)."""
        return Plain(self.source, self.type).rows(start, stop).view(_WORDS[self.type])


@dataclass(frozen=True, eq=False)
class Transposed(Scattered):
    """Rows and columns of each matrix exchanged, (..., r, c) → (..., c, r). Reading a row reads a whole matrix."""

    @property
    def shape(self) -> tuple[int, ...]:
        *outer, r, c = self.source.shape
        return (*outer, c, r)

    def rows(self, start: int, stop: int) -> Bytes:
        height = self.shape[-2]
        pieces = []
        while start < stop:
            matrix, first = divmod(start, height)
            last = min(first + stop - start, height)
            pieces.append(self._columns(matrix, first, last))
            start += last - first
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]

    def _columns(self, matrix: int, first: int, last: int) -> Bytes:
        """Columns `first` to `last` of one matrix of the source, as rows."""
        r, c = self.source.shape[-2:]
        out: NDArray[Any] = np.empty((last - first, r), _WORDS[self.type])
        step = max(PIECE // max(c, 1), 1)
        for row in range(0, r, step):
            end = min(row + step, r)
            out[:, row:end] = self.words(matrix * r + row, matrix * r + end)[:, first:last].T
        return plain_bytes(out)


@dataclass(frozen=True, eq=False)
class Columns(Scattered):
    """Columns of another tensor in the order of their numbers `order`."""

    order: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.source.shape[:-1], len(self.order))

    def rows(self, start: int, stop: int) -> Bytes:
        return plain_bytes(self.words(start, stop)[:, self.order])


class NamedRows(Single):
    """Rows under a name: what quantising and plans take for a tensor of a file."""

    def __init__(self, name: str, rows: Rows) -> None:
        super().__init__(rows)
        self.name = name

    def rows(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop`. Raises GGUFError, with the tensor's name, for what cannot be read."""
        try:
            return self.source.rows(start, stop)
        except GGUFError as e:
            raise GGUFError(f"tensor {shown(self.name)}: {e}") from None

    def little(self) -> Bytes:
        """All rows, uint8 (..., bytes a row)."""
        return self.rows(0, rows_of(self.shape)).reshape(*self.shape[:-1], -1)
