"""IQ3_S: lattice of 512 points of 4 and free signs; 8 groups of 32 with a 4-bit scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants import neighbours
from ggufpy.quants.base import BlockType, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import bit_string, compact, shifted, signed_codes
from ggufpy.quants.grids import iq3_s, put_scale, scale_levels, split_signs, weigh
from ggufpy.quants.neighbours import CHOSEN, Search, peak_search

SEARCH = Search(neighbours.IQ3_S, 32, 9, 0.2, "any")


class IQ3_S(BlockType):
    """Lattice of 512 points of 4 and free signs; 8 groups of 32 with a 4-bit scale."""

    name = "IQ3_S"
    id = 21
    weights = 256
    nbytes = 110
    layout = (
        Field("d", "f16", 1, "scale of the scales"),
        Field("qs", "u8", 64, "low eight bits of the point of each 4 weights"),
        Field("qh", "u8", 8, "bit i of byte g: upper bit of point 8 g + i"),
        Field("signs", "u8", 32, "bit j of byte k: weight 8 k + j is negative"),
        Field("scales", "u8", 4, "low nibble: ls of the even group, high nibble: of the odd one"),
    )
    formula = "d * (1 + 2 ls) * ±grid"
    panel = IntPanel(5, 32, 16)
    encoder = "blocks"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        index = compact(rec["qs"]) | bit_string(compact(rec["qh"])).astype(np.uint16) << np.uint16(8)
        codes = signed_codes(np.take(iq3_s(), index).view(np.uint64), compact(rec["signs"]), 16)
        step = np.uint8(2) * shifted(compact(rec["scales"]), (0, 4), 15) + np.uint8(1)
        scale = rec["d"].astype(np.float32)[..., None] * step.astype(np.float32)
        return Fields(codes, scale)

    def tables(self) -> Sequence[NDArray[Any]]:
        """The map of the lattice and its lists of neighbours."""
        return neighbours.tables(SEARCH.lattice)

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        """quantize_row_iq3_s_impl, but that a group of zeros does not displace those after it."""
        weights, signs_of, search = weigh(v, 2, weighted), split_signs(v, False), peak_search(v, SEARCH, 1e-45, 255)
        half, levels, zero, top = put_scale(v, 1.033), scale_levels(v, 8, 16), np.float32(0), np.float32(31)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scales, signs, work = work, work + 64, work + 192
            weights(x, w)
            signs_of(x, w, signs)
            numbers, largest = v.load_i64(tables), zero
            for g in range(8):
                scale = search(x + 128 * g, w + 128 * g, signs + 16 * g, work, tables)
                high = 0
                for k in range(8):
                    point = v.load_i32(numbers + 4 * v.load_i32(work + CHOSEN + 4 * k))
                    v.store_u8(out + 2 + 8 * g + k, 0 + point)
                    high |= (point >> 8) << k
                v.store_u8(out + 66 + g, high)
                for k in range(4):
                    v.store_u8(out + 74 + 4 * g + k, 0 + v.load_i32(signs + 16 * g + 4 * k))
                v.store_f32(scales + 4 * g, scale)
                largest = largest if largest > scale else scale
            half(out, largest / top, work)
            levels(scales, largest / top)
            for g in range(4):
                low, high = v.load_i32(scales + 8 * g), v.load_i32(scales + 8 * g + 4)
                v.store_u8(out + 106 + g, low | (high << 4))

        return encode


BLOCK = IQ3_S()
