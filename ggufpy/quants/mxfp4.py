"""MXFP4: OCP microscaling: 4-bit floats (E2M1) with a power-of-two scale."""

from __future__ import annotations

from functools import cache

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import code_table, compact, planes, remap

# E2M1 values, doubled to be whole; index 8 is minus zero.
LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
TABLE = code_table(LEVELS, 16)


class MXFP4(BlockType):
    """OCP microscaling: 4-bit floats (E2M1) with a power-of-two scale.

    The levels: 0, 1, 2, 3, 4, 6, 8, 12, then the same negative.
    """

    name = "MXFP4"
    id = 39
    weights = 32
    nbytes = 17
    layout = (
        Field("e", "u8", 1, "exponent of the scale: 2 to the power e - 127"),
        Field(
            "qs",
            "u8",
            16,
            "byte j: index q of weight j in the low four bits, of weight j + 16 in the high four",
        ),
    )
    formula = "2^(e - 128) * level[q], level being twice the E2M1 value"
    panel = IntPanel(5, 32, 16)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = remap(planes(compact(rec["qs"]), 4), TABLE)
        return Fields(codes, np.take(scale_table(), rec["e"]))


@cache
def scale_table() -> Floats:
    """(256,) half of E8M0: 2 to the power e - 128, exact down to the subnormals."""
    table: Floats = np.ldexp(np.float32(1), np.arange(256, dtype=np.int32) - 128)
    return table


BLOCK = MXFP4()
