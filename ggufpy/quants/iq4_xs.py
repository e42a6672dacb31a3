"""IQ4_XS: 4-bit indices of the levels of IQ4_NL; 8 groups of 32 with a signed 6-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, planes, remap, shifted
from ggufpy.quants.iq4_nl import TABLE


class IQ4_XS(BlockType):
    """4-bit indices of the levels of IQ4_NL; 8 groups of 32 with a signed 6-bit scale."""

    name = "IQ4_XS"
    id = 23
    weights = 256
    nbytes = 136
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("scales_h", "u16", 1, "bits 2g and 2g+1: upper bits of ls of group g"),
        Field("scales_l", "u8", 4, "low four bits of ls: low nibble, the even group"),
        Field("qs", "u8", 128, "eight runs of 16 bytes, each as in IQ4_NL"),
    )
    formula = "d * (ls - 32) * level[q]"
    panel = IntPanel(8, 32, 128)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = remap(planes(compact(rec["qs"]).reshape(-1, 16), 4), TABLE)
        high = shifted(rec["scales_h"][..., None], range(0, 16, 2), 3).astype(np.uint8)
        ls = shifted(compact(rec["scales_l"]), (0, 4), 15) | high << np.uint8(4)
        scale = rec["d"].astype(np.float32)[..., None] * (ls.astype(np.float32) - np.float32(32))
        return Fields(codes, scale)


BLOCK = IQ4_XS()
