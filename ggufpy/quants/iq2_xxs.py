"""IQ2_XXS: lattice of 256 points and even signs; 8 groups of 32 with a 4-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, even_signs, shifted, signed_codes
from ggufpy.quants.grids import iq2_xxs


class IQ2_XXS(BlockType):
    """Lattice of 256 points and even signs; 8 groups of 32 with a 4-bit scale."""

    name = "IQ2_XXS"
    id = 16
    weights = 256
    nbytes = 66
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field(
            "qs",
            "u32",
            16,
            "two words a group: four bytes, the points of each 8 weights; then bits 7k to 7k+6, seven "
            "signs of each 8 weights (the eighth makes them even), and bits 28-31, ls",
        ),
    )
    formula = "d * (1/2 + ls) / 4 * ±grid"
    panel = IntPanel(8, 32, 128)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        pairs = compact(rec["qs"]).reshape(*rec.shape, 8, 8)  # of bytes
        tail = pairs.view("<u4")[..., 1]
        signs = np.take(even_signs(), shifted(tail, (0, 7, 14, 21), 127))
        points = np.take(iq2_xxs(), pairs[..., :4].reshape(signs.shape))
        codes = signed_codes(points, signs, 128)
        step = np.float32(0.5) + (tail >> np.uint32(28)).astype(np.float32)
        scale = rec["d"].astype(np.float32)[..., None] * step * np.float32(0.25)
        return Fields(codes, scale)


BLOCK = IQ2_XXS()
