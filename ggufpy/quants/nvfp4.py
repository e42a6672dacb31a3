"""NVFP4: 4-bit floats (E2M1); 4 groups of 16 with an 8-bit float scale (E4M3)."""

from __future__ import annotations

from functools import cache

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import code_table, compact, planes, remap
from ggufpy.quants.mxfp4 import LEVELS

TABLE = code_table(LEVELS, 32)


class NVFP4(BlockType):
    """4-bit floats (E2M1); 4 groups of 16 with an 8-bit float scale (E4M3)."""

    name = "NVFP4"
    id = 40
    weights = 64
    nbytes = 36
    layout = (
        Field("d", "u8", 4, "scale of each group: E4M3 without its sign bit, 0x7F (NaN) counting as 0"),
        Field(
            "qs",
            "u8",
            32,
            "four runs of 8 bytes; byte j of run g: index q of weight 16 g + j in the low four bits, of "
            "weight 16 g + 8 + j in the high four",
        ),
    )
    formula = "E4M3(d) / 2 * level[q], level being twice the E2M1 value"
    panel = IntPanel(6, 16, 32)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = remap(planes(compact(rec["qs"]).reshape(-1, 8), 4), TABLE)
        scale = np.take(scale_table(), compact(rec["d"]))
        return Fields(codes, scale)


@cache
def scale_table() -> Floats:
    """(256,) half of E4M3 by byte, bit 7 ignored; 0x7F stands for zero."""
    byte = np.arange(256, dtype=np.int32)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    normal = np.ldexp((8 + mantissa).astype(np.float32), exponent - 11)
    table: Floats = np.where(exponent == 0, np.ldexp(mantissa.astype(np.float32), -10), normal)
    table[0x7F] = 0
    return table


BLOCK = NVFP4()
