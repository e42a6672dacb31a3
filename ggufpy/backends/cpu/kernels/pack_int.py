"""Interleaves codes, scales and minima of rows into integer panels (`layout`).

    codes            [n_rows][n_blocks][32] bytes
    scale, minimum   [n_rows][n_blocks][32 / group] f32, multiplied by `factor` and stored as f16
    out              [panel][n_blocks] blocks of a panel; zeros before, and left so where no row fills the last one

Work units are panels. Constants: bits, group, has_min.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct
from ggufpy.quants.base import IntPanel

from .layout import block_bytes, pieces, scale_offset

ARGS = struct("codes_ptr", "scale_ptr", "minimum_ptr", "n_rows", "n_blocks", "out_ptr", "factor:f4")


def _coder(v: Any, bits: int) -> Any:
    """codes(source, out) puts a row's 32 codes into its i32 lane of each of a block's vectors; out is in the first."""
    places = tuple((p.group, p.vector, p.shift, p.low, 0x01010101 * ((1 << p.width) - 1)) for p in pieces(bits))
    count, vector = len(places), v.L * 4

    @v.njit
    def codes(source, out):
        for i in range(bits):
            word = 0
            for n in range(count):
                place = places[n]
                if place[1] == i:
                    four = v.load_i32(source + 4 * place[0])
                    word |= ((four >> place[3]) & place[4]) << place[2]
            v.store_i32(out + i * vector, word)

    return codes


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    bits, group, has_min = p["bits"], p["group"], p["has_min"]
    L = v.L
    coder = _coder(v, bits)
    scales_at = scale_offset(bits, L)
    halves = 32 // group
    size = block_bytes(IntPanel(bits, group, 0, bool(has_min)), L)

    def pack(args, ith, nth):
        rows, blocks, factor = args.n_rows, args.n_blocks, args.factor
        codes, scale, minimum, out = args.codes_ptr, args.scale_ptr, args.minimum_ptr, args.out_ptr
        panels = (rows + L - 1) // L
        for panel in range(panels * ith // nth, panels * (ith + 1) // nth):
            for b in range(blocks):
                block = out + (panel * blocks + b) * size
                for r in range(min(L, rows - panel * L)):
                    row = panel * L + r
                    coder(codes + row * 32 * blocks + 32 * b, block + 4 * r)
                    for h in range(halves):
                        at = 4 * (row * halves * blocks + halves * b + h)
                        to = block + scales_at + 2 * (h * L + r)
                        v.store_u16(to, v.half_bits(v.load_f32(scale + at) * factor))
                        if has_min:
                            v.store_u16(to + 2 * halves * L, v.half_bits(v.load_f32(minimum + at) * factor))

    return pack
