"""Q4_1: 4-bit codes with a scale and a minimum."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import compact, planes
from ggufpy.quants.search import affine, affine_search, columns, emphasis, put_nibbles


class Q4_1(BlockType):
    """4-bit codes with a scale and a minimum."""

    name = "Q4_1"
    id = 3
    weights = 32
    nbytes = 20
    layout = (
        Field("d", "f16", 1, "scale"),
        Field("m", "f16", 1, "minimum"),
        Field(
            "qs",
            "u8",
            16,
            "byte j: q of weight j in the low four bits, of weight j + 16 in the high four",
        ),
    )
    formula = "d * q + m"
    panel = IntPanel(4, 32, 0, has_min=True)
    encodes = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = planes(compact(rec["qs"]), 4)
        return Fields(codes, rec["d"].astype(np.float32), rec["m"].astype(np.float32))

    def encode(self, x: Floats, importance: Floats | None) -> Bytes:
        """ggml's rounding, or its weighted search where there is an importance."""
        block = columns(x)
        rounded = affine(block, 15) if importance is None else affine_search(block, emphasis(x, importance), 15)
        rec = np.empty(block.shape[1], dtype=self.record)
        with np.errstate(over="ignore"):
            rec["d"] = rounded.scale
            rec["m"] = rounded.minimum
        put_nibbles(rec, rounded.codes)
        return rec.view(np.uint8).reshape(x.shape[0], -1)


BLOCK = Q4_1()
