"""Zeros in columns `first` to `last` of rows: what is left of a wider row behind a narrower one.

    x      [n_rows] rows of f32, x_stride bytes apart
    step   i64: n_rows

Work units are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step_ptr", "x_ptr", "x_stride", "first", "last")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def clear(args, ith, nth):
        x, stride, first, last = args.x_ptr, args.x_stride, args.first, args.last
        rows = v.load_i64(args.step_ptr)
        for row in range(rows * ith // nth, rows * (ith + 1) // nth):
            for i in range(first, last):
                v.store_f32(x + row * stride + 4 * i, 0.0)

    return clear
