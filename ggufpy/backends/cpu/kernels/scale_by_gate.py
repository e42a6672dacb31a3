"""y *= 1 / (1 + e^-(weight · x)) row by row: x has `n_x_blocks` blocks of 32 floats, y `n_y_blocks`, weight one row.

Padding of x or of weight is zero; x and y are not the same columns. Work units are (token, block of y): a thread that
has part of a row multiplies the whole of x itself, which is cheaper than waiting for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step_ptr", "x_ptr", "weight_ptr", "y_ptr", "n_x_blocks", "n_y_blocks", "x_stride", "y_stride")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    vectors = 32 // v.L

    @v.njit
    def gate_of(x, weight, n_blocks):
        total = v.splat_f(0.0)
        for i in range(n_blocks * vectors):
            total = v.fma(v.load_f(x + 4 * v.L * i), v.load_f(weight + 4 * v.L * i), total)
        one = v.splat_f(1.0)
        return one / (one + v.exp(v.splat_f(-v.sum(total))))

    def scale_by_gate(args, ith, nth):
        blocks, x_stride, y_stride = args.n_y_blocks, args.x_stride, args.y_stride
        units = v.load_i64(args.step_ptr) * blocks
        unit, last = units * ith // nth, units * (ith + 1) // nth
        while unit < last:
            token = unit // blocks
            by = gate_of(args.x_ptr + token * x_stride, args.weight_ptr, args.n_x_blocks)
            stop = min(last, (token + 1) * blocks)
            y = args.y_ptr + token * y_stride
            for at in range(128 * (unit - token * blocks), 128 * (stop - token * blocks), 4 * v.L):
                v.store_f(y + at, v.load_f(y + at) * by)
            unit = stop

    return scale_by_gate
