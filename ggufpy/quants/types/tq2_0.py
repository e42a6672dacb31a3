"""TQ2_0: ternary weights, two bits each, with a scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, planes
from ggufpy.quants.codebooks import ternary
from ggufpy.quants.lanes import put_half
from ggufpy.quants.words import Words, half_field, plane_codes


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
    encoder = "lanes"
    uses_importance = False
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 2)
        return Fields(codes, np.repeat(rec["d"].astype(np.float32), 8, axis=1))

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Planes of two bits."""
        words = Words(self)
        codes = plane_codes(v, words.first("qs"), 2)
        return codes, half_field(v, words, "d"), None

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """Each weight to the nearest of -1, 0 and 1 times the largest magnitude; an importance changes nothing."""
        L, size = v.L, 4 * v.L
        half, ternary_codes = put_half(v), ternary(v, 256)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            half(out, 64, ternary_codes(x, work))
            for j in range(64):
                first = work + size * (128 * (j // 32) + j % 32)
                byte = v.load_i(first)
                for i in range(1, 4):
                    byte = byte | (v.load_i(first + size * 32 * i) << (2 * i))
                v.store_i8(out + L * j, byte)

        return encode


BLOCK = TQ2_0()
