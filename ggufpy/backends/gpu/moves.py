"""Bits of the commonest blocks, moved to a device's arrays (`formats.py`) a byte or a word at a time.

What types have no move here goes by its codes, a byte each, at a tenth of the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants.base import Bytes, Records
from ggufpy.quants.bits import compact

Arrays = dict[str, Bytes]
# Fields of types whose scales, or scales and minima, are f16 for 32 weights each.
HALVES: Mapping[str, tuple[str, ...]] = {
    "Q4_0": ("d",), "Q4_1": ("d", "m"), "Q5_0": ("d",), "Q5_1": ("d", "m"), "Q8_0": ("d",),
}  # fmt: skip


def moved(name: str, records: Records) -> Arrays | None:
    """The arrays `low` and `high` of (rows, blocks) records, if the type has a move."""
    move = _MOVES.get(name)
    return None if move is None else move(records)


def _nibble_runs(runs: Bytes) -> Bytes:
    """(..., 32) bytes whose low halves are one block, and whose high halves another → (..., 2, 16)."""
    first, second = runs[..., :16], runs[..., 16:]
    low = first & np.uint8(15) | second << np.uint8(4)
    return np.stack([low, first >> np.uint8(4) | second & np.uint8(0xF0)], axis=-2)


def _pair_planes(runs: Bytes) -> Bytes:
    """(..., 32) bytes of which bits 2 k and 2 k + 1 are of block k → (..., 4, 8) pairs.

    Bytes 4 j + b for j from 0 to 3 are a square of 4 × 4 pairs, which is turned over.
    """
    squares = _fours(runs.reshape(*runs.shape[:-1], 2, 4, 4))
    squares = _swapped(squares, 6, 0x00CC00CC)
    squares = _swapped(squares, 12, 0x0000F0F0)
    turned = _bytes_of(squares).reshape(*runs.shape[:-1], 2, 4, 4)  # run of 16, b, block
    return np.moveaxis(turned, -1, -3).reshape(*runs.shape[:-1], 4, 8)


def _one_planes(runs: Bytes) -> Bytes:
    """(..., 32) bytes of which bit g is of block g → (..., 8, 4) ones.

    Bytes 4 j + b for j from 0 to 7 are a square of 8 × 8 bits, which is turned over.
    """
    columns = np.ascontiguousarray(runs.reshape(*runs.shape[:-1], 8, 4).swapaxes(-1, -2))
    squares = columns.view("<u8")[..., 0]
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        squares = _swapped(squares, shift, mask)
    ones: Bytes = _bytes_of(squares).swapaxes(-1, -2)  # of b, block
    return ones


def _fours(columns: Bytes) -> NDArray[Any]:
    """(..., 4, 4) bytes → (..., 4) words of the four that are 4 apart."""
    words: NDArray[Any] = np.ascontiguousarray(columns.swapaxes(-1, -2)).view("<u4")[..., 0]
    return words


def _bytes_of(words: NDArray[Any]) -> Bytes:
    found: Bytes = np.ascontiguousarray(words)[..., None].view(np.uint8)
    return found


def _swapped(words: NDArray[Any], shift: int, mask: int) -> NDArray[Any]:
    """Bits under `mask` change places with those `shift` above them."""
    kind = words.dtype.type
    swapped = (words ^ words >> kind(shift)) & kind(mask)
    out: NDArray[Any] = words ^ swapped ^ swapped << kind(shift)
    return out


def _one_words(words: NDArray[Any]) -> Bytes:
    """(...) words of 32 bits, that of column k is bit k → (..., 4) ones: bit 4 j + b goes to bit j of byte b.

    So the even and the odd bits part, twice, each time in four steps.
    """
    bits = words.astype("<u4")
    for _ in range(2):
        for shift, mask in ((1, 0x22222222), (2, 0x0C0C0C0C), (4, 0x00F000F0), (8, 0x0000FF00)):
            bits = _swapped(bits, shift, mask)
    return _bytes_of(bits)


def _nibbles(records: Records) -> Arrays:
    return {"low": compact(records["qs"])}


def _fives(records: Records) -> Arrays:
    return {"low": compact(records["qs"]), "high": _one_words(records["qh"])}


def _eights(records: Records) -> Arrays:
    codes = records["qs"].view(np.uint8)
    return {"low": codes[..., :16], "high": codes[..., 16:]}


def _q4_k(records: Records) -> Arrays:
    return {"low": _nibble_runs(compact(records["qs"]).reshape(-1, 4, 32))}


def _q5_k(records: Records) -> Arrays:
    return {**_q4_k(records), "high": _one_planes(compact(records["qh"]))}


def _q6_k(records: Records) -> Arrays:
    """Of each half of a block, the low halves of 64 bytes are two blocks of 32, and the high halves the next two."""
    runs = _nibble_runs(compact(records["ql"]).reshape(-1, 2, 2, 32))
    return {"low": runs.swapaxes(-2, -3), "high": _pair_planes(compact(records["qh"]).reshape(-1, 2, 32))}


def _q2_k(records: Records) -> Arrays:
    return {"low": _pair_planes(compact(records["qs"]).reshape(-1, 2, 32))}


def _q3_k(records: Records) -> Arrays:
    return {**_q2_k(records), "high": _one_planes(compact(records["hmask"]))}


_MOVES: Mapping[str, Callable[[Records], Arrays]] = {
    "Q4_0": _nibbles, "Q4_1": _nibbles, "Q5_0": _fives, "Q5_1": _fives, "Q8_0": _eights, "Q2_K": _q2_k,
    "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
