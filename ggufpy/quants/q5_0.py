"""Q5_0: 5-bit codes around 16 with a scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import bit_string, compact, planes, put_high
from ggufpy.quants.search import columns, emphasis, put_fifth_bits, put_nibbles, symmetric, symmetric_search


class Q5_0(BlockType):
    """5-bit codes around 16 with a scale."""

    name = "Q5_0"
    id = 6
    weights = 32
    nbytes = 22
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("qh", "u32", 1, "bit j: bit 4 of q of weight j"),
        Field("qs", "u8", 16, "byte j: low four bits of q of weight j, then of weight j + 16"),
    )
    formula = "d * (q - 16)"
    panel = IntPanel(5, 32, 16)
    encodes = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]), 4)
        put_high(codes, bit_string(compact(rec["qh"][..., None])), 4)
        return Fields(codes, rec["d"].astype(np.float32))

    def encode(self, x: Floats, importance: Floats | None) -> Bytes:
        """ggml's rounding, or its weighted search where there is an importance."""
        block = columns(x)
        rounded = symmetric(block, 16) if importance is None else symmetric_search(block, emphasis(x, importance), 16)
        rec = np.empty(block.shape[1], dtype=self.record)
        with np.errstate(over="ignore"):
            rec["d"] = rounded.scale
        put_fifth_bits(rec, rounded.codes)
        put_nibbles(rec, rounded.codes)
        return rec.view(np.uint8).reshape(x.shape[0], -1)


BLOCK = Q5_0()
