"""Q8_0: 8-bit signed codes with a scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact
from ggufpy.quants.decoding import half_at, put
from ggufpy.quants.lanes import inverse, put_half
from ggufpy.quants.words import Words, byte_codes, half_field


class Q8_0(BlockType):
    """8-bit signed codes with a scale."""

    name = "Q8_0"
    id = 8
    weights = 32
    nbytes = 34
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("qs", "i8", 32, "q of each weight"),
    )
    formula = "d * q"
    panel = IntPanel(8, 32, 128)
    code_values = tuple(range(1, 256))
    encoder = "lanes"
    uses_importance = False
    decoder = "blocks"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = compact(rec["qs"]) ^ np.uint8(128)
        return Fields(codes, rec["d"].astype(np.float32))

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        rec["qs"] = (codes ^ np.uint8(128)).view(np.int8)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Bytes."""
        words = Words(self)
        return byte_codes(v, words.first("qs")), half_field(v, words, "d"), None

    def block_decoder(self, v: Any) -> Any:
        """Thirty-two signed bytes."""
        half, one, L = half_at(v), put(v), v.L

        @v.njit
        def decode(at, out):
            scale = half(at)
            for i in range(0, 32, L):
                one(out + 4 * i, v.load_i8(at + 2 + i), 0, scale)

        return decode

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """The largest magnitude becomes ±127, halves round away from zero. Importance makes no difference."""
        half, inverse_of, size, L = put_half(v), inverse(v), 4 * v.L, v.L
        below_half = int(np.nextafter(np.float32(0.5), np.float32(0)).view(np.int32))  # 0.5 would take 0.49999997 up

        @v.njit
        def encode(x, w, mean, out, work, tables):
            top = v.splat_f(0.0)
            for i in range(32):
                top = v.max(v.abs(v.load_f(x + size * i)), top)
            scale = top / v.splat_f(127.0)
            factor = inverse_of(scale)
            half(out, 0, scale)
            for i in range(32):
                code = v.load_f(x + size * i) * factor
                sign = v.as_i(code) & v.splat_i(-0x80000000)
                v.store_i8(out + L * (2 + i), v.trunc_i(code + v.as_f(sign | v.splat_i(below_half))))

        return encode


BLOCK = Q8_0()
