"""y = x / sqrt(mean(x²) + eps) · weight for each of `groups` parts of a row, `length` floats each, side by side.

x and y may be the same rows. `weight` has `length` floats. Work units are (token, part).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("step", "x", "weight", "y", "groups", "length", "x_stride", "y_stride", "eps:f4")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    @v.njit
    def squares(x, length):
        total, rest = v.splat_f(0.0), 0.0
        whole = length // v.L * v.L
        for i in range(0, whole, v.L):
            value = v.load_f(x + 4 * i)
            total = v.fma(value, value, total)
        for i in range(whole, length):
            value = v.load_f32(x + 4 * i)
            rest += value * value
        return v.sum(total) + rest

    def norm_groups(args, ith, nth):
        groups, length, weight = args.groups, args.length, args.weight
        whole = length // v.L * v.L
        units = v.load_i64(args.step) * groups
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // groups
            at = 4 * length * (unit - token * groups)
            x, y = args.x + token * args.x_stride + at, args.y + token * args.y_stride + at
            one = 1.0 / v.sqrt(squares(x, length) / length + args.eps)
            scale = v.splat_f(one)
            for i in range(0, whole, v.L):
                v.store_f(y + 4 * i, v.load_f(x + 4 * i) * scale * v.load_f(weight + 4 * i))
            for i in range(whole, length):
                v.store_f32(y + 4 * i, v.load_f32(x + 4 * i) * one * v.load_f32(weight + 4 * i))

    return norm_groups
