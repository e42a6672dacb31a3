"""Bit fields of blocks, taken apart eight bytes at a time.

Runs of bytes are moved as NumPy void items of the run's width: a strided copy of such items is several times
as fast as one of single bytes, and everything between the copies works on contiguous 64-bit words.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants.base import Bytes

Words = NDArray[np.uint64]


def spread(byte: int) -> np.uint64:
    """A word of eight times the same byte."""
    word: np.uint64 = np.uint64(byte * 0x0101010101010101)
    return word


def compact(field: NDArray[Any]) -> Bytes:
    """(..., w) elements of a record's member → a contiguous (..., w * itemsize) uint8 copy."""
    width = field.shape[-1] * field.dtype.itemsize
    return np.ascontiguousarray(field.view(f"V{width}")).view(np.uint8)


def planes(runs: Bytes, bits: int) -> Bytes:
    """(..., w) contiguous bytes, w a multiple of 8 → (..., 8 / bits * w) codes.

    Plane i, the w codes from i * w on, holds bits [i * bits, (i + 1) * bits) of each byte of its run.
    """
    width = runs.shape[-1]
    words = runs.view(np.uint64)
    out = np.empty((*runs.shape[:-1], 8 // bits, width), dtype=np.uint8)
    slots = out.view(f"V{width}")
    for i in range(8 // bits):
        plane = (words >> np.uint64(i * bits)) & spread((1 << bits) - 1)
        slots[..., i, :] = plane.view(f"V{width}")
    return out.reshape(*runs.shape[:-1], -1)


def joined(codes: Bytes, bits: int) -> Bytes:
    """(..., k) codes below 2^bits → (..., k * bits / 8) bytes: the way back from `planes`."""
    parts = np.split(codes, 8 // bits, axis=-1)
    out: Bytes = parts[0].copy()
    for i, part in enumerate(parts[1:], 1):
        out |= part << np.uint8(i * bits)
    return out


def bit_words(bits: Bytes) -> NDArray[np.uint32]:
    """(..., 32) of 0 or 1 → (...,) words, the first in the lowest bit: the way back from `bit_string`."""
    words: NDArray[np.uint32] = np.packbits(bits, axis=-1, bitorder="little").view("<u4")[..., 0]
    return words


def put_high(codes: Bytes, high: Bytes, shift: int) -> None:
    """In place: codes |= high << shift. Both contiguous and of one size, a multiple of 8.

    No bit may leave its byte.
    """
    words = codes.reshape(-1).view(np.uint64)
    words |= high.reshape(-1).view(np.uint64) << np.uint64(shift)


def bit_string(runs: Bytes) -> Bytes:
    """(..., w) contiguous bytes → (..., 8 * w) of 0 or 1, the lowest bit of each byte first."""
    return np.unpackbits(runs.reshape(-1), bitorder="little").reshape(*runs.shape[:-1], -1)


def shifted(values: NDArray[Any], shifts: Sequence[int], mask: int) -> NDArray[Any]:
    """(..., w) unsigned integers → (..., w * len(shifts)): each shifted right by each of `shifts`, masked."""
    steps = np.array(shifts, dtype=values.dtype)
    out: NDArray[Any] = (values[..., None] >> steps) & values.dtype.type(mask)
    return out.reshape(*values.shape[:-1], values.shape[-1] * len(shifts))


def remap(codes: Bytes, table: bytes) -> Bytes:
    """Every code replaced by its entry in `table` (256 bytes)."""
    return np.frombuffer(codes.tobytes().translate(table), dtype=np.uint8).reshape(codes.shape)


def code_table(values: Sequence[int], offset: int) -> bytes:
    """A table for `remap` that takes index i to values[i] + offset."""
    return bytes(value + offset for value in values).ljust(256, b"\0")


def index_table(values: Sequence[int], offset: int) -> bytes:
    """The way back from `code_table`: takes values[i] + offset to i, and what is none of them to 0."""
    table = bytearray(256)
    for i, value in enumerate(values):
        table[value + offset] = i
    return bytes(table)


@cache
def sign_masks() -> Words:
    """(256,): bit i of the index set makes byte i of the word 0xFF."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    masks: Words = (bits * np.uint8(255)).view(np.uint64)[:, 0]
    return masks


@cache
def even_signs() -> Bytes:
    """(128,) sign bytes: seven stored bits, and an eighth that makes the number of minus signs even."""
    index = np.arange(128, dtype=np.uint8)
    parity = np.unpackbits(index[:, None], axis=1).sum(axis=1, dtype=np.uint8) & np.uint8(1)
    signs: Bytes = index | (parity << np.uint8(7))
    return signs


def signed_codes(magnitudes: Words, signs: Bytes, offset: int) -> Bytes:
    """Words of eight magnitudes and their sign bytes → (..., 8 * w) codes offset ± magnitude.

    No byte carries into the next as long as every magnitude is at most `offset` and their sum at most 255.
    """
    minus = magnitudes & np.take(sign_masks(), signs)
    codes: Bytes = (spread(offset) + magnitudes - minus - minus).view(np.uint8)
    return codes
