"""How a panel lies in memory: the one place that both packing and the matrix kernels take it from.

A panel is `lanes` consecutive rows, as many as a vector has i32. It is cut along k into blocks of 32 columns; a *group*
of 4 columns makes one i32 lane, a byte a column, so that a vector holds one group of every row:

    matrix   [panel][block]
    block    `bits` vectors of codes | f16 scales [32 / panel.group][lanes] | f16 minima, if any, as many
    vector   [row of the panel][4 columns] bytes

Codes narrower than a byte share vectors. Of 4, 5 and 6 bits, groups 0 to 3 stand in the low bits of vectors 0 to 3, one
mask away from use. Groups 4 to 7 have their highest bits above those, and what is left of them in further vectors. Of
the bits of a byte, highest first, this is whose group each is:

    4 bits, vector 0      4 4 4 4 0 0 0 0      vectors 1 to 3: groups 5 and 1, 6 and 2, 7 and 3
    5 bits, vector 0      4 4 4 0 0 0 0 0      bits 2 to 4 of group 4
            vector 4      7 7 6 6 5 5 4 4      bits 0 and 1 of groups 4 to 7
    6 bits, vector 0      4 4 0 0 0 0 0 0      bits 4 and 5 of group 4
            vector 4      5 5 5 5 4 4 4 4      bits 0 to 3; of groups 6 and 7 in vector 5
    2 bits, vector 0      6 6 4 4 2 2 0 0      vector 1: groups 7, 5, 3 and 1

So codes of groups 4 to 7 come out as code · 2^(8 - bits), and the kernel divides the power of two out of the
activations' scale. A Q5_1 block (5 bits, a scale and minimum for 32 columns) of 16 lanes is 5 · 64 + 32 + 32 bytes; row
3's codes of columns 20 to 23, group 5, are bits 5 to 7 of bytes 12 to 15 of vector 1 and bits 2 and 3 of those of
vector 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from ggufpy.quants.base import IntPanel

BLOCK = 32  # columns a block
GROUPS = 8  # groups of 4 columns a block


@dataclass(frozen=True)
class Piece:
    """Bits [low, low + width) of a group's codes stand in bits [shift, shift + width) of a vector's bytes."""

    group: int
    vector: int
    shift: int
    low: int
    width: int


def pieces(bits: int) -> tuple[Piece, ...]:
    """Where every bit of a block's codes is. Raises ValueError for a width that no panel has."""
    if bits == 2:
        return tuple(Piece(g, g % 2, 2 * (g // 2), 0, 2) for g in range(GROUPS))
    if bits == 8:
        return tuple(Piece(g, g, 0, 0, 8) for g in range(GROUPS))
    if bits not in (4, 5, 6):
        raise ValueError(f"no panel has codes of {bits} bits")
    above, rest = 8 - bits, 2 * bits - 8  # bits of groups 4 to 7 above the first four, and elsewhere
    first = [Piece(g, g, 0, 0, bits) for g in range(4)]
    high = [Piece(4 + i, i, bits, rest, above) for i in range(4)]
    each = 8 // rest if rest else 1
    low = [Piece(4 + i, 4 + i // each, rest * (i % each), 0, rest) for i in range(4) if rest]
    return (*first, *high, *low)


def scale_offset(bits: int, lanes: int) -> int:
    """Bytes from a block's start to its scales."""
    return bits * lanes * 4


def block_bytes(panel: IntPanel, lanes: int) -> int:
    """Bytes of one block: 32 columns of `lanes` rows."""
    scales = BLOCK // panel.group * (2 if panel.has_min else 1)
    return scale_offset(panel.bits, lanes) + scales * lanes * 2


def quantised_row_bytes(columns: int) -> int:
    """Bytes of one row of 8-bit activations: codes, then three numbers for each 16 columns (`common.quantiser`)."""
    return columns + columns // 16 * 12
