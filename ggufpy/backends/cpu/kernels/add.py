"""y += x.

    x, y   [n_rows][n_blocks][32] f32, rows x_stride and y_stride bytes apart
    step   i64: n_rows

Work units are (row, block).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step_ptr", "x_ptr", "y_ptr", "n_blocks", "x_stride", "y_stride")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def add(args, ith, nth):
        blocks, x_stride, y_stride, x0, y0 = args.n_blocks, args.x_stride, args.y_stride, args.x_ptr, args.y_ptr
        units = v.load_i64(args.step_ptr) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            at = 128 * (unit - token * blocks)
            x, y = x0 + token * x_stride + at, y0 + token * y_stride + at
            for i in range(32 // v.L):
                v.store_f(y + 4 * v.L * i, v.load_f(y + 4 * v.L * i) + v.load_f(x + 4 * v.L * i))

    return add
