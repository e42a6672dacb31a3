"""I64: 64-bit signed integers, computed with in float32."""

from __future__ import annotations

from ggufpy.quants.base import Field, FloatPanel, PlainType


class I64(PlainType):
    """64-bit signed integers, computed with in float32."""

    name = "I64"
    id = 27
    nbytes = 8
    layout = (Field("w", "i64", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("f32")


BLOCK = I64()
