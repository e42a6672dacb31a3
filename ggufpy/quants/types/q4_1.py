"""Q4_1: 4-bit codes with a scale and a minimum."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, joined, planes
from ggufpy.quants.decoding import half_at, put_above
from ggufpy.quants.lanes import affine, affine_search, emphasis, put_half, put_nibbles
from ggufpy.quants.words import Words, half_field, nibble_codes


class Q4_1(BlockType):
    """4-bit codes with a scale and a minimum."""

    name = "Q4_1"
    id = 3
    weights = 32
    nbytes = 20
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("m", "f16", 1, "minimum"),
        Field(
            "qs",
            "u8",
            16,
            "byte j: q of weight j in the low four bits, of weight j + 16 in the high four",
        ),
    )
    formula = "d * q + m"
    panel = IntPanel(4, 32, 0, has_min=True)
    code_values = tuple(range(0, 16))
    encoder = "lanes"
    decoder = "blocks"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]), 4)
        return Fields(codes, rec["d"].astype(np.float32), rec["m"].astype(np.float32))

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        rec["qs"] = joined(codes, 4)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Two nibbles a byte."""
        words = Words(self)
        return nibble_codes(v, words.first("qs")), half_field(v, words, "d"), half_field(v, words, "m")

    def block_decoder(self, v: Any) -> Any:
        """Sixteen bytes, low and high halves."""
        half, one, L = half_at(v), put_above(v), v.L

        @v.njit
        def decode(at, out):
            scale, minimum = half(at), half(at + 2)
            for i in range(0, 16, L):
                byte = v.load_u8s(at + 4 + i)
                one(out + 4 * i, byte & v.splat_i(15), scale, minimum)
                one(out + 4 * (16 + i), byte >> 4, scale, minimum)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """ggml's rounding, or its weighted search where there is an importance."""
        half, nibbles, emphasise = put_half(v), put_nibbles(v), emphasis(v, 32)
        search, rounding = affine_search(v, 32, 15), affine(v, 32, 15)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            if weighted:
                emphasise(w, x, mean)
                scale, minimum = search(x, w, work)
            else:
                scale, minimum = rounding(x, work)
            half(out, 0, scale)
            half(out, 2, minimum)
            nibbles(out, 4, work)

        return encode


BLOCK = Q4_1()
