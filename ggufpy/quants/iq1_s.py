"""IQ1_S: ternary lattice of 2,048 points with a shift; 8 groups of 32 with a 3-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, shifted, spread
from ggufpy.quants.grids import iq1


class IQ1_S(BlockType):
    """Ternary lattice of 2,048 points with a shift; 8 groups of 32 with a 3-bit scale."""

    name = "IQ1_S"
    id = 19
    weights = 256
    nbytes = 50
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("qs", "u8", 32, "low eight bits of the point of each 8 weights"),
        Field(
            "qh",
            "u16",
            8,
            "group g: bits 3k to 3k+2, upper bits of point k; bits 12-14, ls; bit 15, the shift is negative",
        ),
    )
    formula = "d * (2 ls + 1) * (grid ± 1/8)"
    panel = IntPanel(5, 32, 16)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        qh = compact(rec["qh"]).view("<u2")
        index = compact(rec["qs"]) | shifted(qh, (0, 3, 6, 9), 7) << np.uint16(8)
        shift = np.where(
            qh & np.uint16(0x8000), spread(7), spread(9)
        )  # 16 - 8 * 1, then one eighth down or up
        codes = np.take(iq1(), index).reshape(*qh.shape, 4) + shift[..., None]
        step = (np.uint16(2) * (qh >> np.uint16(12) & np.uint16(7)) + np.uint16(1)).astype(np.float32)
        scale = rec["d"].astype(np.float32)[..., None] * step * np.float32(0.125)
        return Fields(codes.view(np.uint8), scale)


BLOCK = IQ1_S()
