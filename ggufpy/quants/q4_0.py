"""Q4_0: 4-bit codes around 8 with a scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import compact, planes
from ggufpy.quants.search import columns, emphasis, put_nibbles, symmetric, symmetric_search


class Q4_0(BlockType):
    """4-bit codes around 8 with a scale."""

    name = "Q4_0"
    id = 2
    weights = 32
    nbytes = 18
    layout = (
        Field("d", "f16", 1, "scale"),
        Field(
            "qs",
            "u8",
            16,
            "byte j: q of weight j in the low four bits, of weight j + 16 in the high four",
        ),
    )
    formula = "d * (q - 8)"
    panel = IntPanel(4, 32, 8)
    encodes = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        scale = rec["d"].astype(np.float32)
        codes = planes(compact(rec["qs"]), 4)
        return Fields(codes, scale)

    def encode(self, x: Floats, importance: Floats | None) -> Bytes:
        """ggml's rounding, or its weighted search where there is an importance."""
        block = columns(x)
        rounded = symmetric(block, 8) if importance is None else symmetric_search(block, emphasis(x, importance), 8)
        rec = np.empty(block.shape[1], dtype=self.record)
        with np.errstate(over="ignore"):
            rec["d"] = rounded.scale
        put_nibbles(rec, rounded.codes)
        return rec.view(np.uint8).reshape(x.shape[0], -1)


BLOCK = Q4_0()
