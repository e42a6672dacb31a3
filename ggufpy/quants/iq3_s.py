"""IQ3_S: lattice of 512 points of 4 and free signs; 8 groups of 32 with a 4-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import bit_string, compact, shifted, signed_codes
from ggufpy.quants.grids import iq3_s


class IQ3_S(BlockType):
    """Lattice of 512 points of 4 and free signs; 8 groups of 32 with a 4-bit scale."""

    name = "IQ3_S"
    id = 21
    weights = 256
    nbytes = 110
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("qs", "u8", 64, "low eight bits of the point of each 4 weights"),
        Field("qh", "u8", 8, "bit i of byte g: upper bit of point 8 g + i"),
        Field("signs", "u8", 32, "bit j of byte k: weight 8 k + j is negative"),
        Field("scales", "u8", 4, "low nibble: ls of the even group, high nibble: of the odd one"),
    )
    formula = "d * (1 + 2 ls) * ±grid"
    panel = IntPanel(5, 32, 16)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        index = compact(rec["qs"]) | bit_string(compact(rec["qh"])).astype(np.uint16) << np.uint16(8)
        codes = signed_codes(np.take(iq3_s(), index).view(np.uint64), compact(rec["signs"]), 16)
        step = np.uint8(2) * shifted(compact(rec["scales"]), (0, 4), 15) + np.uint8(1)
        scale = rec["d"].astype(np.float32)[..., None] * step.astype(np.float32)
        return Fields(codes, scale)


BLOCK = IQ3_S()
