"""y = x / sqrt(mean(x²) + eps) · weight (RMS norm), and y as 8-bit rows too where q is given.

    x, y     [n_rows][n_blocks][32] f32, rows x_stride and y_stride bytes apart; x and y may be the same
    weight   [n_blocks][32] f32
    q        [n_rows] 8-bit rows (`common.quantiser`), q_stride bytes apart, or 0
    step     i64: n_rows

The mean is that of n_columns; padding behind them is zero in x and weight. Work units are (row, block): a thread that
holds part of a row sums the whole row itself, which is cheaper than waiting for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .common import quantiser

ARGS = struct(
    "step_ptr", "x_ptr", "weight_ptr", "y_ptr", "q_ptr", "n_blocks", "n_columns", "x_stride", "y_stride", "q_stride",
    "eps:f4",
)  # fmt: skip


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    quantise = quantiser(v)

    @v.njit
    def scale_of(x, vectors, columns, eps):
        total = v.splat_f(0.0)
        for i in range(vectors):
            value = v.load_f(x + 4 * v.L * i)
            total = v.fma(value, value, total)
        return 1.0 / v.sqrt(v.sum(total) / columns + eps)

    def norm(args, ith, nth):
        blocks, columns, eps = args.n_blocks, args.n_columns, args.eps
        x0, y0, q0, weight = args.x_ptr, args.y_ptr, args.q_ptr, args.weight_ptr
        x_stride, y_stride, q_stride = args.x_stride, args.y_stride, args.q_stride
        units = v.load_i64(args.step_ptr) * blocks
        vectors = 32 // v.L
        unit, last = units * ith // nth, units * (ith + 1) // nth
        if x0 == y0:  # a thread has whole rows, because another one would read what this one has written
            tokens = units // blocks
            unit, last = tokens * ith // nth * blocks, tokens * (ith + 1) // nth * blocks
        while unit < last:
            token = unit // blocks
            x, y, q = x0 + token * x_stride, y0 + token * y_stride, q0 + token * q_stride
            scale = v.splat_f(scale_of(x, blocks * vectors, columns, eps))
            stop = min(last, (token + 1) * blocks)
            while unit < stop:
                b = unit - token * blocks
                for i in range(vectors):
                    at = 128 * b + 4 * v.L * i
                    v.store_f(y + at, v.load_f(x + at) * scale * v.load_f(weight + at))
                if q0 != 0:
                    quantise(y + 128 * b, q, b, blocks)
                unit += 1

    return norm
