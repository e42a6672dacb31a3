"""Q8_1: Q8_0 with the sum of the block beside it (for activations, rarely in a file)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact
from ggufpy.quants.words import Words, byte_codes, half_field


class Q8_1(BlockType):
    """Q8_0 with the sum of the block beside it (for activations, rarely in a file)."""

    name = "Q8_1"
    id = 9
    weights = 32
    nbytes = 36
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("s", "f16", 1, "d times the sum of q; not needed to decode"),
        Field("qs", "i8", 32, "q of each weight"),
    )
    formula = "d * q"
    panel = IntPanel(8, 32, 128)
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = compact(rec["qs"]) ^ np.uint8(128)
        return Fields(codes, rec["d"].astype(np.float32))

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Bytes."""
        words = Words(self)
        return byte_codes(v, words.first("qs")), half_field(v, words, "d"), None


BLOCK = Q8_1()
