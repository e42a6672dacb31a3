"""Q4_K: 4-bit codes; 8 groups of 32 with 6-bit scale and minimum."""

from __future__ import annotations

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, planes
from ggufpy.quants.kscales import scales_and_minima


class Q4_K(BlockType):
    """4-bit codes; 8 groups of 32 with 6-bit scale and minimum."""

    name = "Q4_K"
    id = 12
    weights = 256
    nbytes = 144
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
        Field(
            "qs",
            "u8",
            128,
            "four runs of 32 bytes; byte l of run r: q of weight 64 r + l low, of weight 64 r + 32 + l high",
        ),
    )
    formula = "d * sc * q - dmin * mn"
    panel = IntPanel(4, 32, 0, has_min=True)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 4)
        scale, minimum = scales_and_minima(rec)
        return Fields(codes, scale, minimum)


BLOCK = Q4_K()
