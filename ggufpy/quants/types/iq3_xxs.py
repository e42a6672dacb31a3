"""IQ3_XXS: lattice of 256 points of 4 and even signs; 8 groups of 32 with a 4-bit scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants import neighbours
from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact, even_signs, shifted, signed_codes
from ggufpy.quants.grids import iq3_xxs, put_scale, scale_levels, split_signs, weigh
from ggufpy.quants.neighbours import CHOSEN, Search, peak_search

SEARCH = Search(neighbours.IQ3_XXS, 32, 15, 0.2, "off")


class IQ3_XXS(BlockType):
    """Lattice of 256 points of 4 and even signs; 8 groups of 32 with a 4-bit scale."""

    name = "IQ3_XXS"
    id = 18
    weights = 256
    nbytes = 98
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("qs", "u8", 64, "the point of each 4 weights"),
        Field(
            "tail",
            "u32",
            8,
            "group g: bits 7k to 7k+6, seven signs of each 8 weights (the eighth makes them even); bits 28-31, ls",
        ),
    )
    formula = "d * (1/2 + ls) / 2 * ±grid"
    panel = IntPanel(6, 16, 32)
    encoder = "blocks"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        tail = compact(rec["tail"]).view("<u4")
        signs = np.take(even_signs(), shifted(tail, (0, 7, 14, 21), 127))
        points = np.take(iq3_xxs(), compact(rec["qs"])).view(np.uint64)
        codes = signed_codes(points, signs, 32)
        # The lattice is kept halved to fit six bits, so the scale is doubled; 32 weights share it.
        step = np.float32(0.5) + (tail >> np.uint32(28)).astype(np.float32)
        scale = np.repeat(rec["d"].astype(np.float32)[..., None] * step, 2, axis=-1)
        return Fields(codes, scale)

    def tables(self) -> Sequence[NDArray[Any]]:
        """The map of the lattice and its lists of neighbours."""
        return neighbours.tables(SEARCH.lattice)

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        """quantize_row_iq3_xxs_impl."""
        weights, signs_of, search = weigh(v, 2, weighted), split_signs(v, True), peak_search(v, SEARCH, 1e-8, 127)
        half, levels, zero, top = put_scale(v, 1.0125), scale_levels(v, 8, 16), np.float32(0), np.float32(31)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scales, signs, work = work, work + 64, work + 192
            weights(x, w)
            signs_of(x, w, signs)
            numbers, largest = v.load_i64(tables), zero
            for g in range(8):
                scale = search(x + 128 * g, w + 128 * g, signs + 16 * g, work, tables)
                for k in range(8):
                    v.store_u8(out + 2 + 8 * g + k, 0 + v.load_i32(numbers + 4 * v.load_i32(work + CHOSEN + 4 * k)))
                v.store_f32(scales + 4 * g, scale)
                largest = largest if largest > scale else scale
            half(out, largest / top, work)
            levels(scales, largest / top)
            for g in range(8):
                tail = v.load_i32(scales + 4 * g) << 28
                for k in range(4):
                    tail |= v.load_i32(signs + 16 * g + 4 * k) << (7 * k)
                v.store_u16(out + 66 + 4 * g, tail & 0xFFFF)
                v.store_u16(out + 68 + 4 * g, tail >> 16 & 0xFFFF)

        return encode


BLOCK = IQ3_XXS()
