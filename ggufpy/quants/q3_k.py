"""Q3_K: 3-bit signed codes; 16 groups of 16 with a signed 6-bit scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, planes, put_high


class Q3_K(BlockType):
    """3-bit signed codes; 16 groups of 16 with a signed 6-bit scale."""

    name = "Q3_K"
    id = 11
    weights = 256
    nbytes = 110
    layout = (
        Field("hmask", "u8", 32, "bit i of byte l: bit 2 of q of weight 32 i + l"),
        Field("qs", "u8", 64, "low two bits of q, two runs of 32 bytes as in Q2_K"),
        Field(
            "scales",
            "u8",
            12,
            "low four bits of sc: bytes 0-7, groups 0-7 low and 8-15 high; upper two: bits 2i and 2i+1 of"
            " byte 8 + j, group 4 i + j",
        ),
        Field("d", "f16", 1, "scale of the scales"),
    )
    formula = "d * (sc - 32) * (q - 4)"
    panel = IntPanel(4, 16, 8)

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 2)
        put_high(codes, planes(compact(rec["hmask"]), 1), 2)
        codes += np.uint8(4)
        packed = compact(rec["scales"])
        low = np.concatenate([packed[..., :8] & np.uint8(15), packed[..., :8] >> np.uint8(4)], axis=-1)
        high = [(packed[..., 8:] >> np.uint8(shift)) & np.uint8(3) for shift in (0, 2, 4, 6)]
        sc = low | np.concatenate(high, axis=-1) << np.uint8(4)
        scale = rec["d"].astype(np.float32)[..., None] * (sc.astype(np.float32) - np.float32(32))
        return Fields(codes, scale)


BLOCK = Q3_K()
