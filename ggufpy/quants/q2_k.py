"""Q2_K: 2-bit codes; 16 groups of 16 with 4-bit scale and minimum."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, planes


class Q2_K(BlockType):
    """2-bit codes; 16 groups of 16 with 4-bit scale and minimum."""

    name = "Q2_K"
    id = 10
    weights = 256
    nbytes = 84
    layout = (
        Field("scales", "u8", 16, "group g: sc in the low four bits, mn in the high four"),
        Field(
            "qs",
            "u8",
            64,
            "two runs of 32 bytes; bits 2i and 2i+1 of byte l of run r: q of weight 128 r + 32 i + l",
        ),
        Field("d", "f16", 1, "scale of the scales"),
        Field("dmin", "f16", 1, "scale of the minima"),
    )
    formula = "d * sc * q - dmin * mn"
    panel = IntPanel(2, 16, 0, has_min=True)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 2)
        pairs = rec["scales"]
        scale = rec["d"].astype(np.float32)[..., None] * (pairs & np.uint8(15)).astype(np.float32)
        minimum = -rec["dmin"].astype(np.float32)[..., None] * (pairs >> np.uint8(4)).astype(np.float32)
        return Fields(codes, scale, minimum)


BLOCK = Q2_K()
