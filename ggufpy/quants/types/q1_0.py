"""Q1_0: one sign bit a weight, with a scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import bit_string, compact
from ggufpy.quants.lanes import put_half
from ggufpy.quants.words import Words, bit_codes, half_field


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
    encoder = "lanes"
    uses_importance = False
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = bit_string(compact(rec["qs"]))
        codes <<= np.uint8(1)  # 0 or 2, around 1
        return Fields(codes, np.repeat(rec["d"].astype(np.float32), 4, axis=1))

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """A bit a weight, doubled."""
        words = Words(self)
        bits = bit_codes(v, words.first("qs"))

        @v.njit
        def codes(work, s, out):
            bits(work, s, out)
            for g in range(8):
                out[g] = out[g] << 1

        return codes, half_field(v, words, "d"), None

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """The mean magnitude with each weight's sign, that of zero being plus; an importance changes nothing."""
        L, size, half = v.L, 4 * v.L, put_half(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            total = v.splat_f(0.0)
            for j in range(16):
                byte = v.splat_i(0)
                for i in range(8):
                    one = v.load_f(x + size * (8 * j + i))
                    total = total + v.abs(one)
                    byte = byte | (v.ge(one, v.splat_f(0.0)) & v.splat_i(1 << i))
                v.store_i8(out + L * (2 + j), byte)
            half(out, 0, total * v.splat_f(1 / 128))

        return encode


BLOCK = Q1_0()
