"""Copies rows of floats: y[i] = x[rows[i]].

    x, y   rows of row_bytes bytes, whole vectors of f32, one after the other
    rows   [n_rows] i64
    step   i64: n_rows

Work units are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step_ptr", "rows_ptr", "x_ptr", "y_ptr", "row_bytes")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def select(args, ith, nth):
        x, y, stride, count = args.x_ptr, args.y_ptr, args.row_bytes, v.load_i64(args.step_ptr)
        for i in range(count * ith // nth, count * (ith + 1) // nth):
            source = x + v.load_i64(args.rows_ptr + 8 * i) * stride
            for at in range(0, stride, v.L * 4):
                v.store_f(y + i * stride + at, v.load_f(source + at))

    return select
