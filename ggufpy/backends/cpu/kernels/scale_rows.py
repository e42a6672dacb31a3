"""x *= factors[row], rows of `n_blocks` blocks of 32 floats; there is one float32 factor a row.

Work units are (row, block).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step_ptr", "factors_ptr", "x_ptr", "n_blocks", "x_stride")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def scale_rows(args, ith, nth):
        blocks, stride, x0, factors = args.n_blocks, args.x_stride, args.x_ptr, args.factors_ptr
        units = v.load_i64(args.step_ptr) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            row = unit // blocks
            x, by = x0 + row * stride + 128 * (unit - row * blocks), v.splat_f(v.load_f32(factors + 4 * row))
            for i in range(32 // v.L):
                v.store_f(x + 4 * v.L * i, v.load_f(x + 4 * v.L * i) * by)

    return scale_rows
