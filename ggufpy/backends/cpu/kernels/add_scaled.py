"""y += factor · scales[row] · x; a row whose scale is 0 is not touched.

    x, y     [n_rows][n_blocks][32] f32, rows x_stride and y_stride bytes apart
    scales   [n_rows] f32
    step     i64: n_rows

Work units are (row, block).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step_ptr", "scales_ptr", "x_ptr", "y_ptr", "n_blocks", "x_stride", "y_stride", "factor:f4")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def add_scaled(args, ith, nth):
        blocks, scales = args.n_blocks, args.scales_ptr
        units = v.load_i64(args.step_ptr) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            row = unit // blocks
            scale = v.load_f32(scales + 4 * row)
            if scale != 0.0:
                by = v.splat_f(scale * args.factor)
                at = 128 * (unit - row * blocks)
                x, y = args.x_ptr + row * args.x_stride + at, args.y_ptr + row * args.y_stride + at
                for i in range(0, 128, 4 * v.L):
                    v.store_f(y + i, v.fma(v.load_f(x + i), by, v.load_f(y + i)))

    return add_scaled
