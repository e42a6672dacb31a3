"""Codes of 1 to 8 bits out of words of 32: code i has the bits from i · bits on, from the lowest of the first word on.

For 2, 4 and 8 bits none crosses the end of a word. 3 bits, in three words for 32 codes, are the same stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Words = NDArray[Any]  # of 32 bits
BLOCK = 32  # codes that fill whole words, whatever their bits


def unpacked(words: Words, bits: int) -> Codes:
    """Words (n, w) as codes (n, w · 32 // bits)."""
    n, w = words.shape
    raw = np.ascontiguousarray(words, "<u4").view(np.uint8)
    count = w * 32 // bits
    if bits == 8:
        return raw
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        parts: Codes = (raw[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
        return parts.reshape(n, count)
    single = np.unpackbits(raw, axis=1, bitorder="little")[:, : count * bits].reshape(n, count, bits)
    return np.packbits(single, axis=2, bitorder="little").reshape(n, count)


def column_range(words: int, bits: int, start: int, stop: int) -> tuple[int, int]:
    """The words of a row of `words` that have its codes `start` to `stop`, whole blocks of codes."""
    return start // BLOCK * bits, min(-(-stop // BLOCK) * bits, words)


def some_columns(words: Words, bits: int, start: int, stop: int, order: NDArray[np.int64] | None = None) -> Codes:
    """Codes `start` to `stop` of each row of words (n, w), (n, stop - start).

    `order` says where each of 8 codes in turn lies among the 8 that are stored together.
    """
    first, last = column_range(words.shape[1], bits, start, stop)
    codes = unpacked(words[:, first:last], bits)
    if order is not None:
        codes = codes.reshape(len(codes), -1, len(order))[:, :, order].reshape(len(codes), -1)
    skipped = start // BLOCK * BLOCK
    return codes[:, start - skipped : stop - skipped]
