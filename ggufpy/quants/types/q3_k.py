"""Q3_K: 3-bit signed codes; 16 groups of 16 with a signed 6-bit scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, joined, planes, put_high
from ggufpy.quants.decoding import half_at, put
from ggufpy.quants.kscales import SCALE_CODES, SCALES, SUMS, change, put_bits, put_pairs, recode, square_sum, total
from ggufpy.quants.lanes import TINY, emphasis, extreme, nearest, put_half, symmetric_search
from ggufpy.quants.words import Words, byte_field, half_field, joined_codes, plane_codes


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
    code_values = tuple(range(4, 12))
    encoder = "lanes"
    decoder = "blocks"
    packer = "lanes"

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

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        runs = (codes - np.uint8(4)).reshape(*codes.shape[:-1], 2, 128)
        rec["qs"] = joined(runs & np.uint8(3), 2).reshape(rec["qs"].shape)
        rec["hmask"] = joined((runs >> np.uint8(2)).reshape(codes.shape), 1)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Planes of two bits and of one; scales in halves of bytes, their upper bits in quarters of others."""
        words = Words(self)
        d, packed = half_field(v, words, "d"), byte_field(v, words.first("scales"))
        three = joined_codes(v, plane_codes(v, words.first("qs"), 2), plane_codes(v, words.first("hmask"), 1), 2)

        @v.njit
        def codes(work, s, out):
            three(work, s, out)
            for g in range(8):
                out[g] = out[g] + v.splat_i(0x04040404)

        @v.njit
        def scale(work, s, h):
            group = 2 * s + h
            low = (packed(work, group % 8) >> (group // 8 * 4)) & v.splat_i(15)
            high = (packed(work, 8 + group % 4) >> (group // 4 * 2)) & v.splat_i(3)
            return d(work, s, h) * v.to_f((low | (high << 4)) - v.splat_i(32))

        return codes, scale, None

    def block_decoder(self, v: Any) -> Any:
        """Four planes of each run, two groups a plane, and a plane of upper bits for every two groups."""
        half, one, L = half_at(v), put(v), v.L

        @v.njit
        def decode(at, out):
            d = half(at + 108)
            for group in range(16):
                low = v.load_u8(at + 96 + group % 8) >> (group // 8 * 4) & 15
                high = v.load_u8(at + 104 + group % 4) >> (group // 4 * 2) & 3
                scale = d * v.to_f(v.splat_i((low | high << 4) - 32))
                run, plane, half_run = group // 8, group // 2 % 4, group % 2
                for i in range(0, 16, L):
                    byte = v.load_u8s(at + 32 + 32 * run + 16 * half_run + i) >> (2 * plane)
                    upper = v.load_u8s(at + 16 * half_run + i) >> (group // 2)
                    code = (byte & v.splat_i(3)) | ((upper & v.splat_i(1)) << 2)
                    one(out + 4 * (16 * group + i), code, 4, scale)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """ggml's search for the scales of groups, then, with importance, for that of the block."""
        half, pairs, bits, again = put_half(v), put_pairs(v), put_bits(v), recode(v, 16, -4, 3)
        fit = _weighted_scales(v) if weighted else _scales(v)
        size, scales = 4 * v.L, _put_scales(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scale = fit(x, w, work)
            kept = v.half_f(v.half_i(scale))
            for g in range(16):
                code = v.load_i(work + size * (SCALE_CODES + g)) - v.splat_i(32)
                again(x + size * 16 * g, kept * v.to_f(code), v.splat_f(0.0), work + size * 16 * g)
            bits(out, 0, work, 2)
            pairs(out, 32, work, 0)
            scales(out, 96, work + size * SCALE_CODES)
            half(out, 108, scale)

        return encode


def _put_scales(v: Any) -> Any:
    """put(out, k, codes): 16 scale codes of 6 bits into bytes k to k + 11."""
    size, L = 4 * v.L, v.L

    @v.njit
    def put(out, k, codes):
        for g in range(8):
            low, high = v.load_i(codes + size * g), v.load_i(codes + size * (g + 8))
            v.store_i8(out + L * (k + g), (low & v.splat_i(15)) | (high << 4))
        for g in range(4):
            byte = v.splat_i(0)
            for i in range(4):
                byte = byte | ((v.load_i(codes + size * (4 * i + g)) >> 4) << (2 * i))
            v.store_i8(out + L * (k + 8 + g), byte)

    return put


def _weighted_scales(v: Any) -> Any:
    """fit(x, w, work): codes and scale codes by weighted searches; the block's scale. ggml's quantize_row_q3_K_impl."""
    size, emphasise, squares, sums = 4 * v.L, emphasis(v, 256), square_sum(v, 256), total(v, 16)
    search, scale_search = symmetric_search(v, 16, 4), symmetric_search(v, 16, 32)

    @v.njit
    def fit(x, w, work):
        emphasise(w, x, v.splat_f(2.0) * squares(x) / v.splat_f(256.0))
        for g in range(16):
            at = size * 16 * g
            v.store_f(work + size * (SUMS + g), sums(w + at))
            v.store_f(work + size * (SCALES + g), search(x + at, w + at, work + at))
        return scale_search(work + size * SCALES, work + size * SUMS, work + size * SCALE_CODES)

    return fit


def _scales(v: Any) -> Any:
    """fit(x, w, work): codes and scale codes; the block's scale: the largest of a group, over -32."""
    size, group, extreme_of, whole = 4 * v.L, _group_scale(v), extreme(v, 16), nearest(v, -32, 31)

    @v.njit
    def fit(x, w, work):
        for g in range(16):
            at = size * 16 * g
            v.store_f(work + size * (SCALES + g), group(x + at, w + at, work + at))
        top = extreme_of(work + size * SCALES)
        zero = v.splat_f(0.0)
        none = v.eq(top, zero)
        factor = v.choose(none, zero, v.splat_f(-32.0) / top)
        for g in range(16):
            code = v.round_i(whole(factor * v.load_f(work + size * (SCALES + g)))) + v.splat_i(32)
            v.store_i(work + size * (SCALE_CODES + g), v.choose_i(none, v.splat_i(0), code))
        return v.choose(none, zero, v.splat_f(1.0) / factor)

    return fit


def _group_scale(v: Any) -> Any:
    """scale(x, w, codes): of 16 weights, after codes were changed one by one where that lowers the error.

    An error counts x². Codes are i32 from 0 to 7, and whole f32 around 0 at w meanwhile. ggml's make_q3_quants, which
    changes nothing where the sum of x · code is not positive.
    """
    size, extreme_of, whole, one_code = 4 * v.L, extreme(v, 16), nearest(v, -4, 3), change(v, -4, 3)

    @v.njit
    def scale(x, w, codes):
        zero = v.splat_f(0.0)
        top, dot, norm = extreme_of(x), zero, zero
        dead = v.gt(v.splat_f(TINY), v.abs(top))
        factor = v.choose(dead, zero, v.splat_f(-4.0) / top)
        for i in range(16):
            one = v.load_f(x + size * i)
            code = whole(factor * one)
            v.store_f(w + size * i, code)
            dot, norm = dot + one * one * one * code, norm + one * one * code * code
        for _ in range(5):
            changed = v.splat_i(0)
            for i in range(16):
                one = v.load_f(x + size * i)
                dot, norm, better = one_code(one, one * one, w + size * i, dot, norm)
                changed = changed | better
            if v.any(changed) == 0:
                break
        for i in range(16):
            code = v.round_i(v.load_f(w + size * i)) + v.splat_i(4)
            v.store_i(codes + size * i, v.choose_i(dead, v.splat_i(0), code))
        return v.choose(dead | v.ge(zero, norm), zero, dot / norm)

    return scale


BLOCK = Q3_K()
