"""F64: 64-bit IEEE floats, computed with in float32."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import Field, FloatPanel, PlainType


class F64(PlainType):
    """64-bit IEEE floats, computed with in float32."""

    name = "F64"
    id = 28
    nbytes = 8
    layout = (Field("w", "f64", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("f32")
    encoder = "numpy"
    source = np.float64


BLOCK = F64()
