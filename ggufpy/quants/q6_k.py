"""Q6_K: 6-bit codes around 32; 16 groups of 16 with a signed 8-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, planes, put_high


class Q6_K(BlockType):
    """6-bit codes around 32; 16 groups of 16 with a signed 8-bit scale."""

    name = "Q6_K"
    id = 14
    weights = 256
    nbytes = 210
    layout = (
        Field(
            "ql",
            "u8",
            128,
            "low four bits of q, two runs of 64 bytes; byte l of run r: weight 128 r + l low, 128 r + 64 "
            "+ l high",
        ),
        Field(
            "qh",
            "u8",
            64,
            "upper two bits of q, two runs of 32 bytes; bits 2i and 2i+1 of byte l of run r: weight 128 r"
            " + 32 i + l",
        ),
        Field("scales", "i8", 16, "sc of each group"),
        Field("d", "f16", 1, "scale of the scales"),
    )
    formula = "d * sc * (q - 32)"
    panel = IntPanel(6, 16, 32)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["ql"]).reshape(-1, 64), 4)
        put_high(codes, planes(compact(rec["qh"]).reshape(-1, 32), 2), 4)
        scale = rec["d"].astype(np.float32)[..., None] * rec["scales"].astype(np.float32)
        return Fields(codes, scale)


BLOCK = Q6_K()
