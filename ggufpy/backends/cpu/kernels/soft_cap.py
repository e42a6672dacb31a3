"""x = cap · tanh(x / cap).

    x      [n_rows][n_blocks][32] f32, rows x_stride bytes apart
    step   i64: n_rows

Work units are (row, block).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .common import capper

ARGS = struct("step_ptr", "x_ptr", "n_blocks", "x_stride", "cap:f4")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    capped = capper(v)

    def soft_cap(args, ith, nth):
        blocks, stride, x0, cap = args.n_blocks, args.x_stride, args.x_ptr, args.cap
        units = v.load_i64(args.step_ptr) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            x = x0 + token * stride + 128 * (unit - token * blocks)
            for i in range(32 // v.L):
                v.store_f(x + 4 * v.L * i, capped(v.load_f(x + 4 * v.L * i), cap))

    return soft_cap
