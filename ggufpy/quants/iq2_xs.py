"""IQ2_XS: lattice of 512 points and even signs; 16 groups of 16 with a 4-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, even_signs, shifted, signed_codes
from ggufpy.quants.grids import iq2_xs


class IQ2_XS(BlockType):
    """Lattice of 512 points and even signs; 16 groups of 16 with a 4-bit scale."""

    name = "IQ2_XS"
    id = 17
    weights = 256
    nbytes = 74
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field(
            "qs",
            "u16",
            32,
            "each 8 weights: bits 0-8, the point; bits 9-15, seven signs, the eighth makes them even",
        ),
        Field("scales", "u8", 8, "low nibble: ls of the even group, high nibble: of the odd one"),
    )
    formula = "d * (1/2 + ls) / 4 * ±grid"
    panel = IntPanel(8, 16, 128)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        qs = compact(rec["qs"]).view("<u2")
        signs = np.take(even_signs(), qs >> np.uint16(9))
        codes = signed_codes(np.take(iq2_xs(), qs & np.uint16(511)), signs, 128)
        step = np.float32(0.5) + shifted(compact(rec["scales"]), (0, 4), 15).astype(np.float32)
        scale = rec["d"].astype(np.float32)[..., None] * step * np.float32(0.25)
        return Fields(codes, scale)


BLOCK = IQ2_XS()
