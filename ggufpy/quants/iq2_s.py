"""IQ2_S: lattice of 1,024 points and free signs; 16 groups of 16 with a 4-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, shifted, signed_codes
from ggufpy.quants.grids import iq2_s


class IQ2_S(BlockType):
    """Lattice of 1,024 points and free signs; 16 groups of 16 with a 4-bit scale."""

    name = "IQ2_S"
    id = 22
    weights = 256
    nbytes = 82
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("qs", "u8", 32, "low eight bits of the point of each 8 weights"),
        Field("signs", "u8", 32, "bit j: weight j of the 8 is negative"),
        Field("qh", "u8", 8, "two bits for each 8 weights, low first: upper bits of the point"),
        Field("scales", "u8", 8, "low nibble: ls of the even group, high nibble: of the odd one"),
    )
    formula = "d * (1/2 + ls) / 4 * ±grid"
    panel = IntPanel(8, 16, 128)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        high = shifted(compact(rec["qh"]), (0, 2, 4, 6), 3).astype(np.uint16)
        points = np.take(iq2_s(), compact(rec["qs"]) | high << np.uint16(8))
        codes = signed_codes(points, compact(rec["signs"]), 128)
        step = np.float32(0.5) + shifted(compact(rec["scales"]), (0, 4), 15).astype(np.float32)
        scale = rec["d"].astype(np.float32)[..., None] * step * np.float32(0.25)
        return Fields(codes, scale)


BLOCK = IQ2_S()
