"""Q5_K: 5-bit codes; 8 groups of 32 with 6-bit scale and minimum."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, joined, planes, put_high
from ggufpy.quants.decoding import half_at, put_above
from ggufpy.quants.kscales import (
    Groups,
    affine_groups,
    lane_scales_and_minima,
    put_bits,
    put_nibble_runs,
    put_scales_and_minima,
    scale_and_minimum,
    scales_and_minima,
)
from ggufpy.quants.lanes import Scan, put_half
from ggufpy.quants.words import Words, joined_codes, plane_codes

SHAPE = Groups(32, 31, 63, Scan(-0.5, 0.1, 16), spread=True, square=2.0)


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
    code_values = tuple(range(0, 32))
    encoder = "lanes"
    decoder = "blocks"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 4)
        put_high(codes, planes(compact(rec["qh"]), 1), 4)
        scale, minimum = scales_and_minima(rec)
        return Fields(codes, scale, minimum)

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        runs = (codes & np.uint8(15)).reshape(*codes.shape[:-1], 4, 64)
        rec["qs"] = joined(runs, 4).reshape(rec["qs"].shape)
        rec["qh"] = joined(codes >> np.uint8(4), 1)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Planes of four bits and of one."""
        words = Words(self)
        codes = joined_codes(v, plane_codes(v, words.first("qs"), 4), plane_codes(v, words.first("qh"), 1), 4)
        return codes, *lane_scales_and_minima(v, words)

    def block_decoder(self, v: Any) -> Any:
        """Four runs of bytes, the low halves one group, the high ones the next, with a plane of upper bits each."""
        half, one, codes, L = half_at(v), put_above(v), scale_and_minimum(v), v.L

        @v.njit
        def decode(at, out):
            d, dmin = half(at), v.splat_f(-1.0) * half(at + 2)
            for group in range(8):
                sc, mn = codes(at + 4, group)
                scale, minimum = d * sc, dmin * mn
                for i in range(0, 32, L):
                    byte = v.load_u8s(at + 48 + 32 * (group // 2) + i) >> (4 * (group % 2))
                    upper = v.load_u8s(at + 16 + i) >> group
                    code = (byte & v.splat_i(15)) | ((upper & v.splat_i(1)) << 4)
                    one(out + 4 * (32 * group + i), code, scale, minimum)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """ggml's search for scales and minima of groups, then for those of the block."""
        half, groups = put_half(v), affine_groups(v, weighted, SHAPE)
        scales, bits, nibbles = put_scales_and_minima(v), put_bits(v), put_nibble_runs(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scale, minimum = groups(x, w, work)
            half(out, 0, scale)
            half(out, 2, minimum)
            scales(out, 4, work)
            bits(out, 16, work, 4)
            nibbles(out, 48, work)

        return encode


BLOCK = Q5_K()
