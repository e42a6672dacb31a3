"""Q8_0: 8-bit signed codes with a scale."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import compact
from ggufpy.quants.search import inverse


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
    encodes = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = compact(rec["qs"]) ^ np.uint8(128)
        return Fields(codes, rec["d"].astype(np.float32))

    def encode(self, x: Floats, importance: Floats | None) -> Bytes:
        """The largest magnitude becomes ±127, halves round away from zero. Importance makes no difference."""
        block = x.reshape(-1, 32)
        scale = np.abs(np.maximum(block.max(axis=1), -block.min(axis=1))) / np.float32(127)
        codes = block * inverse(scale)[:, None]
        # The largest float below one half: adding a half itself would round 0.49999997 up.
        codes += np.copysign(np.nextafter(np.float32(0.5), np.float32(0)), codes)
        rec = np.empty(len(block), dtype=self.record)
        with np.errstate(over="ignore"):
            rec["d"] = scale
        rec["qs"] = codes.astype(np.int8)  # truncates
        return rec.view(np.uint8).reshape(x.shape[0], -1)


BLOCK = Q8_0()
