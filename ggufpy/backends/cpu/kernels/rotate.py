"""Turns heads of rows in place by their positions, where more is done to them before they are stored.

    x       [n_rows][n_heads][n_columns] f32, rows x_stride bytes apart
    table   [n_rows][n_rotated / 2] (cos, sin) f32, of which the first n_rotated columns of a head take one a pair
    step    i64: n_rows

Pairs are those of `rope_store`: columns i and i + n_rotated / 2 with neox, else 2i and 2i + 1. Work units are
(row, head).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .rope_store import rotator

ARGS = struct("step_ptr", "x_ptr", "x_stride", "n_heads", "n_columns", "table_ptr", "n_rotated", "is_neox")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    turn = rotator(v)

    def rotate(args, ith, nth):
        heads, length, rotated, neox, table = args.n_heads, args.n_columns, args.n_rotated, args.is_neox, args.table_ptr
        x0, stride = args.x_ptr, args.x_stride
        units = v.load_i64(args.step_ptr) * heads
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            row = unit // heads
            head = x0 + row * stride + 4 * length * (unit - row * heads)
            turn(head, table + 4 * rotated * row, rotated, neox)

    return rotate
