"""Q4_K: 4-bit codes; 8 groups of 32 with 6-bit scale and minimum."""

from __future__ import annotations

from typing import Any

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, joined, planes
from ggufpy.quants.decoding import half_at, put_above
from ggufpy.quants.kscales import (
    Groups,
    affine_groups,
    lane_scales_and_minima,
    put_nibble_runs,
    put_scales_and_minima,
    scale_and_minimum,
    scales_and_minima,
)
from ggufpy.quants.lanes import Scan, put_half
from ggufpy.quants.words import Words, plane_codes

SHAPE = Groups(32, 15, 63, Scan(-1.0, 0.1, 21), spread=True, square=2.0)


class Q4_K(BlockType):
    """4-bit codes; 8 groups of 32 with 6-bit scale and minimum."""

    name = "Q4_K"
    id = 12
    weights = 256
    nbytes = 144
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
        Field(
            "qs",
            "u8",
            128,
            "four runs of 32 bytes; byte l of run r: q of weight 64 r + l low, of weight 64 r + 32 + l high",
        ),
    )
    formula = "d * sc * q - dmin * mn"
    panel = IntPanel(4, 32, 0, has_min=True)
    code_values = tuple(range(0, 16))
    encoder = "lanes"
    decoder = "blocks"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]).reshape(-1, 32), 4)
        scale, minimum = scales_and_minima(rec)
        return Fields(codes, scale, minimum)

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        runs = codes.reshape(*codes.shape[:-1], 4, 64)
        rec["qs"] = joined(runs, 4).reshape(rec["qs"].shape)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Planes of four bits."""
        words = Words(self)
        return plane_codes(v, words.first("qs"), 4), *lane_scales_and_minima(v, words)

    def block_decoder(self, v: Any) -> Any:
        """Four runs of bytes, the low halves one group, the high ones the next."""
        half, one, codes, L = half_at(v), put_above(v), scale_and_minimum(v), v.L

        @v.njit
        def decode(at, out):
            d, dmin = half(at), v.splat_f(-1.0) * half(at + 2)
            for group in range(8):
                sc, mn = codes(at + 4, group)
                scale, minimum = d * sc, dmin * mn
                for i in range(0, 32, L):
                    byte = v.load_u8s(at + 16 + 32 * (group // 2) + i) >> (4 * (group % 2))
                    code = byte & v.splat_i(15)
                    one(out + 4 * (32 * group + i), code, scale, minimum)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """ggml's search for scales and minima of groups, then for those of the block."""
        half, groups = put_half(v), affine_groups(v, weighted, SHAPE)
        scales, nibbles = put_scales_and_minima(v), put_nibble_runs(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scale, minimum = groups(x, w, work)
            half(out, 0, scale)
            half(out, 2, minimum)
            scales(out, 4, work)
            nibbles(out, 16, work)

        return encode


BLOCK = Q4_K()
