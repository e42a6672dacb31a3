"""y = silu(gate) · up by element, and y quantised to 8 bits where `q` is given. Work units are (token, block of 32)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .common import quantiser
from .spec import struct

ARGS = struct("step", "gate", "up", "y", "q", "blocks", "stride", "q_stride")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    quantise = quantiser(v)

    def swiglu(args, ith, nth):
        blocks, stride, q_stride = args.blocks, args.stride, args.q_stride
        gate0, up0, y0, q0 = args.gate, args.up, args.y, args.q
        units = v.load_i64(args.step) * blocks
        for unit in range(units * ith // nth, units * (ith + 1) // nth):
            token = unit // blocks
            b = unit - token * blocks
            for i in range(32 // v.L):
                at = token * stride + 128 * b + 4 * v.L * i
                gate = v.load_f(gate0 + at)
                one = v.splat_f(1.0)
                v.store_f(y0 + at, gate / (one + v.exp(v.splat_f(0.0) - gate)) * v.load_f(up0 + at))
            if q0 != 0:
                quantise(y0 + token * stride + 128 * b, q0 + token * q_stride, b, blocks)

    return swiglu
