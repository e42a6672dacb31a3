"""How a panel lies in memory: the one place that both packing and the matrix kernels take it from.

A panel is `lanes` consecutive rows. It is cut along k into blocks of 32 columns; column groups of 4 make one i32 lane.
A block is a sequence of *planes*, then `lanes` f16 scales for each group of weights, then as many f16 minima if any.
A plane of `width` bits has `width` vectors; vector i holds in bits [width·f, width·(f+1)) of each byte the plane's bits
of column group g = i + width·f. Codes of 5 and 6 bits are a 4-bit plane and one with the bits above.
"""

from __future__ import annotations

from ggufpy.quants.base import IntPanel

BLOCK = 32  # columns a block
GROUPS = 8  # groups of 4 columns a block

PLANES = {2: (2,), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}


def planes(bits: int) -> tuple[int, ...]:
    """Widths of a panel's planes, lowest bits first. Raises KeyError for a width that no panel has."""
    return PLANES[bits]


def scale_offset(bits: int, lanes: int) -> int:
    """Bytes from a block's start to its scales."""
    return bits * lanes * 4


def block_bytes(panel: IntPanel, lanes: int) -> int:
    """Bytes of one block: 32 columns of `lanes` rows."""
    scales = BLOCK // panel.group * (2 if panel.has_min else 1)
    return scale_offset(panel.bits, lanes) + scales * lanes * 2


def quantised_row_bytes(columns: int) -> int:
    """Bytes of one row of 8-bit activations: codes, then f32 scales and i32 sums of codes, both by 16 columns."""
    return columns + columns // 16 * 8
