"""Parts of which blocks of 32 weights are put together: numbers in f16, low and fifth bits of codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.format.rows import Bytes, Floats

BLOCK = 32


def halves(x: Floats) -> Bytes:
    """A number of each block, (n, blocks), rounded to f16: (n, blocks, 2)."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(x, "<f2").view(np.uint8).reshape(*x.shape, 2)


def fit_halves(x: NDArray[np.floating[Any]]) -> bool:
    """Whether all numbers, of any width, are finite and the same in f16."""
    with np.errstate(over="ignore", under="ignore"):
        return bool(np.all(np.isfinite(x)) and np.array_equal(x.astype(np.float16).astype(x.dtype), x))


def nibbles(q: NDArray[np.uint8]) -> Bytes:
    """The low four bits of codes (n, blocks, 2 c): byte j has code j below and code j + c above."""
    half = q.shape[2] // 2
    low: Bytes = (q[:, :, :half] & np.uint8(15)) | (q[:, :, half:] << np.uint8(4))
    return low


def fifth_bits(q: NDArray[np.uint8]) -> Bytes:
    """Bit 4 of codes (n, blocks, 32), as four bytes."""
    return np.packbits((q >> np.uint8(4)) & np.uint8(1), axis=2, bitorder="little")
