"""Interleaves codes, scales and minima of rows into integer panels (layout.py). Work units are panels.

Constants: bits, group, has_min. `codes` is (rows, 32 · blocks) bytes, `scale` and `minimum` (rows, 32 · blocks / group)
float32, multiplied by `factor` and stored as f16; rows past the last one are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.quants.base import IntPanel

from .layout import block_bytes, planes, scale_offset
from .spec import struct

ARGS = struct("codes", "scale", "minimum", "rows", "blocks", "out", "factor:f4")


def _plane(v: Any, width: int, shift: int) -> Any:
    """plane(codes, out): one row's 32 codes → one i32 in each of the plane's vectors."""
    L, fields = v.L, 8 // width
    mask = 0x01010101 * ((1 << width) - 1)

    @v.njit
    def plane(codes, out):
        for i in range(width):
            word = 0
            for f in range(fields):
                four = v.load_i32(codes + 4 * (i + width * f))
                word |= ((four >> shift) & mask) << (width * f)
            v.store_i32(out + i * L * 4, word)

    return plane


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    bits, group, has_min = p["bits"], p["group"], p["has_min"]
    L = v.L
    widths = planes(bits)
    low = _plane(v, widths[0], 0)
    high = _plane(v, widths[-1], widths[0] % 8)
    two = len(widths) > 1
    high_at = widths[0] * L * 4
    scales_at = scale_offset(bits, L)
    halves = 32 // group
    size = block_bytes(IntPanel(bits, group, 0, bool(has_min)), L)

    def pack(args, ith, nth):
        rows, blocks, factor = args.rows, args.blocks, args.factor
        codes, scale, minimum, out = args.codes, args.scale, args.minimum, args.out
        panels = (rows + L - 1) // L
        for panel in range(panels * ith // nth, panels * (ith + 1) // nth):
            for b in range(blocks):
                block = out + (panel * blocks + b) * size
                for r in range(min(L, rows - panel * L)):
                    row = panel * L + r
                    source = codes + row * 32 * blocks + 32 * b
                    low(source, block + 4 * r)
                    if two:
                        high(source, block + high_at + 4 * r)
                    for h in range(halves):
                        at = 4 * (row * halves * blocks + halves * b + h)
                        to = block + scales_at + 2 * (h * L + r)
                        v.store_u16(to, v.half_bits(v.load_f32(scale + at) * factor))
                        if has_min:
                            v.store_u16(to + 2 * halves * L, v.half_bits(v.load_f32(minimum + at) * factor))

    return pack
