"""Q2_0: 2-bit codes around 1, with a scale."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, shifted


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

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = np.take(_quads(), compact(rec["qs"])).view(np.uint8)
        return Fields(codes, np.repeat(rec["d"].astype(np.float32), 2, axis=1))


@cache
def _quads() -> NDArray[np.uint32]:
    """(256,) words of the four codes in each byte."""
    return shifted(np.arange(256, dtype=np.uint8)[:, None], (0, 2, 4, 6), 3).view(np.uint32)[:, 0]


BLOCK = Q2_0()
