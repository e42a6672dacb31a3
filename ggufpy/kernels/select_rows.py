"""Copies rows of floats: y[i] = x[first + i]; `step` points to the number of rows and `first`. Work units are rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .spec import struct

ARGS = struct("step", "x", "y", "stride")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def select(args, ith, nth):
        x, y, stride = args.x, args.y, args.stride
        rows, first = v.load_i64(args.step), v.load_i64(args.step + 8)
        for i in range(rows * ith // nth, rows * (ith + 1) // nth):
            for at in range(0, stride, v.L * 4):
                v.store_f(y + i * stride + at, v.load_f(x + (first + i) * stride + at))

    return select
