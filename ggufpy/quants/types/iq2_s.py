"""IQ2_S: lattice of 1,024 points and free signs; 16 groups of 16 with a 4-bit scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants import neighbours
from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, shifted, signed_codes
from ggufpy.quants.grids import iq2_s, put_scale, scale_levels, split_signs, weigh
from ggufpy.quants.neighbours import CHOSEN, Search, peak_search

SEARCH = Search(neighbours.IQ2_S, 16, 9, 0.1, "off")


class IQ2_S(BlockType):
    """Lattice of 1,024 points and free signs; 16 groups of 16 with a 4-bit scale."""

    name = "IQ2_S"
    id = 22
    weights = 256
    nbytes = 82
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("qs", "u8", 32, "low eight bits of the point of each 8 weights"),
        Field("signs", "u8", 32, "bit j: weight j of the 8 is negative"),
        Field("qh", "u8", 8, "two bits for each 8 weights, low first: upper bits of the point"),
        Field("scales", "u8", 8, "low nibble: ls of the even group, high nibble: of the odd one"),
    )
    formula = "d * (1/2 + ls) / 4 * ±grid"
    panel = IntPanel(8, 16, 128)
    encoder = "blocks"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        high = shifted(compact(rec["qh"]), (0, 2, 4, 6), 3).astype(np.uint16)
        points = np.take(iq2_s(), compact(rec["qs"]) | high << np.uint16(8))
        codes = signed_codes(points, compact(rec["signs"]), 128)
        step = np.float32(0.5) + shifted(compact(rec["scales"]), (0, 4), 15).astype(np.float32)
        scale = rec["d"].astype(np.float32)[..., None] * step * np.float32(0.25)
        return Fields(codes, scale)

    def tables(self) -> Sequence[NDArray[Any]]:
        """The map of the lattice and its lists of neighbours."""
        return neighbours.tables(SEARCH.lattice)

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        """quantize_row_iq2_s_impl."""
        weights, signs_of = weigh(v, 2, weighted, 0.25), split_signs(v, False)
        search = peak_search(v, SEARCH, 1e-8, 255)
        half, levels, zero, top = put_scale(v, 0.9875), scale_levels(v, 16, 16), np.float32(0), np.float32(31)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scales, signs, work = work, work + 64, work + 192
            weights(x, w)
            signs_of(x, w, signs)
            numbers, largest, high = v.load_i64(tables), zero, 0
            for g in range(16):
                scale = search(x + 64 * g, w + 64 * g, signs + 8 * g, work, tables)
                for k in range(2 * g, 2 * g + 2):
                    point = v.load_i32(numbers + 4 * v.load_i32(work + CHOSEN + 4 * (k & 1)))
                    high |= (point >> 8) << (2 * (k & 3))
                    v.store_u8(out + 2 + k, 0 + point)
                    v.store_u8(out + 34 + k, 0 + v.load_i32(signs + 4 * k))
                if g & 1:
                    v.store_u8(out + 66 + (g >> 1), high)
                    high = 0
                v.store_f32(scales + 4 * g, scale)
                largest = largest if largest > scale else scale
            half(out, largest / top, work)
            levels(scales, largest / top)
            for g in range(8):
                v.store_u8(out + 74 + g, v.load_i32(scales + 8 * g) | (v.load_i32(scales + 8 * g + 4) << 4))

        return encode


BLOCK = IQ2_S()
