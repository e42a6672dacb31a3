"""y = f(x) · weight + bias for each of the equal parts of a row, side by side.

    x, y           [n_rows][n_groups][n_columns] f32, rows x_stride and y_stride bytes apart; x and y may be the same
    weight, bias   [n_columns] f32
    step           i64: n_rows

Work units are (row, part). Constants, all of them left out for rms with a weight and no bias: kind, which is f:
x / sqrt(mean(x²) + eps) ("rms"), (x - mean) / sqrt(variance + eps) ("layer") or x / max(sqrt(Σ x²), eps) ("l2");
weighted and biased, 0 or 1; own, 1 where each part has a row of weight and of bias for itself, padded to whole blocks
of 32: [n_groups][padded n_columns].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct(
    "step_ptr", "x_ptr", "weight_ptr", "y_ptr", "n_groups", "n_columns", "x_stride", "y_stride", "eps:f4", "bias_ptr",
)  # fmt: skip


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    kind, weighted, biased = p.get("kind", "rms"), p.get("weighted", 1), p.get("biased", 0)
    own = p.get("own", 0)
    centred, by_sum = kind == "layer", kind == "l2"

    @v.njit
    def away(at, middle):
        return v.load_f(at) - middle if centred else v.load_f(at)

    @v.njit
    def one_away(at, mean):
        return v.load_f32(at) - mean

    @v.njit
    def one_as_is(at, mean):
        return v.load_f32(at)

    one_at = one_away if centred else one_as_is

    @v.njit
    def squares(x, length, mean):
        total, rest, middle = v.splat_f(0.0), 0.0, v.splat_f(mean)
        whole = length // v.L * v.L
        for i in range(0, whole, v.L):
            value = away(x + 4 * i, middle)
            total = v.fma(value, value, total)
        for i in range(whole, length):
            value = one_at(x + 4 * i, mean)
            rest += value * value
        return v.sum(total) + rest

    @v.njit
    def sum_of(x, length):
        total, rest = v.splat_f(0.0), 0.0
        whole = length // v.L * v.L
        for i in range(0, whole, v.L):
            total = total + v.load_f(x + 4 * i)
        for i in range(whole, length):
            rest += v.load_f32(x + 4 * i)
        return v.sum(total) + rest

    @v.njit
    def factor(total, length, eps):
        if by_sum:
            return 1.0 / max(v.sqrt(total), eps)
        return 1.0 / v.sqrt(total / length + eps)

    def norm_groups(args, ith, nth):
        groups, length, weight, bias = args.n_groups, args.n_columns, args.weight_ptr, args.bias_ptr
        whole = length // v.L * v.L
        units = v.load_i64(args.step_ptr) * groups
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // groups
            at = 4 * length * (unit - token * groups)
            if own:
                row = (length + 31) // 32 * 128 * (unit - token * groups)
                weight, bias = args.weight_ptr + row, args.bias_ptr + row
            x, y = args.x_ptr + token * args.x_stride + at, args.y_ptr + token * args.y_stride + at
            mean = sum_of(x, length) / length if centred else 0.0
            one = factor(squares(x, length, mean), length, args.eps)
            scale, middle = v.splat_f(one), v.splat_f(mean)
            for i in range(0, whole, v.L):
                value = away(x + 4 * i, middle) * scale
                if weighted:
                    value = value * v.load_f(weight + 4 * i)
                if biased:
                    value = value + v.load_f(bias + 4 * i)
                v.store_f(y + 4 * i, value)
            for i in range(whole, length):
                value = one_at(x + 4 * i, mean) * one
                if weighted:
                    value = value * v.load_f32(weight + 4 * i)
                if biased:
                    value = value + v.load_f32(bias + 4 * i)
                v.store_f32(y + 4 * i, value)

    return norm_groups
