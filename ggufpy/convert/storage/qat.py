"""Checkpoints of floats that were trained for Q4_0: each run of 32 weights is d · q, rounded to the checkpoint's dtype.

In: no quantisation in config.json; matrices of BF16 or F16 whose runs of 32 are d · q with q from -8 to 7 and d in f16,
as Gemma's "qat-q4_0-unquantized" have them. A few rows of a few matrices are looked at first, and where they are not
so, this is not the format, which is all that it costs. Out: the same tensors. Where every run of a matrix is so, which
is tried on all of it before it is said, `exact` is Q4_0: its numbers, rounded to the checkpoint's dtype, are those that
are stored.

How d is found: the largest of a run is d · n for some n from -8 to 7. For each n in turn, q are the others over d to
the nearest whole, and each weight says within what bounds d is, as what was rounded may have been half a step away. A d
of f16 within all bounds is right if rounding d · q gives the run's bits, which is what is tried in the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Bytes, Floats, Rows, Single, decoded, encoded, rows_of

from ._blocks import BLOCK, halves, nibbles
from ._settings import Tensors

NAME = "floats of Q4_0"
_SAMPLED, _ROWS = 6, 4  # matrices that are looked at, and rows of each
_PIECE = 1 << 18  # weights that are looked at together
_TRIES = (-8, 7, -7, 6, -6, 5, -5, 4, -4, 3, -3, 2, -2, 1, -1)  # what the largest weight may be, likeliest first
_HALF_STEPS = {"BF16": 2.0**-8, "F16": 2.0**-11}  # of a number, at most, that rounding moved it by
_LEAST = {"BF16": 0.0, "F16": 2.0**-25}


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Whether most of a few matrices are so in the rows that are looked at."""
    if config.get("quantization_config") or config.get("quantization"):
        return False
    some = [stored for stored in tensors.values() if _may_be(stored)]
    some = some[:: max(len(some) // _SAMPLED, 1)][:_SAMPLED]
    return bool(some) and sum(map(_sampled, some)) * 2 > len(some)


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The tensors, of which matrices know their blocks if they are so."""
    made: dict[str, Rows] = dict(tensors)
    return made | {name: OnGrid(one) for name, one in tensors.items() if _may_be(one) and _sampled(one)}


def _may_be(stored: Stored) -> bool:
    matrix = len(stored.shape) in (2, 3) and stored.size > 0
    return matrix and stored.dtype in _HALF_STEPS and stored.columns % BLOCK == 0


def _sampled(stored: Stored) -> bool:
    """Whether a few rows, spread over the matrix, are so, and are not all 0."""
    count = rows_of(stored.shape)
    some = np.unique(np.linspace(0, count - 1, _ROWS).astype(np.int64))
    raw = np.concatenate([stored.rows(int(i), int(i) + 1) for i in some])
    return bool(raw.any()) and _blocks(raw, stored.dtype) is not None


def _blocks(raw: Bytes, dtype: str) -> Bytes | None:
    """Rows of floats as rows of Q4_0, or None where a run of 32 is not so."""
    x = decoded(raw, dtype).reshape(-1, BLOCK)
    d, q = np.zeros(len(x), np.float32), np.zeros(x.shape, np.int8)
    left = np.flatnonzero(x.any(axis=1))
    if not np.all(np.isfinite(x)):
        return None
    for n in _TRIES:
        if not len(left):
            break
        found, scale, codes = _with_largest(x[left], n, dtype)
        d[left[found]], q[left[found]] = scale[found], codes[found]
        left = left[~found]
        if n == _TRIES[4] and len(left) > len(x) // 2:
            return None  # nearly all runs have a number of the outer ones
    if len(left):
        return None
    parts = (q + np.int8(8)).view(np.uint8).reshape(len(raw), -1, BLOCK)
    return np.concatenate([halves(d.reshape(len(raw), -1)), nibbles(parts)], axis=2).reshape(len(raw), -1)


def _with_largest(x: Floats, n: int, dtype: str) -> tuple[NDArray[np.bool_], Floats, NDArray[np.int8]]:
    """Of runs (m, 32): which are d · q if their largest is d · n; d in f16, and q."""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], 1)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        q = np.clip(np.rint(x / (largest / n)), -8, 7)
        margin = np.abs(x) * np.float32(_HALF_STEPS[dtype]) + np.float32(_LEAST[dtype])
        middle, around = x / q, margin / np.abs(q)
        low = np.where(q != 0, middle - around, -np.inf).max(axis=1)
        high = np.where(q != 0, middle + around, np.inf).min(axis=1)
        found = np.zeros(len(x), np.bool_)
        d = np.zeros(len(x), np.float32)
        for candidate in _candidates(low, high):
            product = candidate[:, None] * q
            same = encoded(product, dtype).view("<u2") == encoded(x, dtype).view("<u2")
            fits = np.all(same | ((x == 0) & (product == 0)), axis=1) & ~found
            d[fits], found = candidate[fits], found | fits
    return found, d, q.astype(np.int8)


def _candidates(low: Floats, high: Floats) -> list[Floats]:
    """Numbers of f16 that may be within bounds: next to their middle, and to both."""
    middle = ((low + high) / 2).astype(np.float16)
    made = [middle, np.nextafter(middle, np.float16(np.inf)), np.nextafter(middle, np.float16(-np.inf))]
    return [half.astype(np.float32) for half in made]


@dataclass(frozen=True, eq=False)
class OnGrid(Single):
    """A tensor of floats that is taken for one of Q4_0."""

    @property
    def quantised(self) -> bool:
        return self.exact is not None

    def rows(self, start: int, stop: int) -> Bytes:
        return self.source.rows(start, stop)

    @cached_property
    def _whole(self) -> bool:
        """Whether all of it is so."""
        count, step = rows_of(self.shape), max(_PIECE // self.columns, 1)
        for start in range(0, count, step):
            if _blocks(self.source.rows(start, min(start + step, count)), self.type) is None:
                return False
        self.source.release()
        return True

    @property
    def exact(self) -> Rows | None:
        return Gridded(self.source) if self._whole else None


@dataclass(frozen=True, eq=False)
class Gridded(Single):
    """The blocks of Q4_0 that such a tensor has."""

    @property
    def type(self) -> str:
        return "Q4_0"

    @property
    def quantised(self) -> bool:
        return True

    def rows(self, start: int, stop: int) -> Bytes:
        made = _blocks(self.source.rows(start, stop), self.source.type)
        if made is None:
            raise GGUFError(f"rows {start} to {stop} changed while they were read")
        return made
