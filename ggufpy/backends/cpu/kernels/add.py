"""y += x, rows of `blocks` blocks of 32 floats. Work units are (token, block)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step", "x", "y", "blocks", "stride")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def add(args, ith, nth):
        blocks, stride, x0, y0 = args.blocks, args.stride, args.x, args.y
        units = v.load_i64(args.step) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            at = token * stride + 128 * (unit - token * blocks)
            for i in range(32 // v.L):
                v.store_f(y0 + at + 4 * v.L * i, v.load_f(y0 + at + 4 * v.L * i) + v.load_f(x0 + at + 4 * v.L * i))

    return add
