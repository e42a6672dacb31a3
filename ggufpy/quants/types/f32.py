"""F32: 32-bit IEEE floats."""

from __future__ import annotations

from ggufpy.quants.base import Field, FloatPanel, PlainType


class F32(PlainType):
    """32-bit IEEE floats."""

    name = "F32"
    id = 0
    nbytes = 4
    layout = (Field("w", "f32", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("f32")
    encoder = "numpy"


BLOCK = F32()
