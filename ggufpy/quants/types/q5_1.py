"""Q5_1: 5-bit codes with a scale and a minimum."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import bit_string, bit_words, compact, joined, planes, put_high
from ggufpy.quants.decoding import fifth_bits, half_at, put_above
from ggufpy.quants.lanes import affine, affine_search, emphasis, put_fifth_bits, put_half, put_nibbles
from ggufpy.quants.words import Words, bit_codes, half_field, joined_codes, nibble_codes


class Q5_1(BlockType):
    """5-bit codes with a scale and a minimum."""

    name = "Q5_1"
    id = 7
    weights = 32
    nbytes = 24
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("m", "f16", 1, "minimum"),
        Field("qh", "u32", 1, "bit j: bit 4 of q of weight j"),
        Field("qs", "u8", 16, "byte j: low four bits of q of weight j, then of weight j + 16"),
    )
    formula = "d * q + m"
    panel = IntPanel(5, 32, 0, has_min=True)
    code_values = tuple(range(0, 32))
    encoder = "lanes"
    decoder = "blocks"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]), 4)
        put_high(codes, bit_string(compact(rec["qh"][..., None])), 4)
        return Fields(codes, rec["d"].astype(np.float32), rec["m"].astype(np.float32))

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        rec["qs"] = joined(codes & np.uint8(15), 4)
        rec["qh"] = bit_words(codes >> np.uint8(4))

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Two nibbles a byte, each with its fifth bit."""
        words = Words(self)
        codes = joined_codes(v, nibble_codes(v, words.first("qs")), bit_codes(v, words.first("qh")), 4)
        return codes, half_field(v, words, "d"), half_field(v, words, "m")

    def block_decoder(self, v: Any) -> Any:
        """Sixteen bytes, low and high halves, each with its fifth bits."""
        half, one, fifth, L = half_at(v), put_above(v), fifth_bits(v), v.L

        @v.njit
        def decode(at, out):
            scale, minimum = half(at), half(at + 2)
            for i in range(0, 16, L):
                byte = v.load_u8s(at + 8 + i)
                one(out + 4 * i, (byte & v.splat_i(15)) | fifth(at + 4, i), scale, minimum)
                one(out + 4 * (16 + i), (byte >> 4) | fifth(at + 4, 16 + i), scale, minimum)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """ggml's rounding, or its weighted search where there is an importance."""
        half, nibbles, emphasise = put_half(v), put_nibbles(v), emphasis(v, 32)
        search, rounding, fifth_bits = affine_search(v, 32, 31), affine(v, 32, 31), put_fifth_bits(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            if weighted:
                emphasise(w, x, mean)
                scale, minimum = search(x, w, work)
            else:
                scale, minimum = rounding(x, work)
            half(out, 0, scale)
            half(out, 2, minimum)
            fifth_bits(out, 4, work)
            nibbles(out, 8, work)

        return encode


BLOCK = Q5_1()
