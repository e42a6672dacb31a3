"""How a panel lies in memory: the one place that both packing and the matrix kernels take it from.

A panel is `lanes` consecutive rows. It is cut along k into blocks of 32 columns; a *group* of 4 columns makes one i32
lane, a byte a column, so that a vector holds one group of every row. A block is `bits` vectors of codes, then `lanes`
f16 scales for each group of weights, then as many f16 minima if any.

Codes narrower than a byte share vectors. The first four groups stand in the low bits of vectors 0 to 3, one mask away
from use. The other four have their highest bits above those, and what is left of them (5 and 6 bits) in further
vectors: so they come out as code · 2^(8 - bits), and the kernel divides the power of two out of the activations' scale.
Codes of 2 bits are four to a byte.
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
