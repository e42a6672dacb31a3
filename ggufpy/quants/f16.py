"""F16: 16-bit IEEE floats."""

from __future__ import annotations

from ggufpy.quants.base import Field, FloatPanel, PlainType


class F16(PlainType):
    """16-bit IEEE floats."""

    name = "F16"
    id = 1
    nbytes = 2
    layout = (Field("w", "f16", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("f16")
    encodes = True


BLOCK = F16()
