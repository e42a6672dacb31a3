"""IQ4_NL: 4-bit indices of 16 uneven levels, with a scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import code_table, compact, index_table, joined, planes, remap
from ggufpy.quants.codebooks import IQ4_LEVELS, iq4_codes, iq4_search, iq4_weights
from ggufpy.quants.lanes import inverse, put_half, put_nibbles
from ggufpy.quants.words import Words, half_field, level_codes, nibble_codes

TABLE, INDICES = code_table(IQ4_LEVELS, 128), index_table(IQ4_LEVELS, 128)


class IQ4_NL(BlockType):
    """4-bit indices of 16 uneven levels, with a scale.

    The levels: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.
    """

    name = "IQ4_NL"
    id = 20
    weights = 32
    nbytes = 18
    layout = (
        Field("d", "f16", 1, "scale"),
        Field(
            "qs",
            "u8",
            16,
            "byte j: q of weight j in the low four bits, of weight j + 16 in the high four",
        ),
    )
    formula = "d * level[q]"
    panel = IntPanel(8, 32, 128)
    code_values = tuple(sorted(level + 128 for level in IQ4_LEVELS))
    encoder = "lanes"
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = remap(planes(compact(rec["qs"]), 4), TABLE)
        return Fields(codes, rec["d"].astype(np.float32))

    def put_codes(self, rec: Records, codes: Bytes) -> None:
        """The way back from `unpack`."""
        rec["qs"] = joined(remap(codes, INDICES), 4)

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Two indices a byte."""
        words = Words(self)
        return level_codes(v, nibble_codes(v, words.first("qs")), TABLE), half_field(v, words, "d"), None

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """The best of 16 scales by weighted square error, then the nearest level to each weight."""
        half, nibbles, inverse_of = put_half(v), put_nibbles(v), inverse(v)
        weights, search, codes = iq4_weights(v, 32, weighted), iq4_search(v), iq4_codes(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            weights(w, x)
            scale = search(x, w)
            half(out, 0, scale)
            codes(x, inverse_of(scale), work)
            nibbles(out, 2, work)

        return encode


BLOCK = IQ4_NL()
