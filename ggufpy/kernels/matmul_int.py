"""y[t, r] (+)= Σ_k weight[r, k] · x[t, k] + bias[r] for weights in an integer panel and 8-bit activations.

Constants: bits, group, offset, has_min (the panel), tokens (activations that share one reading of the weights).
Weights are read four panels at a time, each from its own quarter of the thread's share, so that memory serves four
streams. For each 16 columns the products are summed exactly in i32, then scaled into f32: the order over k is the same
whatever the number of threads or tokens, and so are the bits of y.

Threads share panels out; `rows` is padded to whole panels, and so must y's rows and bias be. `step` points to the number
of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.quants.base import IntPanel

from .layout import block_bytes, planes, scale_offset
from .spec import struct

ARGS = struct("step", "weights", "x", "y", "bias", "panels", "blocks", "x_stride", "y_stride", "add", "multiplier:f4")
PREFETCH = 1536  # bytes ahead in each stream; see spec/notes.md


def _size(p: Mapping[str, Any], lanes: int) -> int:
    return block_bytes(IntPanel(p["bits"], p["group"], p["offset"], bool(p["has_min"])), lanes)


def _unpacker(v: Any, bits: int) -> Any:
    """code(block, group): four codes of each row as bytes."""
    widths = planes(bits)
    low = widths[0]
    low_mask = 0x01010101 * ((1 << low) - 1)
    high = widths[1] if len(widths) > 1 else 0
    high_mask = 0x01010101 * (((1 << high) - 1) << low) if high else 0
    vector = v.L * 4

    @v.njit  # type: ignore[untyped-decorator]
    def code(block, g):  # type: ignore[no-untyped-def]
        word = v.load_i(block + (g % low) * vector)
        if low < 8:
            word = (word >> (low * (g // low))) & v.splat_i(low_mask)
        if high:
            above = v.load_i(block + (low + g % max(high, 1)) * vector)
            shift = 4 - high * (g // max(high, 1))
            above = above << shift if shift > 0 else above >> -shift
            word = word | (above & v.splat_i(high_mask))
        return word

    return code


def _accumulator(v: Any, p: Mapping[str, Any], streams: int, tokens: int) -> Any:
    """accumulate(...): `streams` panels × `tokens` activations over the whole of k, then stored."""
    bits, group, offset, has_min = p["bits"], p["group"], p["offset"], p["has_min"]
    L = v.L
    code = _unpacker(v, bits)
    scales_at = scale_offset(bits, L)
    size = _size(p, L)
    signed8 = bits == 8
    bias_unit = v.S8_BIAS if signed8 else -offset
    count = streams * tokens
    lines = (size + 63) // 64
    dot = v.dot4_signed if signed8 else v.dot4

    @v.njit  # type: ignore[untyped-decorator]
    def products(first, stride, at, x_stride, sums, h, acc):  # type: ignore[no-untyped-def]
        # acc[j, t] = Σ code · x over the 16 columns of half h, less the codes' offset.
        for t in range(tokens):
            start = v.splat_i(0)
            if bias_unit != 0:
                start = v.splat_i(v.load_i32(sums + t * x_stride) * bias_unit)
            for j in range(streams):
                acc[j * tokens + t] = start
        for i in range(4):
            g = 4 * h + i
            for j in range(streams):
                word = code(first + j * stride, g)
                for t in range(tokens):
                    n = j * tokens + t
                    acc[n] = dot(acc[n], word, v.splat_i(v.load_i32(at + t * x_stride + 4 * g)))

    @v.njit  # type: ignore[untyped-decorator]
    def accumulate(weights, stride, blocks, x, x_stride, total):  # type: ignore[no-untyped-def]
        # total[j, t] += Σ weight · x over all columns, block by block.
        low, high = v.ints(count), v.ints(count)
        for b in range(blocks):
            first = weights + b * size
            at = x + 32 * b
            d_at = x + 32 * blocks + 8 * b
            s_at = x + 40 * blocks + 8 * b
            if tokens == 1:
                for j in range(streams):
                    for line in range(lines):
                        v.prefetch(first + j * stride + PREFETCH + 64 * line)
            products(first, stride, at, x_stride, s_at, 0, low)
            products(first, stride, at, x_stride, s_at + 4, 1, high)
            for t in range(tokens):
                d0, d1 = v.load_f32(d_at + t * x_stride), v.load_f32(d_at + t * x_stride + 4)
                s0 = d0 * v.load_i32(s_at + t * x_stride)
                s1 = d1 * v.load_i32(s_at + t * x_stride + 4)
                for j in range(streams):
                    n = j * tokens + t
                    scales = first + j * stride + scales_at
                    scale = v.load_f16(scales)
                    if group == 32:
                        both = v.fma(v.to_f(high[n]), v.splat_f(d1), v.to_f(low[n]) * v.splat_f(d0))
                        total[n] = v.fma(both, scale, total[n])
                        if has_min:
                            total[n] = v.fma(v.splat_f(s0 + s1), v.load_f16(scales + 2 * L), total[n])
                    else:
                        total[n] = v.fma(v.to_f(low[n]) * v.splat_f(d0), scale, total[n])
                        scale = v.load_f16(scales + 2 * L)
                        total[n] = v.fma(v.to_f(high[n]) * v.splat_f(d1), scale, total[n])
                        if has_min:
                            total[n] = v.fma(v.splat_f(s0), v.load_f16(scales + 4 * L), total[n])
                            total[n] = v.fma(v.splat_f(s1), v.load_f16(scales + 6 * L), total[n])

    @v.njit  # type: ignore[untyped-decorator]
    def tile(weights, stride, blocks, x, x_stride, y, y_step, y_stride, bias, multiplier, add):  # type: ignore[no-untyped-def]
        total = v.floats(count)
        for n in range(count):
            total[n] = v.splat_f(0.0)
        accumulate(weights, stride, blocks, x, x_stride, total)
        for j in range(streams):
            for t in range(tokens):
                out = y + j * y_step + t * y_stride
                value = total[j * tokens + t] * v.splat_f(multiplier)
                if bias != 0:
                    value = value + v.load_f(bias + j * y_step)
                if add != 0:
                    value = value + v.load_f(out)
                v.store_f(out, value)

    return tile


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    tokens = p["tokens"]
    many = 4 if tokens == 1 else 2 if v.REGISTERS >= 32 else 1
    wide = _accumulator(v, p, many, tokens)
    narrow = _accumulator(v, p, 1, tokens)
    single = _accumulator(v, p, 1, 1)
    row_bytes = v.L * 4
    size = _size(p, v.L)

    def matmul(args, ith, nth):  # type: ignore[no-untyped-def]
        n_tokens = v.load_i64(args.step)
        weights, x, y, bias = args.weights, args.x, args.y, args.bias
        blocks, x_stride, y_stride = args.blocks, args.x_stride, args.y_stride
        multiplier, add = args.multiplier, args.add
        stride = blocks * size
        first = args.panels * ith // nth
        last = args.panels * (ith + 1) // nth
        quarter = (last - first) // many
        whole = n_tokens - n_tokens % tokens
        for i in range(quarter):
            panel = first + i
            w = weights + panel * stride
            out = y + panel * row_bytes
            b = bias + panel * row_bytes if bias != 0 else 0
            apart = quarter * row_bytes
            for t in range(0, whole, tokens):
                wide(w, quarter * stride, blocks, x + t * x_stride, x_stride, out + t * y_stride, apart, y_stride, b, multiplier, add)
        for panel in range(first + quarter * many, last):
            w = weights + panel * stride
            out = y + panel * row_bytes
            b = bias + panel * row_bytes if bias != 0 else 0
            for t in range(0, whole, tokens):
                narrow(w, 0, blocks, x + t * x_stride, x_stride, out + t * y_stride, 0, y_stride, b, multiplier, add)
        if tokens > 1:
            for panel in range(first, last):
                w = weights + panel * stride
                out = y + panel * row_bytes
                b = bias + panel * row_bytes if bias != 0 else 0
                for t in range(whole, n_tokens):
                    single(w, 0, blocks, x + t * x_stride, x_stride, out + t * y_stride, 0, y_stride, b, multiplier, add)

    return matmul
