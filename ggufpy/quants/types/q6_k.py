"""Q6_K: 6-bit codes around 32; 16 groups of 16 with a signed 8-bit scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, joined, planes, put_high
from ggufpy.quants.decoding import half_at, put
from ggufpy.quants.kscales import SCALES, put_pairs, recode
from ggufpy.quants.lanes import TINY, extreme, nearest, put_half, symmetric_search
from ggufpy.quants.words import Words, byte_field, half_field, joined_codes, plane_codes


class Q6_K(BlockType):
    """6-bit codes around 32; 16 groups of 16 with a signed 8-bit scale."""

    name = "Q6_K"
    id = 14
    weights = 256
    nbytes = 210
    layout = (
        Field(
            "ql",
            "u8",
            128,
            "low four bits of q, two runs of 64 bytes; byte l of run r: weight 128 r + l low, 128 r + 64 + l high",
        ),
        Field(
            "qh",
            "u8",
            64,
            "upper two bits of q, two runs of 32 bytes; bits 2i and 2i+1 of byte l of run r: weight 128 r + 32 i + l",
        ),
        Field("scales", "i8", 16, "sc of each group"),
        Field("d", "f16", 1, "scale of the scales"),
    )
    formula = "d * sc * (q - 32)"
    panel = IntPanel(6, 16, 32)
    code_values = tuple(range(0, 64))
    encoder = "lanes"
    decoder = "blocks"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["ql"]).reshape(-1, 64), 4)
        put_high(codes, planes(compact(rec["qh"]).reshape(-1, 32), 2), 4)
        scale = rec["d"].astype(np.float32)[..., None] * rec["scales"].astype(np.float32)
        return Fields(codes, scale)

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        runs = codes.reshape(*codes.shape[:-1], 2, 128)
        rec["ql"] = joined(runs & np.uint8(15), 4).reshape(rec["ql"].shape)
        rec["qh"] = joined(runs >> np.uint8(4), 2).reshape(rec["qh"].shape)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Planes of four bits and of two, a signed byte of scale for each 16."""
        words = Words(self)
        d, scales = half_field(v, words, "d"), byte_field(v, words.first("scales"))

        @v.njit
        def scale(work, s, h):
            return d(work, s, h) * v.to_f((scales(work, 2 * s + h) ^ v.splat_i(128)) - v.splat_i(128))

        codes = joined_codes(v, plane_codes(v, words.first("ql"), 4, 64), plane_codes(v, words.first("qh"), 2), 4)
        return codes, scale, None

    def block_decoder(self, v: Any) -> Any:
        """Two runs of 128 weights: 32 at a time in the low or high halves of `ql`, two bits in `qh`."""
        half, one, L = half_at(v), put(v), v.L

        @v.njit
        def decode(at, out):
            d = half(at + 208)
            for group in range(16):
                sc = v.load_u8(at + 192 + group)
                scale = d * v.to_f(v.splat_i((sc ^ 128) - 128))
                run, part, first = group // 8, group // 2 % 4, 16 * (group % 2)
                low = at + 64 * run + 32 * (part % 2) + first
                high = at + 128 + 32 * run + first
                for i in range(0, 16, L):
                    code = (v.load_u8s(low + i) >> (4 * (part // 2))) & v.splat_i(15)
                    code = code | (((v.load_u8s(high + i) >> (2 * part)) & v.splat_i(3)) << 4)
                    one(out + 4 * (16 * group + i), code, 32, scale)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """ggml's search for scales of groups; the largest of them becomes -128. An error counts x², or importance."""
        half, pairs, search, extreme_of = put_half(v), put_pairs(v), symmetric_search(v, 16, 32), extreme(v, 16)
        whole, again, nibbles, size, L = nearest(v, -128, 127), recode(v, 16, -32, 31), _put_nibbles(v), 4 * v.L, v.L

        @v.njit
        def fit(x, w, work):
            for g in range(16):
                at = size * 16 * g
                if not weighted:
                    for i in range(16):
                        one = v.load_f(x + at + size * i)
                        v.store_f(w + at + size * i, one * one)
                v.store_f(work + size * (SCALES + g), search(x + at, w + at, work + at))

        @v.njit
        def encode(x, w, mean, out, work, tables):
            zero = v.splat_f(0.0)
            fit(x, w, work)
            top = extreme_of(work + size * SCALES)
            dead = v.gt(v.splat_f(TINY), v.abs(top))
            factor = v.choose(dead, zero, v.splat_f(-128.0) / top)
            scale = v.choose(dead, zero, v.splat_f(1.0) / factor)
            kept = v.half_f(v.half_i(scale))
            for g in range(16):
                code = whole(factor * v.load_f(work + size * (SCALES + g)))
                v.store_i8(out + L * (192 + g), v.round_i(code))
                again(x + size * 16 * g, kept * code, zero, work + size * 16 * g)
            for i in range(256):
                v.store_i(work + size * i, v.choose_i(dead, v.splat_i(0), v.load_i(work + size * i)))
            nibbles(out, work)
            pairs(out, 128, work, 4)
            half(out, 208, scale)

        return encode


def _put_nibbles(v: Any) -> Any:
    """put(out, codes): the low four bits of 256 codes as `ql`."""
    size, L = 4 * v.L, v.L

    @v.njit
    def put(out, codes):
        for run in range(2):
            for i in range(64):
                low = v.load_i(codes + size * (128 * run + i)) & v.splat_i(15)
                high = v.load_i(codes + size * (128 * run + 64 + i))
                v.store_i8(out + L * (64 * run + i), low | (high << 4))

    return put


BLOCK = Q6_K()
