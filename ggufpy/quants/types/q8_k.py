"""Q8_K: 8-bit signed codes with a float32 scale (for activations, rarely in a file)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact
from ggufpy.quants.words import Words, byte_codes


class Q8_K(BlockType):
    """8-bit signed codes with a float32 scale (for activations, rarely in a file)."""

    name = "Q8_K"
    id = 15
    weights = 256
    nbytes = 292
    layout = (
        Field("d", "f32", 1, "scale"),
        Field("qs", "i8", 256, "q of each weight"),
        Field("bsums", "i16", 16, "sums of 16 q; not needed to decode"),
    )
    formula = "d * q"
    panel = IntPanel(8, 32, 128)
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = compact(rec["qs"]) ^ np.uint8(128)
        return Fields(codes, np.repeat(rec["d"].astype(np.float32), 8, axis=1))

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Bytes, and one scale that is a float32."""
        words = Words(self)
        d = words.first("d")

        @v.njit
        def scale(work, s, h):
            return v.as_f(work[d])

        return byte_codes(v, words.first("qs")), scale, None


BLOCK = Q8_K()
