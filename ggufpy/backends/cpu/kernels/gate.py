"""y = f(gate) · up by element, and y quantised to 8 bits where `q` is given. Work units are (token, block of 32).

Constants: kind. f(x) = x / (1 + e^-t), where t is x ("silu") or twice what the tanh of "gelu" is taken of: with
u = √(2/π) · (x + 0.044715 x³), x/2 · (1 + tanh u) = x / (1 + e^-2u).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .common import quantiser

ARGS = struct("step", "gate", "up", "y", "q", "blocks", "stride", "q_stride")
TWICE, CUBIC = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715


def _exponent(v: Any, kind: str) -> Any:
    """exponent(x): -t."""

    @v.njit
    def silu(x):
        return v.splat_f(0.0) - x

    @v.njit
    def gelu(x):
        return v.splat_f(0.0) - x * v.fma(x * x, v.splat_f(CUBIC), v.splat_f(TWICE))

    return {"silu": silu, "gelu": gelu}[kind]


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    quantise, exponent = quantiser(v), _exponent(v, p["kind"])

    def gate(args, ith, nth):
        blocks, stride, q_stride = args.blocks, args.stride, args.q_stride
        gate0, up0, y0, q0 = args.gate, args.up, args.y, args.q
        units = v.load_i64(args.step) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            b = unit - token * blocks
            for i in range(32 // v.L):
                at = token * stride + 128 * b + 4 * v.L * i
                x = v.load_f(gate0 + at)
                v.store_f(y0 + at, x / (v.splat_f(1.0) + v.exp(exponent(x))) * v.load_f(up0 + at))
            if q0 != 0:
                quantise(y0 + token * stride + 128 * b, q0 + token * q_stride, b, blocks)

    return gate
