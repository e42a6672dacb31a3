"""Q2_0: 2-bit codes around 1, with a scale."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, shifted
from ggufpy.quants.codebooks import ternary
from ggufpy.quants.lanes import put_half
from ggufpy.quants.words import Words, byte_field, half_field


class Q2_0(BlockType):
    """2-bit codes around 1, with a scale."""

    name = "Q2_0"
    id = 42
    weights = 64
    nbytes = 18
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("qs", "u8", 16, "bits 2i and 2i+1 of byte j: q of weight 4 j + i"),
    )
    formula = "d * (q - 1)"
    panel = IntPanel(2, 32, 1)
    encoder = "lanes"
    uses_importance = False
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = np.take(_quads(), compact(rec["qs"])).view(np.uint8)
        return Fields(codes, np.repeat(rec["d"].astype(np.float32), 2, axis=1))

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Four codes a byte, whose bits move to bytes of their own."""
        words = Words(self)
        quads = byte_field(v, words.first("qs"))

        @v.njit
        def codes(work, s, out):
            for g in range(8):
                four = quads(work, 8 * s + g)
                out[g] = (four | (four << 6) | (four << 12) | (four << 18)) & v.splat_i(0x03030303)

        return codes, half_field(v, words, "d"), None

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """Each weight to the nearest of -1, 0 and 1 times the largest magnitude; an importance changes nothing."""
        L, size = v.L, 4 * v.L
        half, ternary_codes = put_half(v), ternary(v, 64)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            half(out, 0, ternary_codes(x, work))
            for j in range(16):
                byte = v.load_i(work + size * 4 * j)
                for i in range(1, 4):
                    byte = byte | (v.load_i(work + size * (4 * j + i)) << (2 * i))
                v.store_i8(out + L * (2 + j), byte)

        return encode


@cache
def _quads() -> NDArray[np.uint32]:
    """(256,) words of the four codes in each byte."""
    return shifted(np.arange(256, dtype=np.uint8)[:, None], (0, 2, 4, 6), 3).view(np.uint32)[:, 0]


BLOCK = Q2_0()
