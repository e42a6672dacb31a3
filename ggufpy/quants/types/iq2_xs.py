"""IQ2_XS: lattice of 512 points and even signs; 16 groups of 16 with a 4-bit scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants import neighbours
from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, even_signs, shifted, signed_codes
from ggufpy.quants.grids import iq2_xs, put_scale, scale_levels, split_signs, weigh
from ggufpy.quants.neighbours import CHOSEN, Search, peak_search

SEARCH = Search(neighbours.IQ2_XS, 16, 9, 0.1, "off")


class IQ2_XS(BlockType):
    """Lattice of 512 points and even signs; 16 groups of 16 with a 4-bit scale."""

    name = "IQ2_XS"
    id = 17
    weights = 256
    nbytes = 74
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field(
            "qs",
            "u16",
            32,
            "each 8 weights: bits 0-8, the point; bits 9-15, seven signs, the eighth makes them even",
        ),
        Field("scales", "u8", 8, "low nibble: ls of the even group, high nibble: of the odd one"),
    )
    formula = "d * (1/2 + ls) / 4 * ±grid"
    panel = IntPanel(8, 16, 128)
    encoder = "blocks"
    needs_importance = True

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        qs = compact(rec["qs"]).view("<u2")
        signs = np.take(even_signs(), qs >> np.uint16(9))
        codes = signed_codes(np.take(iq2_xs(), qs & np.uint16(511)), signs, 128)
        step = np.float32(0.5) + shifted(compact(rec["scales"]), (0, 4), 15).astype(np.float32)
        scale = rec["d"].astype(np.float32)[..., None] * step * np.float32(0.25)
        return Fields(codes, scale)

    def tables(self) -> Sequence[NDArray[Any]]:
        """The map of the lattice and its lists of neighbours."""
        return neighbours.tables(SEARCH.lattice)

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        """quantize_row_iq2_xs_impl."""
        weights, signs_of, search = weigh(v, 1, weighted), split_signs(v, True), peak_search(v, SEARCH, 1e-15, 127)
        half, levels, zero, top = put_scale(v, 1.0), scale_levels(v, 16, 16), np.float32(0), np.float32(31)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scales, signs, work = work, work + 64, work + 192
            weights(x, w)
            signs_of(x, w, signs)
            numbers, largest = v.load_i64(tables), zero
            for g in range(16):
                scale = search(x + 64 * g, w + 64 * g, signs + 8 * g, work, tables)
                for k in range(2):
                    point = v.load_i32(numbers + 4 * v.load_i32(work + CHOSEN + 4 * k))
                    v.store_u16(out + 2 + 4 * g + 2 * k, point | (v.load_i32(signs + 8 * g + 4 * k) << 9))
                v.store_f32(scales + 4 * g, scale)
                largest = largest if largest > scale else scale
            half(out, largest / top, work)
            levels(scales, largest / top)
            for g in range(8):
                v.store_u8(out + 66 + g, v.load_i32(scales + 8 * g) | (v.load_i32(scales + 8 * g + 4) << 4))

        return encode


BLOCK = IQ2_XS()
