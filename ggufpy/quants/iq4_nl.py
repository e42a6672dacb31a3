"""IQ4_NL: 4-bit indices of 16 uneven levels, with a scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import code_table, compact, planes, remap

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
TABLE = code_table(LEVELS, 128)


class IQ4_NL(BlockType):
    """4-bit indices of 16 uneven levels, with a scale.

    The levels: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.
    """

    name = "IQ4_NL"
    id = 20
    weights = 32
    nbytes = 18
    layout = (
        Field("d", "f16", 1, "scale"),
        Field(
            "qs",
            "u8",
            16,
            "byte j: q of weight j in the low four bits, of weight j + 16 in the high four",
        ),
    )
    formula = "d * level[q]"
    panel = IntPanel(8, 32, 128)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = remap(planes(compact(rec["qs"]), 4), TABLE)
        return Fields(codes, rec["d"].astype(np.float32))


BLOCK = IQ4_NL()
