"""I32: 32-bit signed integers, computed with in float32."""

from __future__ import annotations

from ggufpy.quants.base import Field, FloatPanel, PlainType


class I32(PlainType):
    """32-bit signed integers, computed with in float32."""

    name = "I32"
    id = 26
    nbytes = 4
    layout = (Field("w", "i32", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("f32")


BLOCK = I32()
