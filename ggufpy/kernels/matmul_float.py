"""y[t, r] (+)= Σ_k weight[r, k] · x[t, k] + bias[r] for weights in a float panel and float32 activations.

Constants: dtype ("f16", "bf16", "f32"), tokens (activations that share one reading of the weights). A panel is, for each
column, one weight of each of its rows. Columns are padded to blocks of 32. Threads share panels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .spec import struct

ARGS = struct("step", "weights", "x", "y", "bias", "panels", "blocks", "x_stride", "y_stride", "add", "multiplier:f4")
UNROLL = 8
PREFETCH = 1024


def _tile(v: Any, p: Mapping[str, Any], streams: int, tokens: int) -> Any:
    load = {"f16": v.load_f16, "bf16": v.load_bf16, "f32": v.load_f}[p["dtype"]]
    vector = v.L * (4 if p["dtype"] == "f32" else 2)
    count = streams * tokens

    @v.njit  # type: ignore[untyped-decorator]
    def tile(weights, stride, blocks, x, x_stride, y, y_step, y_stride, bias, add):  # type: ignore[no-untyped-def]
        total = v.floats(count)
        for n in range(count):
            total[n] = v.splat_f(0.0)
        for k in range(0, 32 * blocks, UNROLL):
            if tokens == 1:
                for j in range(streams):
                    for line in range((UNROLL * vector + 63) // 64):
                        v.prefetch(weights + j * stride + k * vector + PREFETCH + 64 * line)
            for u in range(UNROLL):
                for t in range(tokens):
                    value = v.splat_f(v.load_f32(x + t * x_stride + 4 * (k + u)))
                    for j in range(streams):
                        n = j * tokens + t
                        total[n] = v.fma(load(weights + j * stride + (k + u) * vector), value, total[n])
        for j in range(streams):
            for t in range(tokens):
                out = y + j * y_step + t * y_stride
                value = total[j * tokens + t]
                if bias != 0:
                    value = value + v.load_f(bias + j * y_step)
                if add != 0:
                    value = value + v.load_f(out)
                v.store_f(out, value)

    return tile


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    tokens = p["tokens"]
    many = 4 if tokens == 1 or v.REGISTERS >= 32 else 2
    wide, narrow, single = _tile(v, p, many, tokens), _tile(v, p, 1, tokens), _tile(v, p, 1, 1)
    element = 4 if p["dtype"] == "f32" else 2
    row_bytes = v.L * 4

    def matmul(args, ith, nth):  # type: ignore[no-untyped-def]
        n_tokens = v.load_i64(args.step)
        weights, x, y, bias, add = args.weights, args.x, args.y, args.bias, args.add
        blocks, x_stride, y_stride = args.blocks, args.x_stride, args.y_stride
        stride = blocks * 32 * v.L * element
        first = args.panels * ith // nth
        last = args.panels * (ith + 1) // nth
        quarter = (last - first) // many
        whole = n_tokens - n_tokens % tokens
        apart = quarter * row_bytes
        for i in range(quarter):
            w = weights + (first + i) * stride
            out = y + (first + i) * row_bytes
            b = bias + (first + i) * row_bytes if bias != 0 else 0
            for t in range(0, whole, tokens):
                wide(w, quarter * stride, blocks, x + t * x_stride, x_stride, out + t * y_stride, apart, y_stride, b, add)
        for panel in range(first + quarter * many, last):
            w = weights + panel * stride
            out = y + panel * row_bytes
            b = bias + panel * row_bytes if bias != 0 else 0
            for t in range(0, whole, tokens):
                narrow(w, 0, blocks, x + t * x_stride, x_stride, out + t * y_stride, 0, y_stride, b, add)
        if tokens > 1:
            for panel in range(first, last):
                w = weights + panel * stride
                out = y + panel * row_bytes
                b = bias + panel * row_bytes if bias != 0 else 0
                for t in range(whole, n_tokens):
                    single(w, 0, blocks, x + t * x_stride, x_stride, out + t * y_stride, 0, y_stride, b, add)

    return matmul
