"""What a softmax needs of each row of logits: its largest, the sum of e^(x - largest), and where the largest is.

    logits   [n_rows][n_columns] f32, rows logits_stride bytes apart
    out      [n_rows] 16 bytes: f32 largest, f32 sum, i32 column of the first largest, 0

A value that is not a number makes the sum one that is none. Work units are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("n_rows", "logits_ptr", "logits_stride", "n_columns", "out_ptr")

TOGETHER = 32  # vectors whose sum is added to the total at once: pairwise sums lose less


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    @v.njit
    def largest_of(row, whole, columns):
        best = v.splat_f(-3.4e38)
        for i in range(whole):
            best = v.max(v.load_f(row + 4 * v.L * i), best)
        top = v.largest(best)
        for i in range(whole * v.L, columns):
            x = v.load_f32(row + 4 * i)
            if x > top:
                top = x
        return top

    @v.njit
    def sum_of(row, top, whole, columns):
        peak, total = v.splat_f(top), v.splat_f(0.0)
        start = 0
        while start < whole:
            part = v.splat_f(0.0)
            for i in range(start, min(start + TOGETHER, whole)):
                x = v.load_f(row + 4 * v.L * i) - peak
                part = part + v.choose(v.eq(x, x), v.exp(x), x)
            total = total + part
            start += TOGETHER
        row_sum = v.sum(total)
        for i in range(whole * v.L, columns):
            x = v.load_f32(row + 4 * i) - top
            row_sum += v.first(v.exp(v.splat_f(x))) if x == x else x
        return row_sum

    @v.njit
    def place_of(row, top, whole, columns):
        peak, i = v.splat_f(top), 0
        while i < whole and v.any(v.eq(v.load_f(row + 4 * v.L * i), peak)) == 0:
            i += 1
        for at in range(i * v.L, columns):
            if v.load_f32(row + 4 * at) == top:
                return at
        return 0

    def log_softmax(args, ith, nth):
        columns, count = args.n_columns, args.n_rows
        whole = columns // v.L
        for i in range(count * ith // nth, count * (ith + 1) // nth):
            row, out = args.logits_ptr + i * args.logits_stride, args.out_ptr + 16 * i
            top = largest_of(row, whole, columns)
            v.store_f32(out, top)
            v.store_f32(out + 4, sum_of(row, top, whole, columns))
            v.store_i32(out + 8, place_of(row, top, whole, columns))
            v.store_i32(out + 12, 0)

    return log_softmax
