"""x *= factor.

    x      [n_rows][n_blocks][32] f32, rows x_stride bytes apart
    step   i64: n_rows

Work units are (row, block).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step_ptr", "x_ptr", "n_blocks", "x_stride", "factor:f4")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def scale(args, ith, nth):
        blocks, stride, x0, factor = args.n_blocks, args.x_stride, args.x_ptr, v.splat_f(args.factor)
        units = v.load_i64(args.step_ptr) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            x = x0 + token * stride + 128 * (unit - token * blocks)
            for i in range(32 // v.L):
                v.store_f(x + 4 * v.L * i, v.load_f(x + 4 * v.L * i) * factor)

    return scale
