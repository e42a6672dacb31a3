"""I16: 16-bit signed integers, computed with in float32."""

from __future__ import annotations

from ggufpy.quants.base import Field, FloatPanel, PlainType


class I16(PlainType):
    """16-bit signed integers, computed with in float32."""

    name = "I16"
    id = 25
    nbytes = 2
    layout = (Field("w", "i16", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("f32")


BLOCK = I16()
