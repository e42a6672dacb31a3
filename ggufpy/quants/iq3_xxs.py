"""IQ3_XXS: lattice of 256 points of 4 and even signs; 8 groups of 32 with a 4-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, even_signs, shifted, signed_codes
from ggufpy.quants.grids import iq3_xxs


class IQ3_XXS(BlockType):
    """Lattice of 256 points of 4 and even signs; 8 groups of 32 with a 4-bit scale."""

    name = "IQ3_XXS"
    id = 18
    weights = 256
    nbytes = 98
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("qs", "u8", 64, "the point of each 4 weights"),
        Field(
            "tail",
            "u32",
            8,
            "group g: bits 7k to 7k+6, seven signs of each 8 weights (the eighth makes them even); bits "
            "28-31, ls",
        ),
    )
    formula = "d * (1/2 + ls) / 2 * ±grid"
    panel = IntPanel(6, 16, 32)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        tail = compact(rec["tail"]).view("<u4")
        signs = np.take(even_signs(), shifted(tail, (0, 7, 14, 21), 127))
        points = np.take(iq3_xxs(), compact(rec["qs"])).view(np.uint64)
        codes = signed_codes(points, signs, 32)
        # The lattice is kept halved to fit six bits, so the scale is doubled; 32 weights share it.
        step = np.float32(0.5) + (tail >> np.uint32(28)).astype(np.float32)
        scale = np.repeat(rec["d"].astype(np.float32)[..., None] * step, 2, axis=-1)
        return Fields(codes, scale)


BLOCK = IQ3_XXS()
