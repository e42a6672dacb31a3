"""Q4_0: 4-bit codes around 8 with a scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, joined, planes
from ggufpy.quants.decoding import half_at, put
from ggufpy.quants.lanes import emphasis, put_half, put_nibbles, symmetric, symmetric_search
from ggufpy.quants.words import Words, half_field, nibble_codes


class Q4_0(BlockType):
    """4-bit codes around 8 with a scale."""

    name = "Q4_0"
    id = 2
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
    formula = "d * (q - 8)"
    panel = IntPanel(4, 32, 8)
    code_values = tuple(range(0, 16))
    encoder = "lanes"
    decoder = "blocks"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        scale = rec["d"].astype(np.float32)
        codes = planes(compact(rec["qs"]), 4)
        return Fields(codes, scale)

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        rec["qs"] = joined(codes, 4)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Two nibbles a byte."""
        words = Words(self)
        return nibble_codes(v, words.first("qs")), half_field(v, words, "d"), None

    def block_decoder(self, v: Any) -> Any:
        """Sixteen bytes, low and high halves."""
        half, one, L = half_at(v), put(v), v.L

        @v.njit
        def decode(at, out):
            scale = half(at)
            for i in range(0, 16, L):
                byte = v.load_u8s(at + 2 + i)
                one(out + 4 * i, byte & v.splat_i(15), 8, scale)
                one(out + 4 * (16 + i), byte >> 4, 8, scale)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """ggml's rounding, or its weighted search where there is an importance."""
        half, nibbles, emphasise = put_half(v), put_nibbles(v), emphasis(v, 32)
        search, rounding = symmetric_search(v, 32, 8), symmetric(v, 32, 8)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            if weighted:
                emphasise(w, x, mean)
                scale = search(x, w, work)
            else:
                scale = rounding(x, work)
            half(out, 0, scale)
            nibbles(out, 2, work)

        return encode


BLOCK = Q4_0()
