"""F16: 16-bit IEEE floats."""

from __future__ import annotations

from typing import Any

from ggufpy.quants.base import Field, FloatPanel, PlainType


class F16(PlainType):
    """16-bit IEEE floats."""

    name = "F16"
    id = 1
    nbytes = 2
    layout = (Field("w", "f16", 1, "the weight"),)
    formula = "w"
    panel = FloatPanel("f16")
    encoder = "numpy"
    decoder = "blocks"

    def block_decoder(self, v: Any) -> Any:
        """The floats, as many as a vector has lanes."""

        @v.njit
        def decode(at, out):
            v.store_f(out, v.load_f16(at))

        return decode


BLOCK = F16()
