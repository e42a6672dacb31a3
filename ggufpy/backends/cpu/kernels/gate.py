"""y = f(gate) · up by element, and y as 8-bit rows too where q is given.

    gate, up, y   [n_rows][n_blocks][32] f32, rows gate_stride, up_stride and y_stride bytes apart
    q             [n_rows] 8-bit rows (`common.quantiser`), q_stride bytes apart, or 0
    step          i64: n_rows

Work units are (row, block). Constants: kind, one of `Gate`'s, and gated: 0 where y is f(gate) alone.
f(x) = x / (1 + e^-t), where t is x ("silu"), 1.702 x ("clamped", of an x that is 7 at most) or twice what the tanh of
"gelu" is taken of: with u = √(2/π) · (x + 0.044715 x³), x/2 · (1 + tanh u) = x / (1 + e^-2u).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .common import quantiser

ARGS = struct(
    "step_ptr", "gate_ptr", "up_ptr", "y_ptr", "q_ptr", "n_blocks", "gate_stride", "up_stride", "y_stride", "q_stride",
)  # fmt: skip
TWICE, CUBIC = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715
SLOPE, LIMIT = 1.702, 7.0  # of "clamped"


def _logistic(v: Any, kind: str) -> Any:
    """f(x) for the kinds that are x / (1 + e^exponent(x))."""

    @v.njit
    def silu(x):
        return v.splat_f(0.0) - x

    @v.njit
    def gelu(x):
        return v.splat_f(0.0) - x * v.fma(x * x, v.splat_f(CUBIC), v.splat_f(TWICE))

    @v.njit
    def clamped(x):
        return x * v.splat_f(-SLOPE)

    exponent = {"silu": silu, "gelu": gelu, "clamped": clamped}[kind]
    limited = kind == "clamped"

    @v.njit
    def activation(x):
        if limited:
            x = v.min(x, v.splat_f(LIMIT))
        return x / (v.splat_f(1.0) + v.exp(exponent(x)))

    return activation


def _gelu_erf(v: Any) -> Any:
    """x/2 · (1 + erf z), z = x/√2, to 1.5e-7: erf z = 1 - p(t) · e^-z², t = 1 / (1 + 0.3275911 z) for z >= 0.

    Abramowitz and Stegun, 7.1.26.
    """
    c1, c2, c3, c4, c5 = 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429

    @v.njit
    def activation(x):
        one, size = v.splat_f(1.0), v.abs(x) * v.splat_f(math.sqrt(0.5))
        t = one / v.fma(size, v.splat_f(0.3275911), one)
        p = v.fma(v.splat_f(c5), t, v.splat_f(c4))
        p = v.fma(p, t, v.splat_f(c3))
        p = v.fma(p, t, v.splat_f(c2))
        p = v.fma(p, t, v.splat_f(c1)) * t
        rest = p * v.exp(v.splat_f(0.0) - size * size)  # 1 - erf |x|/√2
        return x * v.splat_f(0.5) * v.above(x, v.splat_f(0.0), v.splat_f(2.0) - rest, rest)

    return activation


def _relu(v: Any, squared: bool) -> Any:
    @v.njit
    def activation(x):
        x = v.max(x, v.splat_f(0.0))
        return x * x if squared else x

    return activation


def _activation(v: Any, kind: str) -> Any:
    """activation(x): f(x) of a kind."""
    if kind == "gelu_erf":
        return _gelu_erf(v)
    return _relu(v, kind == "relu2") if kind.startswith("relu") else _logistic(v, kind)


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    quantise, activation = quantiser(v), _activation(v, p["kind"])
    gated, limited = p.get("gated", 1), p["kind"] == "clamped"

    def gate(args, ith, nth):
        blocks, gate_stride, up_stride, y_stride, q_stride = (
            args.n_blocks, args.gate_stride, args.up_stride, args.y_stride, args.q_stride
        )  # fmt: skip
        gate0, up0, y0, q0 = args.gate_ptr, args.up_ptr, args.y_ptr, args.q_ptr
        units = v.load_i64(args.step_ptr) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            b = unit - token * blocks
            y = y0 + token * y_stride + 128 * b
            for i in range(32 // v.L):
                at = 128 * b + 4 * v.L * i
                value = activation(v.load_f(gate0 + token * gate_stride + at))
                if gated:
                    up = v.load_f(up0 + token * up_stride + at)
                    if limited:
                        up = v.max(v.min(up, v.splat_f(LIMIT)), v.splat_f(-LIMIT)) + v.splat_f(1.0)
                    value = value * up
                v.store_f(y + 4 * v.L * i, value)
            if q0 != 0:
                quantise(y, q0 + token * q_stride, b, blocks)

    return gate
