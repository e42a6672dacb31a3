"""Copies rows of floats: y[i] = x[rows[i]]; `step` points to their number. Work units are rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step", "rows", "x", "y", "stride")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def select(args, ith, nth):
        x, y, stride, count = args.x, args.y, args.stride, v.load_i64(args.step)
        for i in range(count * ith // nth, count * (ith + 1) // nth):
            source = x + v.load_i64(args.rows + 8 * i) * stride
            for at in range(0, stride, v.L * 4):
                v.store_f(y + i * stride + at, v.load_f(source + at))

    return select
