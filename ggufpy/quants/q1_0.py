"""Q1_0: one sign bit a weight, with a scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import bit_string, compact


class Q1_0(BlockType):
    """One sign bit a weight, with a scale."""

    name = "Q1_0"
    id = 41
    weights = 128
    nbytes = 18
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("qs", "u8", 16, "bit i of byte j: q of weight 8 j + i"),
    )
    formula = "d * (2 q - 1)"
    panel = IntPanel(2, 32, 1)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = bit_string(compact(rec["qs"]))
        codes <<= np.uint8(1)  # 0 or 2, around 1
        return Fields(codes, np.repeat(rec["d"].astype(np.float32), 4, axis=1))


BLOCK = Q1_0()
