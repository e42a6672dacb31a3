"""Q2_K: 2-bit codes; 16 groups of 16 with 4-bit scale and minimum."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, joined, planes
from ggufpy.quants.decoding import half_at, put_above
from ggufpy.quants.kscales import MINIMUM_CODES, SCALE_CODES, Groups, affine_groups, put_pairs
from ggufpy.quants.lanes import Scan, put_half
from ggufpy.quants.words import Words, byte_field, half_field, plane_codes

SHAPE = Groups(16, 3, 15, Scan(-0.5, 0.1, 16, absolute=True), spread=False, square=1.0)


class Q2_K(BlockType):
    """2-bit codes; 16 groups of 16 with 4-bit scale and minimum."""

    name = "Q2_K"
    id = 10
    weights = 256
    nbytes = 84
    layout = (
        Field("scales", "u8", 16, "group g: sc in the low four bits, mn in the high four"),
        Field(
            "qs",
            "u8",
            64,
            "two runs of 32 bytes; bits 2i and 2i+1 of byte l of run r: q of weight 128 r + 32 i + l",
        ),
        Field("d", "f16", 1, "scale of the scales"),
        Field("dmin", "f16", 1, "scale of the minima"),
    )
    formula = "d * sc * q - dmin * mn"
    panel = IntPanel(2, 16, 0, has_min=True)
    code_values = tuple(range(0, 4))
    encoder = "lanes"
    decoder = "blocks"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 2)
        pairs = rec["scales"]
        scale = rec["d"].astype(np.float32)[..., None] * (pairs & np.uint8(15)).astype(np.float32)
        minimum = -rec["dmin"].astype(np.float32)[..., None] * (pairs >> np.uint8(4)).astype(np.float32)
        return Fields(codes, scale, minimum)

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        runs = codes.reshape(*codes.shape[:-1], 2, 128)
        rec["qs"] = joined(runs, 2).reshape(rec["qs"].shape)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Planes of two bits, and for each 16 a byte of scale and minimum."""
        words = Words(self)
        d, dmin, pairs = half_field(v, words, "d"), half_field(v, words, "dmin"), byte_field(v, words.first("scales"))

        @v.njit
        def scale(work, s, h):
            return d(work, s, h) * v.to_f(pairs(work, 2 * s + h) & v.splat_i(15))

        @v.njit
        def minimum(work, s, h):
            return v.splat_f(-1.0) * dmin(work, s, h) * v.to_f(pairs(work, 2 * s + h) >> 4)

        return plane_codes(v, words.first("qs"), 2), scale, minimum

    def block_decoder(self, v: Any) -> Any:
        """Four planes of each run, two groups a plane."""
        half, one, L = half_at(v), put_above(v), v.L

        @v.njit
        def decode(at, out):
            d, dmin = half(at + 80), v.splat_f(-1.0) * half(at + 82)
            for group in range(16):
                pair = v.load_u8(at + group)
                scale = d * v.to_f(v.splat_i(pair & 15))
                minimum = dmin * v.to_f(v.splat_i(pair >> 4))
                run, plane, half_run = group // 8, group // 2 % 4, group % 2
                for i in range(0, 16, L):
                    byte = v.load_u8s(at + 16 + 32 * run + 16 * half_run + i)
                    one(out + 4 * (16 * group + i), (byte >> (2 * plane)) & v.splat_i(3), scale, minimum)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """ggml's search for scales and minima of groups, then for those of the block."""
        half, groups, pairs, size, L = put_half(v), affine_groups(v, weighted, SHAPE), put_pairs(v), 4 * v.L, v.L

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scale, minimum = groups(x, w, work)
            for g in range(16):
                low = v.round_i(v.load_f(work + size * (SCALE_CODES + g)))
                high = v.round_i(v.load_f(work + size * (MINIMUM_CODES + g)))
                v.store_i8(out + L * g, low | (high << 4))
            pairs(out, 16, work, 0)
            half(out, 80, scale)
            half(out, 82, minimum)

        return encode


BLOCK = Q2_K()
