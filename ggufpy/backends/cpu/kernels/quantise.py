"""Rows of floats → rows of 8-bit codes, scales and sums.

    x      [n_rows][n_blocks][32] f32, rows x_stride bytes apart
    q      [n_rows] 8-bit rows (`common.quantiser`), q_stride bytes apart
    step   i64: n_rows

Work units are (row, block).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .common import quantiser

ARGS = struct("step_ptr", "x_ptr", "q_ptr", "n_blocks", "x_stride", "q_stride")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    quantise = quantiser(v)

    def rows(args, ith, nth):
        x, q, blocks, x_stride, q_stride = args.x_ptr, args.q_ptr, args.n_blocks, args.x_stride, args.q_stride
        units = v.load_i64(args.step_ptr) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            b = unit - token * blocks
            quantise(x + token * x_stride + 128 * b, q + token * q_stride, b, blocks)

    return rows
