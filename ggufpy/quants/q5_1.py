"""Q5_1: 5-bit codes with a scale and a minimum."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import bit_string, compact, planes, put_high
from ggufpy.quants.search import affine, affine_search, columns, emphasis, put_fifth_bits, put_nibbles


class Q5_1(BlockType):
    """5-bit codes with a scale and a minimum."""

    name = "Q5_1"
    id = 7
    weights = 32
    nbytes = 24
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("m", "f16", 1, "minimum"),
        Field("qh", "u32", 1, "bit j: bit 4 of q of weight j"),
        Field("qs", "u8", 16, "byte j: low four bits of q of weight j, then of weight j + 16"),
    )
    formula = "d * q + m"
    panel = IntPanel(5, 32, 0, has_min=True)
    encodes = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]), 4)
        put_high(codes, bit_string(compact(rec["qh"][..., None])), 4)
        return Fields(codes, rec["d"].astype(np.float32), rec["m"].astype(np.float32))

    def encode(self, x: Floats, importance: Floats | None) -> Bytes:
        """ggml's rounding, or its weighted search where there is an importance."""
        block = columns(x)
        rounded = affine(block, 31) if importance is None else affine_search(block, emphasis(x, importance), 31)
        rec = np.empty(block.shape[1], dtype=self.record)
        with np.errstate(over="ignore"):
            rec["d"] = rounded.scale
            rec["m"] = rounded.minimum
        put_fifth_bits(rec, rounded.codes)
        put_nibbles(rec, rounded.codes)
        return rec.view(np.uint8).reshape(x.shape[0], -1)


BLOCK = Q5_1()
