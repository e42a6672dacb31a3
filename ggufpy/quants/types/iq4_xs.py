"""IQ4_XS: 4-bit indices of the levels of IQ4_NL; 8 groups of 32 with a signed 6-bit scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import code_table, compact, index_table, joined, planes, remap, shifted
from ggufpy.quants.codebooks import IQ4_LEVELS, iq4_codes, iq4_search, iq4_weights
from ggufpy.quants.lanes import inverse, put_half, put_nibbles
from ggufpy.quants.words import Words, half_field, level_codes, nibble_codes

TABLE, INDICES = code_table(IQ4_LEVELS, 128), index_table(IQ4_LEVELS, 128)


class IQ4_XS(BlockType):
    """4-bit indices of the levels of IQ4_NL; 8 groups of 32 with a signed 6-bit scale."""

    name = "IQ4_XS"
    id = 23
    weights = 256
    nbytes = 136
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("scales_h", "u16", 1, "bits 2g and 2g+1: upper bits of ls of group g"),
        Field("scales_l", "u8", 4, "low four bits of ls: low nibble, the even group"),
        Field("qs", "u8", 128, "eight runs of 16 bytes, each as in IQ4_NL"),
    )
    formula = "d * (ls - 32) * level[q]"
    panel = IntPanel(8, 32, 128)
    code_values = tuple(sorted(level + 128 for level in IQ4_LEVELS))
    encoder = "lanes"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = remap(planes(compact(rec["qs"]).reshape(-1, 16), 4), TABLE)
        high = shifted(rec["scales_h"][..., None], range(0, 16, 2), 3).astype(np.uint8)
        ls = shifted(compact(rec["scales_l"]), (0, 4), 15) | high << np.uint8(4)
        scale = rec["d"].astype(np.float32)[..., None] * (ls.astype(np.float32) - np.float32(32))
        return Fields(codes, scale)

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        runs = remap(codes, INDICES).reshape(*codes.shape[:-1], 8, 32)
        rec["qs"] = joined(runs, 4).reshape(rec["qs"].shape)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Two indices a byte; scales of four bits and two."""
        words = Words(self)
        d, low, (high, shift) = half_field(v, words, "d"), words.first("scales_l"), words.small("scales_h")

        @v.njit
        def scale(work, s, h):
            ls = (work[low] >> (4 * s)) & v.splat_i(15)
            ls = ls | (((work[high] >> (shift + 2 * s)) & v.splat_i(3)) << 4)
            return d(work, s, h) * v.to_f(ls - v.splat_i(32))

        return level_codes(v, nibble_codes(v, words.first("qs")), TABLE), scale, None

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """A scale for each group as in IQ4_NL, then levels again for the scales as they are stored."""
        L, size = v.L, 4 * v.L
        half, nibbles, inverse_of = put_half(v), put_nibbles(v), inverse(v)
        weights, search, codes = iq4_weights(v, 256, weighted), iq4_search(v), iq4_codes(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            weights(w, x)
            run, scales = 32 * size, work + 32 * size  # work holds a group's codes, then the groups' scales
            largest = v.splat_f(0.0)
            for g in range(8):
                scale = search(x + run * g, w + run * g)
                v.store_f(scales + size * g, scale)
                largest = v.choose(v.gt(v.abs(scale), v.abs(largest)), scale, largest)
            unit = largest * v.splat_f(-1 / 32)
            factor = inverse_of(unit)
            half(out, 0, unit)
            high, low = v.splat_i(0), v.splat_i(0)
            for g in range(8):
                level = v.round_i(v.load_f(scales + size * g) * factor)
                level = v.max_i(v.splat_i(-32), v.min_i(v.splat_i(31), level))
                codes(x + run * g, inverse_of(unit * v.to_f(level)), work)
                nibbles(out, 8 + 16 * g, work)
                level = level + v.splat_i(32)
                high = high | ((level >> 4) << (2 * g))
                low = low | ((level & v.splat_i(15)) << (4 * g))
            v.store_i8(out + L * 2, high)
            v.store_i8(out + L * 3, high >> 8)
            for k in range(4):
                v.store_i8(out + L * (4 + k), low >> (8 * k))

        return encode


BLOCK = IQ4_XS()
