"""How a matrix lies in a device's memory: the one place that packing, sizes and kernels take it from.

A matrix of codes is cut into blocks of 32 columns, numbered row after row (of experts: one expert's rows after the
other's). What belongs to a block is spread over up to four arrays, each with the blocks in this order, so that the
threads of a warp, each with a block of its own, read consecutive memory 16 bytes at a time:

    low      the lower bits of the codes: 16 bytes a block, 8 where codes have 2 or 3 bits
    high     the bits above those of 3, 5 and 6 bits; of 8 bits the second half of the block's columns
    scales   scales (and minima)
    tops     what sub-scales are multiplied by, for every 8 blocks

    bits     low                                   high
    2        pairs                                 -
    3        pairs                                 ones
    4        nibbles                               -
    5        nibbles                               ones
    6        nibbles                               pairs
    8        columns 0 to 15 as signed bytes       columns 16 to 31

    nibbles  16 bytes: byte i has column i in its low half and column i + 16 in its high half; with a book, column 2 i
             and column 2 i + 1
    pairs    8 bytes: bits 2 j and 2 j + 1 of byte 4 w + b are of column 16 w + 4 j + b
    ones     4 bytes: bit j of byte b is of column 4 j + b

With a book, codes are indices into 16 signed bytes. A weight is

    multiplier · (scale · (book[code] or code - offset) + minimum)

    scales   for each 32 columns                                            tops, for each 256
    half     f16 scale, or f16 (scale, minimum); of groups of 16 two
             scales; `share` blocks have one scale in common                -
    sixes    of 8 blocks 16 bytes: f16 d, f16 dmin, then nibble g of the
             words A, B and C is of block g: scale = d · (A + 16 · (C & 3)),
             minimum = -dmin · (B + 4 · (C & 12))                           -
    bytes    two signed bytes, of 16 columns each: scale = d · byte         f16 d
    nibbles  two bytes: scale = d · low half, minimum = -dmin · high half   f16 d, f16 dmin

So types have the size that they have in a file, but for Q3_K (a byte for its 6-bit scales: 114 bytes instead of 110),
MXFP4 and IQ4_XS (f16 scales: 18 and 144 instead of 17 and 136) and the types of grids (IQ1 to IQ3), which have at most
16 different codes and so take 4 bits and a book. Scales that are products are rounded to f16 after multiplication by a
power of two of the matrix, so that neither the largest nor small ones leave f16's range.

A matrix of numbers (f16, bf16, f32) is its rows, each filled up with zeros to whole blocks of 32, in `low`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ggufpy.quants.base import BlockType, FloatPanel, IntPanel
from ggufpy.quants.codebooks import E2M1_LEVELS, IQ4_LEVELS
from ggufpy.support.records import dataclass

from .device import ROW

BLOCK = 32  # columns
SUPER = 8  # blocks that have their tops in common
ELEMENT = {"f16": 2, "bf16": 2, "f32": 4}  # bytes of a number
LOW = {2: 8, 3: 8, 4: 16, 5: 16, 6: 16, 8: 16}  # bytes of a block by bits
HIGH = {3: 4, 5: 4, 6: 8, 8: 16}

_IQ1 = (-9, -7, -1, 1, 7, 9)
_IQ2 = (-43, -25, -8, 8, 25, 43)
_IQ3 = (2, 6, 10, 14, 18, 22, 26, 31)
_E2M1 = tuple(sorted(set(E2M1_LEVELS)))
# What codes less their offset can be, ascending, where that is 16 numbers at most.
BOOKS: Mapping[str, tuple[int, ...]] = {
    "IQ1_S": _IQ1, "IQ1_M": _IQ1, "IQ2_XXS": _IQ2, "IQ2_XS": _IQ2, "IQ2_S": _IQ2,
    "IQ3_XXS": (*(-level for level in reversed(_IQ3)), *_IQ3), "IQ3_S": tuple(range(-15, 16, 2)),
    "IQ4_NL": IQ4_LEVELS, "IQ4_XS": IQ4_LEVELS, "MXFP4": _E2M1, "NVFP4": _E2M1,
}  # fmt: skip
# How types that have scales of scales keep them.
SUB_SCALES = {"Q2_K": "nibbles", "Q3_K": "bytes", "Q4_K": "sixes", "Q5_K": "sixes", "Q6_K": "bytes"}
# Types with one scale for a whole block of more than 32 columns.
SHARED = ("Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "Q8_K")
_SCALES = {"half": 0, "sixes": 1, "bytes": 2, "nibbles": 3}  # as kernels know them


@dataclass(frozen=True)
class Format:
    """Codes of `bits`, or numbers of a `dtype`; see above. `minimum` is of a weight, `book` empty or ascending."""

    bits: int = 0
    offset: int = 0
    group: int = 32
    scales: str = "half"
    minimum: bool = False
    share: int = 1
    book: tuple[int, ...] = ()
    dtype: str = ""

    @property
    def defines(self) -> tuple[tuple[str, str | int], ...]:
        """What `blocks.cuh` (or, for numbers, `numbers.cuh`) is compiled with."""
        if self.dtype:
            return (("NUMBER", {"f16": 0, "bf16": 1, "f32": 2}[self.dtype]),)
        found: list[tuple[str, str | int]] = [
            ("BITS", self.bits), ("OFFSET", self.offset), ("GROUP", self.group), ("SCALES", _SCALES[self.scales]),
            ("MINIMUM", int(self.minimum)), ("SHARE", self.share), ("BOOK", int(bool(self.book))),
        ]  # fmt: skip
        if self.book:
            full = [value & 0xFF for value in self.book] + [0] * (16 - len(self.book))
            words = (sum(byte << 8 * i for i, byte in enumerate(full[at : at + 4])) for at in range(0, 16, 4))
            found += [(f"BOOK{i}", f"{word:#010x}u") for i, word in enumerate(words)]
        return tuple(found)

    def sections(self, rows: int, columns: int) -> dict[str, int]:
        """Bytes of each array of a matrix; rows are those of all experts."""
        blocks = -(-columns // BLOCK)
        if self.dtype:
            return {"low": rows * blocks * BLOCK * ELEMENT[self.dtype]}
        count = rows * blocks
        found = {"low": count * LOW[self.bits]}
        if self.bits in HIGH:
            found["high"] = count * HIGH[self.bits]
        if self.scales == "sixes":
            found["scales"] = count // SUPER * 16
        elif self.scales == "half":
            found["scales"] = count // self.share * (4 if self.minimum or self.group == 16 else 2)
        else:
            found["scales"] = count * 2
            found["tops"] = count // SUPER * (4 if self.minimum else 2)
        return found

    def places(self, rows: int, columns: int) -> tuple[dict[str, int], int]:
        """Where each array begins behind the matrix's first byte, and bytes of all."""
        places, at = {}, 0
        for name, nbytes in self.sections(rows, columns).items():
            places[name] = at
            at += -(-nbytes // ROW) * ROW
        return places, at


def format_of(kind: BlockType) -> Format:
    """The format that matrices of a type have on a device. One without an entry above goes by its panel."""
    panel = kind.panel
    if isinstance(panel, FloatPanel):
        return Format(dtype=panel.dtype)
    scales, book = SUB_SCALES.get(kind.name, "half"), BOOKS.get(kind.name, ())
    share = kind.weights // BLOCK if kind.name in SHARED else 1
    if book:
        return Format(4, 0, panel.group, scales, False, share, book)
    bits, offset = (3, panel.offset - 4) if kind.name == "Q3_K" else (panel.bits, panel.offset)
    _check(kind, panel, scales)
    return Format(bits, offset, panel.group, scales, panel.has_min, share)


def _check(kind: BlockType, panel: IntPanel, scales: str) -> None:
    """Raises ValueError for a type that was added with a panel which nothing here holds."""
    if panel.bits == 8 and panel.offset != 128:
        raise ValueError(f"{kind.name}: bytes of offset {panel.offset} are not signed bytes")
    if panel.group == 16 and panel.has_min and scales == "half":
        raise ValueError(f"{kind.name}: minima of 16 columns need scales of scales")


def matrix_bytes(kind: BlockType, shape: tuple[int, ...]) -> int:
    """Bytes that a (rows, columns) or (experts, rows, columns) tensor of a type takes on a device."""
    *rows, columns = shape
    return format_of(kind).places(math.prod(rows), columns)[1]
