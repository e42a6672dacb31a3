"""Adds the squares of what each expert is multiplied by to its sums by column, for importance matrices.

    x               [row][part][n_columns] f32, rows x_stride and parts x_part_stride bytes apart (0: experts share x)
    starts, pairs   the rows that chose each expert, as `route` lists them
    sums, lows      [n_experts][n_columns] f32 each, see `collect`; n_columns is a multiple of 32
    counts          [n_experts] i64: how many rows have been added

Work units are vectors of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .collect import TOGETHER, two_sum
from .route import PAIR

ARGS = struct(
    "starts_ptr", "pairs_ptr", "n_experts", "x_ptr", "x_stride", "x_part_stride", "n_columns", "sums_ptr", "lows_ptr",
    "counts_ptr",
)  # fmt: skip


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    add = two_sum(v)

    @v.njit
    def squares(args, pairs, count, at):
        total = v.splat_f(0.0)
        for i in range(count):
            pair = pairs + PAIR * i
            x = args.x_ptr + v.load_i32(pair) * args.x_stride + v.load_i32(pair + 4) * args.x_part_stride
            value = v.load_f(x + at)
            total = v.fma(value, value, total)
        return total

    def collect_experts(args, ith, nth):
        vectors, starts = args.n_columns // v.L, args.starts_ptr
        for e in range(args.n_experts):
            first, last = v.load_i64(starts + 8 * e), v.load_i64(starts + 8 * (e + 1))
            for unit in range(vectors * ith // nth, vectors * (ith + 1) // nth):
                at, to = 4 * v.L * unit, 4 * (e * args.n_columns + v.L * unit)
                for start in range(first, last, TOGETHER):
                    part = squares(args, args.pairs_ptr + PAIR * start, min(last - start, TOGETHER), at)
                    add(part, args.sums_ptr + to, args.lows_ptr + to)
            if ith == 0:
                v.store_i64(args.counts_ptr + 8 * e, v.load_i64(args.counts_ptr + 8 * e) + last - first)

    return collect_experts
