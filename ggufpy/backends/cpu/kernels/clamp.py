"""x = min(max(x, low), high), rows of `n_blocks` blocks of 32 floats. Work units are (token, block)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step_ptr", "x_ptr", "n_blocks", "x_stride", "low:f4", "high:f4")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def clamp(args, ith, nth):
        blocks, stride, x0 = args.n_blocks, args.x_stride, args.x_ptr
        low, high = v.splat_f(args.low), v.splat_f(args.high)
        units = v.load_i64(args.step_ptr) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            x = x0 + token * stride + 128 * (unit - token * blocks)
            for i in range(32 // v.L):
                v.store_f(x + 4 * v.L * i, v.min(v.max(v.load_f(x + 4 * v.L * i), low), high))

    return clamp
