"""Turns heads of rows in place, by the (cos, sin) pairs that `table` has of each row, `rotated` / 2 of them.

x rows are heads × length floats; pairs are those of `rope_store`. Work units are (row, head).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .rope_store import rotator

ARGS = struct("step", "x", "x_stride", "heads", "length", "table", "rotated", "neox")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    turn = rotator(v)

    def rotate(args, ith, nth):
        heads, length, rotated, neox, table = args.heads, args.length, args.rotated, args.neox, args.table
        x0, stride = args.x, args.x_stride
        units = v.load_i64(args.step) * heads
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            row = unit // heads
            head = x0 + row * stride + 4 * length * (unit - row * heads)
            turn(head, table + 4 * rotated * row, rotated, neox)

    return rotate
