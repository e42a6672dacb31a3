"""BF16: bfloat16, the upper half of a float32."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import Bytes, Field, FloatPanel, Floats, PlainType


class BF16(PlainType):
    """Bfloat16, the upper half of a float32."""

    name = "BF16"
    id = 30
    nbytes = 2
    layout = (Field("w", "bf16", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("bf16")
    encoder = "numpy"

    def decode_blocks(self, blocks: Bytes, out: Floats) -> None:
        """The bits, moved to the upper half of a float32."""
        out[...] = (self.records(blocks)["w"].astype(np.uint32) << np.uint32(16)).view(np.float32)

    def encode(self, x: Floats) -> Bytes:
        """Rounds to nearest, ties to even; a NaN stays one, made quiet (upper bits kept)."""
        bits = np.ascontiguousarray(x).view(np.uint32)
        upper = bits >> np.uint32(16)
        rounded = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
        nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        np.copyto(rounded, upper | np.uint32(64), where=nan)
        out: Bytes = rounded.astype("<u2").view(np.uint8)
        return out


BLOCK = BF16()
