"""Weights of 8 bits, floats or whole numbers, with a scale for each block of rows and columns.

w = (code - zero) · s in float32: exact but for the product's one rounding. Libraries that compute in bf16 have that
rounded once more. Scales may be of any float type, or powers of two (E8M0, also where it is stored as plain bytes).

Whole numbers are Q8_0 with the same codes, without loss where scales fit f16. Floats whose scales are powers of two fit
BF16 without loss; other ones are next to what Q8_0 makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.convert.safetensors import Stored, floats_of_eight
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Bytes, Floats, Plain, Rows, of_bf16
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

from ._blocks import BLOCK, fit_halves, halves
from ._quantised import Decoded, InBlocks

EIGHT = ("F8_E4M3", "F8_E5M2")
EXPONENTS = ("F8_E8M0", "U8")
SCALES = ("F32", "BF16", "F16", *EXPONENTS)
# Scales (powers of two) with which every 8-bit float is one of bfloat16: its least bit stays above 2^-133.
_POWERS = {"F8_E4M3": (2.0**-124, 2.0**119), "F8_E5M2": (2.0**-117, 2.0**112)}


@cache
def powers() -> Floats:
    """(256,) of E8M0: 2 to the power e - 127; 255 is NaN."""
    table: Floats = np.ldexp(np.float32(1), np.arange(256, dtype=np.int32) - 127)
    table[255] = np.nan
    return table


@cache
def eights(dtype: str) -> Floats:
    """(256,) of an 8-bit float."""
    return floats_of_eight(dtype)


def _looked_up(table: Floats, codes: NDArray[Any]) -> Floats:
    values: Floats = table[codes]
    return values


def wide(array: NDArray[Any], dtype: str) -> Floats:
    """Numbers as they are stored, of any dtype of scales, as float32 of the same shape."""
    if dtype in EXPONENTS:
        return _looked_up(powers(), array)
    if dtype in EIGHT:
        return _looked_up(eights(dtype), array)
    if dtype == "BF16":
        return of_bf16(array)
    return array.astype(np.float32)


def all_of(stored: Stored) -> Iterator[Floats]:
    """All numbers of a tensor as float32, some at a time."""
    for some in stored.pieces():
        yield wide(some, stored.dtype)


@dataclass(frozen=True, eq=False)
class Grid:
    """A number for each block of `block` rows and columns of matrices `size` (count, rows, columns).

    `counts` (count or 1, blocks of rows, blocks of columns) are how many numbers there are.
    """

    stored: Stored
    size: tuple[int, int, int]
    counts: tuple[int, int, int]
    block: tuple[int, int]

    def rows(self, start: int, stop: int) -> Floats:
        """The numbers of each row, float32 (stop - start, blocks of columns)."""
        matrix, row = np.divmod(np.arange(start, stop), self.size[1])
        at = (matrix if self.counts[0] > 1 else 0) * self.counts[1] + row // self.block[0]
        low, high = int(at.min()), int(at.max()) + 1
        some = self.stored.array.reshape(-1, self.counts[2])[low:high]
        values: Floats = wide(some, self.stored.dtype)[at - low]
        return values

    def by_column(self, start: int, stop: int) -> Floats:
        """(stop - start, columns), or (stop - start, 1) where a row has one number."""
        values = self.rows(start, stop)
        if self.counts[2] == 1:
            return values
        return np.repeat(values, self.block[1], axis=1)[:, : self.size[2]]

    def by_run(self, start: int, stop: int) -> Floats:
        """Those of each run of 32 columns, (stop - start, columns / 32)."""
        return self.rows(start, stop)[:, np.arange(0, self.size[2], BLOCK) // self.block[1]]

    @property
    def runs(self) -> bool:
        """Whether all 32 columns of a run have the same number."""
        return self.size[2] % BLOCK == 0 and (self.counts[2] == 1 or self.block[1] % BLOCK == 0)


def grid(stored: Stored, shape: tuple[int, ...], blocks: Sequence[tuple[int, int]] = ()) -> Grid:
    """The scales of a tensor of `shape`: one, one a row, or one a block. `blocks` are sizes that config.json names.

    Dimensions that scales lack are the last ones, or the rows of a stack. Raises GGUFError where they do not fit the
    tensor, or fit both rows and columns.
    """
    said = stored.shape if math.prod(stored.shape) != 1 else ()
    if len(said) > len(shape) > 0 and said[len(shape) :] == (1,) * (len(said) - len(shape)):
        said = said[: len(shape)]
    wrong = GGUFError(
        f"tensor {shown(stored.name)} has the shape {list(stored.shape)}, which are no scales for {list(shape)}"
    )
    if stored.dtype not in SCALES:
        raise GGUFError(f"tensor {shown(stored.name)} is {stored.dtype}; scales are {', '.join(SCALES)}")
    if not 2 <= len(shape) <= 3 or 0 in shape or len(said) > len(shape):
        raise wrong
    outer, rows, columns = (1, *shape) if len(shape) == 2 else shape
    if len(shape) == 3 and len(said) == 2 and said[1] != 1:  # of rows or columns of each matrix
        if rows == columns or said[1] not in (rows, columns):
            raise wrong
        said = said if said[1] == rows else (said[0], 1, columns)
    padded = (*said, *(1,) * (len(shape) - len(said)))
    a, b, c = (1, *padded) if len(shape) == 2 else padded
    if a not in (1, outer):
        raise wrong
    for height, width in blocks:
        if (b, c) == (-(-rows // height), -(-columns // width)):
            return Grid(stored, (outer, rows, columns), (a, b, c), (height, width))
    if not b or not c or rows % b or columns % c:
        raise wrong
    return Grid(stored, (outer, rows, columns), (a, b, c), (rows // b, columns // c))


@dataclass(frozen=True, eq=False)
class Scaled(Decoded):
    """A tensor (..., rows, columns) of 8-bit floats or whole numbers with its scales, and zeros where it has some."""

    codes: Stored
    scale: Grid
    zeros: Grid | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def parts(self) -> Iterator[Stored]:
        yield self.codes
        yield self.scale.stored
        if self.zeros is not None:
            yield self.zeros.stored

    def raw(self, start: int, stop: int) -> NDArray[Any]:
        """Codes as they are stored, (stop - start, columns)."""
        some: NDArray[Any] = self.codes.array.reshape(-1, self.columns)[start:stop]
        return some

    def floats(self, start: int, stop: int) -> Floats:
        raw = self.raw(start, stop)
        q = eights(self.codes.dtype)[raw] if self.codes.dtype in EIGHT else raw.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused when it is written
            if self.zeros is not None:
                q -= self.zeros.by_column(start, stop)
            q *= self.scale.by_column(start, stop)
        return q

    @cached_property
    def _fits(self) -> bool:
        """Whether scales alone let the same numbers be in the type that `exact` has."""
        if self.codes.dtype in EIGHT:
            low, high = _POWERS[self.codes.dtype]
            return all(_powers_within(s, low, high) for s in all_of(self.scale.stored))
        return self._whole and all(fit_halves(s) for s in all_of(self.scale.stored))

    @cached_property
    def _whole(self) -> bool:
        """Whether codes are those of Q8_0."""
        if self.codes.dtype != "I8" or not self.scale.runs:
            return False
        return self.zeros is None or not any(z.any() for z in all_of(self.zeros.stored))

    @property
    def exact(self) -> Rows | None:
        if not self._fits:
            return None
        return Plain(self, "BF16") if self.codes.dtype in EIGHT else Eights(self)

    @property
    def near(self) -> Rows | None:
        if self._whole:
            return Eights(self)
        return self.in_eights


def _powers_within(s: Floats, low: float, high: float) -> bool:
    """Whether all are powers of two within two bounds."""
    mantissa, _ = np.frexp(s)
    return bool(np.all(np.abs(mantissa) == 0.5) and np.all(np.abs(s) >= low) and np.all(np.abs(s) <= high))


@dataclass(frozen=True, eq=False)
class Eights(InBlocks):
    """Whole numbers of 8 bits as Q8_0, with scales rounded to f16."""

    source: Scaled
    kind = "Q8_0"

    def rows(self, start: int, stop: int) -> Bytes:
        q = np.ascontiguousarray(self.source.raw(start, stop)).view(np.uint8).reshape(stop - start, -1, BLOCK)
        d = halves(self.source.scale.by_run(start, stop))
        return np.concatenate([d, q], axis=2).reshape(stop - start, -1)


def scaled(codes: Stored, scale: Stored, blocks: Sequence[tuple[int, int]] = (), zeros: Stored | None = None) -> Scaled:
    """A tensor of 8 bits with its scales. GGUFError where these do not fit."""
    if codes.dtype not in (*EIGHT, "I8"):
        raise GGUFError(f"tensor {shown(codes.name)} is {codes.dtype}, which are no weights of 8 bits")
    return Scaled(codes, grid(scale, codes.shape, blocks), None if zeros is None else zero_grid(zeros, codes, blocks))


def zero_grid(zeros: Stored, codes: Stored, blocks: Sequence[tuple[int, int]]) -> Grid:
    """Zeros of 8 bits, laid out as scales are."""
    if zeros.dtype != "I8" or codes.dtype != "I8":
        raise GGUFError(f"tensor {shown(zeros.name)} is {zeros.dtype} of codes {codes.dtype}; both must be I8")
    as_floats = Stored(zeros.name, "F32", zeros.shape, np.ascontiguousarray(zeros.array, np.float32))
    return grid(as_floats, codes.shape, blocks)
