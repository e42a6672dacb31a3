"""NVFP4: 4-bit floats (E2M1); 4 groups of 16 with an 8-bit float scale (E4M3)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import code_table, compact, planes, remap
from ggufpy.quants.codebooks import E2M1_LEVELS, e2m1, magnitude
from ggufpy.quants.words import Words, byte_field

TABLE = code_table(E2M1_LEVELS, 32)


class NVFP4(BlockType):
    """4-bit floats (E2M1); 4 groups of 16 with an 8-bit float scale (E4M3)."""

    name = "NVFP4"
    id = 40
    weights = 64
    nbytes = 36
    layout = (
        Field("d", "u8", 4, "scale of each group: E4M3 without its sign bit, 0x7F (NaN) counting as 0"),
        Field(
            "qs",
            "u8",
            32,
            "four runs of 8 bytes; byte j of run g: index q of weight 16 g + j in the low four bits, of "
            "weight 16 g + 8 + j in the high four",
        ),
    )
    formula = "E4M3(d) / 2 * level[q], level being twice the E2M1 value"
    panel = IntPanel(6, 16, 32)
    encoder = "lanes"
    uses_importance = False
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = remap(planes(compact(rec["qs"]).reshape(-1, 8), 4), TABLE)
        scale = np.take(scale_table(), compact(rec["d"]))
        return Fields(codes, scale)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Runs of 8 bytes, two indices each, with a scale."""
        words = Words(self)
        first, look = words.first("qs"), v.byte_table(TABLE[:16])
        scales, value = byte_field(v, words.first("d")), half_e4m3(v)

        @v.njit
        def codes(work, s, out):
            for g in range(8):
                word = work[first + 4 * s + g // 4 * 2 + g % 2] >> (g // 2 % 2 * 4)
                out[g] = look(word & v.splat_i(0x0F0F0F0F))

        @v.njit
        def scale(work, s, h):
            code = scales(work, 2 * s + h)
            return value(v.choose_i(v.eq_i(code, v.splat_i(0x7F)), v.splat_i(0), code & v.splat_i(0x7F)))

        return codes, scale, None

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """Scales that put the largest magnitude of a group on level 12; an importance changes nothing.

        The largest scale reaches 2688, beyond which weights become that; the least, 3 / 1024, below which they are 0.
        """
        L, size = v.L, 4 * v.L
        magnitude_of, nearest, to_scale, from_scale = magnitude(v, 16), e2m1(v), e4m3(v), half_e4m3(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            for g in range(4):
                group = x + size * 16 * g
                code = to_scale(magnitude_of(group) / v.splat_f(6.0))
                scale = from_scale(code)
                v.store_i8(out + L * g, code)
                for j in range(8):
                    low = nearest(v.load_f(group + size * j), scale)
                    high = nearest(v.load_f(group + size * (8 + j)), scale)
                    v.store_i8(out + L * (4 + 8 * g + j), low | (high << 4))

        return encode


def e4m3(v: Any) -> Any:
    """e4m3(x): x >= 0 as ggml rounds it to E4M3 without sign: halves up, and all from 256 on to 448."""

    @v.njit
    def e4m3(x):
        x = v.min(x, v.splat_f(448.0))
        bits = v.as_i(x)
        rounded = ((bits >> 19) + v.splat_i(1)) >> 1  # eighths of a power of two above 2^-127
        normal = rounded - v.splat_i((127 - 7) << 3)
        small = v.min_i(v.trunc_i(x * v.splat_f(512.0) + v.splat_f(0.5)), v.splat_i(7))
        code = v.choose_i(v.gt(v.splat_f(2.0**-6), x), small, normal)
        return v.choose_i(v.gt_i(code, v.splat_i(0x77)), v.splat_i(0x7E), code)

    return e4m3


def half_e4m3(v: Any) -> Any:
    """half_e4m3(code): half the value of an E4M3 code below 0x7F."""

    @v.njit
    def half_e4m3(code):
        normal = v.as_f((code << 20) + v.splat_i((127 - 8) << 23))
        return v.choose(v.gt_i(code, v.splat_i(7)), normal, v.to_f(code) * v.splat_f(2.0**-10))

    return half_e4m3


@cache
def scale_table() -> Floats:
    """(256,) half of E4M3 by byte, bit 7 ignored; 0x7F stands for zero."""
    byte = np.arange(256, dtype=np.int32)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    normal = np.ldexp((8 + mantissa).astype(np.float32), exponent - 11)
    table: Floats = np.where(exponent == 0, np.ldexp(mantissa.astype(np.float32), -10), normal)
    table[0x7F] = 0
    return table


BLOCK = NVFP4()
