"""TQ2_0: ternary weights, two bits each, with a scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, planes


class TQ2_0(BlockType):
    """Ternary weights, two bits each, with a scale."""

    name = "TQ2_0"
    id = 35
    weights = 256
    nbytes = 66
    layout = (
        Field(
            "qs",
            "u8",
            64,
            "two runs of 32 bytes; bits 2i and 2i+1 of byte l of run r: q of weight 128 r + 32 i + l",
        ),
        Field("d", "f16", 1, "scale"),
    )
    formula = "d * (q - 1)"
    panel = IntPanel(2, 32, 1)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 2)
        return Fields(codes, np.repeat(rec["d"].astype(np.float32), 8, axis=1))


BLOCK = TQ2_0()
