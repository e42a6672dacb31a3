"""I8: 8-bit signed integers, computed with in float32."""

from __future__ import annotations

from ggufpy.quants.base import Field, FloatPanel, PlainType


class I8(PlainType):
    """8-bit signed integers, computed with in float32."""

    name = "I8"
    id = 24
    nbytes = 1
    layout = (Field("w", "i8", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("f32")


BLOCK = I8()
