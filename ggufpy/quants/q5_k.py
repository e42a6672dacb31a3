"""Q5_K: 5-bit codes; 8 groups of 32 with 6-bit scale and minimum."""

from __future__ import annotations

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, planes, put_high
from ggufpy.quants.kscales import scales_and_minima


class Q5_K(BlockType):
    """5-bit codes; 8 groups of 32 with 6-bit scale and minimum."""

    name = "Q5_K"
    id = 13
    weights = 256
    nbytes = 176
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("dmin", "f16", 1, "scale of the minima"),
        Field(
            "scales",
            "u8",
            12,
            "bytes 0-3: sc of groups 0-3; 4-7: mn of groups 0-3 (low six bits); 8-11: low four bits of sc"
            " and mn of groups 4-7, whose upper two are the upper two of bytes 0-3 and 4-7",
        ),
        Field("qh", "u8", 32, "bit i of byte l: bit 4 of q of weight 32 i + l"),
        Field("qs", "u8", 128, "low four bits of q, as in Q4_K"),
    )
    formula = "d * sc * q - dmin * mn"
    panel = IntPanel(5, 32, 0, has_min=True)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 4)
        put_high(codes, planes(compact(rec["qh"]), 1), 4)
        scale, minimum = scales_and_minima(rec)
        return Fields(codes, scale, minimum)


BLOCK = Q5_K()
