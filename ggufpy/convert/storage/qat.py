"""Checkpoints of floats that were trained for Q4_0: each run of 32 weights is d · q, rounded to the checkpoint's dtype.

In: no quantisation in config.json; matrices of BF16 or F16 whose runs of 32 are d · q with q from -8 to 7 and d in f16,
as Gemma's "qat-q4_0-unquantized" have them. A few rows of a few matrices are looked at first, and where they are not
so, this is not the format, which is all that it costs. Out: the same tensors. Where every run of a matrix is so, which
is tried on all of it before it is said, `exact` is Q4_0: its numbers, rounded to the checkpoint's dtype, are those that
are stored.

How d is found: the largest of a run is d · n for some n from -8 to 7. For each n in turn, q are the others over d to
the nearest whole, and the d that is best for them all, by least squares, is a step or two of f16 from the right one, as
roundings of many weights are averaged. Any d is right that gives the run's bits when d · q is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Bytes, Floats, Rows, Single, decoded, rows_of
from ggufpy.support.records import dataclass

from ._blocks import BLOCK, nibbles
from ._quantised import InBlocks
from ._settings import Tensors

NAME = "floats of Q4_0"
_SAMPLED, _ROWS = 6, 4  # matrices that are looked at, and rows of each
_PIECE = 1 << 18  # weights that are looked at together
_TRIES = (-8, 7, -7, 6, -6, 5, -5, 4, -4, 3, -3, 2, -2, 1, -1)  # what the largest weight may be, likeliest first
_STEPS = (0, 1, -1, 2, -2, 3, -3, 4, -4)  # of f16, that d may be away from its best guess
_DTYPES = ("BF16", "F16")


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
    return matrix and stored.dtype in _DTYPES and stored.columns % BLOCK == 0


def _sampled(stored: Stored) -> bool:
    """Whether a few rows, spread over the matrix, are so, and are not all 0."""
    count = rows_of(stored.shape)
    some = np.unique(np.linspace(0, count - 1, _ROWS).astype(np.int64))
    raw = np.concatenate([stored.rows(int(i), int(i) + 1) for i in some])
    return bool(raw.any()) and _blocks(raw, stored.dtype) is not None


def _blocks(raw: Bytes, dtype: str) -> Bytes | None:
    """Rows of floats as rows of Q4_0, or None where a run of 32 is not so."""
    bits = raw.view("<u2").reshape(-1, BLOCK)
    x = decoded(raw, dtype).reshape(-1, BLOCK)
    at = np.abs(x).argmax(axis=1)
    largest = np.take_along_axis(x, at[:, None], 1)[:, 0]
    if not np.all(np.isfinite(largest)):
        return None
    d, q = np.zeros(len(x), np.float16), np.zeros(x.shape, np.int8)
    left = np.flatnonzero(largest)
    for n in _TRIES:
        if not len(left):
            break
        if n == _TRIES[4] and len(left) > len(x) // 2:
            return None  # nearly all runs have a number of the outer ones
        some = slice(None) if len(left) == len(x) else left
        known, scale, codes = _with_largest(x[some], bits[some], largest[some] / np.float32(n), dtype)
        d[left[known]], q[left[known]] = scale[known], codes[known]
        left = left[~known]
    if len(left):
        return None
    parts = (q + np.int8(8)).view(np.uint8).reshape(len(raw), -1, BLOCK)
    scales = d.astype("<f2").view(np.uint8).reshape(len(raw), -1, 2)
    return np.concatenate([scales, nibbles(parts)], axis=2).reshape(len(raw), -1)


Known = tuple[NDArray[np.bool_], NDArray[np.float16], NDArray[np.float32]]


def _with_largest(x: Floats, bits: NDArray[np.uint16], guess: Floats, dtype: str) -> Known:
    """Of runs (m, 32), with a guess of d: which are d · q for some d of f16; that d, and q."""
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        q: Floats = x * np.reciprocal(guess)[:, None]
        np.rint(q, out=q)
        best = np.einsum("ij,ij->i", x, q) / np.einsum("ij,ij->i", q, q)
        middle = best.astype(np.float16)
        known = np.zeros(len(x), np.bool_)
        d = np.zeros(len(x), np.float16)
        left = np.flatnonzero((q.max(axis=1) <= 7) & (q.min(axis=1) >= -8) & np.isfinite(middle))
        for steps in _STEPS:
            if not len(left):
                break
            some = slice(None) if len(left) == len(x) else left
            candidate = _stepped(middle[some], steps)
            product: Floats = candidate.astype(np.float32)[:, None] * q[some]
            fits = np.all(_rounded(product, dtype) == _unsigned(bits[some]), axis=1)
            d[left[fits]], known[left[fits]] = candidate[fits], True
            left = left[~fits]
    return known, d, q


def _stepped(x: NDArray[np.float16], steps: int) -> NDArray[np.float16]:
    """Numbers some steps of f16 further away from 0, or nearer to it."""
    stepped: NDArray[np.float16] = (x.view(np.uint16) + np.uint16(steps % (1 << 16))).view(np.float16)
    return stepped


def _unsigned(bits: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Bits of 16-bit floats without the sign of 0."""
    return np.where(bits == 0x8000, np.uint16(0), bits)


def _rounded(x: Floats, dtype: str) -> NDArray[np.uint16]:
    """The bits of float32 rounded to a float of 16 bits, to nearest even, without the sign of 0. Changes x."""
    x += np.float32(0)  # -0 becomes 0
    if dtype == "F16":
        return x.astype(np.float16).view(np.uint16)
    whole: NDArray[np.uint32] = x.view(np.uint32)
    whole += ((whole >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    upper: NDArray[np.uint16] = (whole >> np.uint32(16)).astype(np.uint16)
    return upper


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
class Gridded(InBlocks):
    """The blocks of Q4_0 that such a tensor has."""

    kind = "Q4_0"

    def rows(self, start: int, stop: int) -> Bytes:
        made = _blocks(self.source.rows(start, stop), self.source.type)
        if made is None:
            raise GGUFError(f"rows {start} to {stop} changed while they were read")
        return made
