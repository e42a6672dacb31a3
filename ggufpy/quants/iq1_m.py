"""IQ1_M: ternary lattice of 2,048 points, a shift for each 8 weights; 16 groups of 16 with a 3-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, shifted, spread
from ggufpy.quants.grids import iq1


class IQ1_M(BlockType):
    """Ternary lattice of 2,048 points, a shift for each 8 weights; 16 groups of 16 with a 3-bit scale."""

    name = "IQ1_M"
    id = 29
    weights = 256
    nbytes = 56
    layout = (
        Field("qs", "u8", 32, "low eight bits of the point of each 8 weights"),
        Field(
            "qh",
            "u8",
            16,
            "a nibble for each 8 weights, low first: three upper bits of the point, then the sign of the "
            "shift",
        ),
        Field(
            "scales",
            "u16",
            4,
            "word i: bits 3k to 3k+2, ls of group 4 i + k; bits 12-15, nibble i of the f16 scale d",
        ),
    )
    formula = "d * (2 ls + 1) * (grid ± 1/8)"
    panel = IntPanel(6, 16, 32)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        high = shifted(compact(rec["qh"]), (0, 4), 15)
        index = compact(rec["qs"]) | (high & np.uint8(7)).astype(np.uint16) << np.uint16(8)
        shift = np.where(high & np.uint8(8), spread(23), spread(25))  # 32 - 8 * 1, then one eighth down or up
        codes = np.take(iq1(), index) + shift
        packed = compact(rec["scales"]).view("<u2")
        nibbles = (packed >> np.uint16(12)) << np.array([0, 4, 8, 12], dtype=np.uint16)
        d = np.bitwise_or.reduce(nibbles, axis=-1).view(np.float16).astype(np.float32)
        step = (np.uint16(2) * shifted(packed, (0, 3, 6, 9), 7) + np.uint16(1)).astype(np.float32)
        scale = d[..., None] * step * np.float32(0.125)
        return Fields(codes.view(np.uint8), scale)


BLOCK = IQ1_M()
