"""Adds the squares of a step's activations to sums by column, for importance matrices.

    x            [row][n_columns] f32, rows x_stride bytes apart; n_columns is a multiple of 32
    exact        i64: how many rows count from 0
    bulk         i64, i64: the first of the other rows that count, and how many; rows between them only fill up
    sums, lows   [n_columns] f32 each
    count        i64: how many rows have been added

A column's sum is the two floats sums + lows: `lows` is what rounding lost (Knuth's two-sum of every 16 rows), so that a
long text loses nothing. Work units are vectors of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("exact_ptr", "bulk_ptr", "x_ptr", "x_stride", "n_columns", "sums_ptr", "lows_ptr", "count_ptr")

TOGETHER = 16  # rows added up in plain float32


def two_sum(v: Any) -> Any:
    """add(part, sums, lows): a vector is added to the one at `sums`, and what that loses to the one at `lows`."""

    @v.njit
    def add(part, sums, lows):
        high = v.load_f(sums)
        total = high + part
        kept = total - high
        v.store_f(lows, v.load_f(lows) + ((high - (total - kept)) + (part - kept)))
        v.store_f(sums, total)

    return add


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    add = two_sum(v)

    @v.njit
    def add_rows(x, stride, count, sums, lows):
        for start in range(0, count, TOGETHER):
            part = v.splat_f(0.0)
            for i in range(start, min(start + TOGETHER, count)):
                value = v.load_f(x + i * stride)
                part = v.fma(value, value, part)
            add(part, sums, lows)

    def collect(args, ith, nth):
        exact, first, bulk = v.load_i64(args.exact_ptr), v.load_i64(args.bulk_ptr), v.load_i64(args.bulk_ptr + 8)
        x, stride, sums, lows = args.x_ptr, args.x_stride, args.sums_ptr, args.lows_ptr
        vectors = args.n_columns // v.L
        if ith == 0:
            v.store_i64(args.count_ptr, v.load_i64(args.count_ptr) + exact + bulk)
        for unit in range(vectors * ith // nth, vectors * (ith + 1) // nth):
            at = 4 * v.L * unit
            if exact > 0:
                add_rows(x + at, stride, exact, sums + at, lows + at)
            if bulk > 0:
                add_rows(x + first * stride + at, stride, bulk, sums + at, lows + at)

    return collect
