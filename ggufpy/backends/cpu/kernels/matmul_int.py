"""y[t, r] (+)= Σ_k weight[r, k] · x[t, k] + bias[r] for weights in an integer panel and 8-bit activations.

    weights   [n_panels][n_blocks] blocks of `layout`
    x         [token] 8-bit rows (`common.quantiser`), x_stride bytes apart

The other arguments are those of `matrix`. Constants: bits, group, offset, has_min (the panel), tokens (activations that
share one reading of the weights). For each 16 columns the products are summed exactly in i32, then scaled into f32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.quants.base import IntPanel

from .layout import block_bytes, scale_offset
from .matrix import ARGS, MANY, TWICE, MakeAccumulate, matmul

__all__ = ["ARGS", "build"]
PREFETCH = {1: 1024, 2: 1024, 4: 8192, 8: 8192}  # bytes ahead in each stream, by tokens; see spec/notes.md


def high_factor(v: Any, bits: int) -> int:
    """What `code` returns codes of a block's second half multiplied by."""
    if bits not in (4, 5, 6) or v.PAIRS:
        return 1
    return (1 << (8 - bits)) // (1 if v.WIDE_DOT else 2)


def _power(bias: int) -> int:
    """n of bias = 2^n, by which sums are shifted; -1 where there is none."""
    if bias & (bias - 1):
        raise ValueError(f"codes with an offset of {bias}: a power of two is wanted")
    return bias.bit_length() - 1


def _unpacker(v: Any, bits: int) -> Any:
    """code(block, g) returns the codes of column group g as bytes, those of groups 4 to 7 times `high_factor`."""
    vector = v.L * 4
    down = 8 - bits if v.PAIRS else 0 if v.WIDE_DOT else 1
    low_mask = 0x01010101 * ((1 << bits) - 1) if bits < 8 else 0
    high_mask = 0x01010101 * (0x100 - (1 << bits)) - (1 << 32) if bits < 8 else 0
    rest = max(2 * bits - 8, 1)  # bits of groups 4 to 7 that stand in vectors of their own
    each = 8 // rest
    rest_mask = 0x01010101 * (((1 << rest) - 1) << (8 - bits)) if bits < 8 else 0

    @v.njit
    def code(block, g):
        if bits == 8:
            return v.load_i(block + g * vector)
        if bits == 2:
            return (v.load_i(block + g % 2 * vector) >> (g // 2 * 2)) & v.splat_i(low_mask)
        if g < 4:
            return v.load_i(block + g * vector) & v.splat_i(low_mask)
        i = g - 4
        word = v.load_i(block + i * vector) & v.splat_i(high_mask)
        if bits > 4:
            low = v.load_i(block + (4 + i // each) * vector)
            shift = 8 - bits - rest * (i % each)
            low = low << shift if shift > 0 else low >> -shift
            word = word | (low & v.splat_i(rest_mask))
        return word >> down if down > 0 else word

    return code


def streams_of(v: Any, tokens: int) -> int:
    """Panels that are read side by side."""
    many = v.REGISTERS >= 32
    return (4 if many else 2) if tokens == 1 else 2 if many else 1


def accumulator(v: Any, panel: IntPanel, streams: int, tokens: int, ahead: bool) -> Any:
    """accumulate(weights, stride, blocks, x, x_stride, total), see matrix.py."""
    bits, group, has_min = panel.bits, panel.group, panel.has_min
    L = v.L
    code = _unpacker(v, bits)
    scales_at = scale_offset(bits, L)
    size = block_bytes(panel, L)
    signed8 = bits == 8
    factor = high_factor(v, bits)
    bias = -v.S8_BIAS if signed8 else panel.offset
    shifts = (_power(bias), _power(bias * factor))
    count = streams * tokens
    lines, distance = (size + 63) // 64, PREFETCH[tokens]
    dot = v.dot4_signed if signed8 else v.dot4

    @v.njit
    def begin(sums, h):
        # Sums begin with what the codes' offset takes away: the offset times -Σ x, which the 8-bit row has.
        return v.splat_i(v.load_i32(sums)) << shifts[h] if shifts[h] >= 0 else v.splat_i(0)

    @v.njit
    def products(first, stride, at, x_stride, sums, h, acc):
        # acc[j, t] = Σ code · x over the 16 columns of half h, less the codes' offset.
        for t in range(tokens):
            start = begin(sums + t * x_stride, h)
            for j in range(streams):
                acc[j * tokens + t] = start
        for i in range(4):
            g = 4 * h + i
            for j in range(streams):
                word = code(first + j * stride, g)
                for t in range(tokens):
                    n = j * tokens + t
                    acc[n] = dot(acc[n], word, v.splat_i(v.load_i32(at + t * x_stride + 4 * g)))

    reach = min(32767 // (((1 << bits) - 1) * 254), 4) if bits < 8 else 1  # byte products that a pair's i16 holds

    @v.njit
    def pair_products(first, stride, at, x_stride, sums, h, acc):
        # The same where a dot product is made of i16 pairs: these are added up before they are widened.
        pairs = v.ints(count)
        for i in range(4):
            g = 4 * h + i
            for j in range(streams):
                word = code(first + j * stride, g)
                for t in range(tokens):
                    n = j * tokens + t
                    pair = v.pairs(word, v.splat_i(v.load_i32(at + t * x_stride + 4 * g)))
                    pairs[n] = pair if i % reach == 0 else v.add_pairs(pairs[n], pair)
                    if i < reach and i % reach == reach - 1:
                        acc[n] = v.join_pairs(begin(sums + t * x_stride, h), pairs[n])
                    elif i % reach == reach - 1:
                        acc[n] = v.join_pairs(acc[n], pairs[n])

    half = pair_products if v.PAIRS and not signed8 else products

    @v.njit
    def accumulate(weights, stride, blocks, x, x_stride, total):
        # total[j, t] += Σ weight · x over all columns, block by block.
        low, high = v.ints(count), v.ints(count)
        for b in range(blocks):
            first = weights + b * size
            at = x + 32 * b
            d_at = x + 32 * blocks + 8 * b
            s_at = x + 40 * blocks + 8 * b
            m_at = x + 48 * blocks + 8 * b
            if ahead:
                for j in range(streams):
                    for line in range(lines):
                        v.prefetch(first + j * stride + distance + 64 * line)
            half(first, stride, at, x_stride, s_at, 0, low)
            half(first, stride, at, x_stride, s_at + 4, 1, high)
            for t in range(tokens):
                d0, d1 = v.load_f32(d_at + t * x_stride), v.load_f32(d_at + t * x_stride + 4)
                s0, s1 = v.load_f32(m_at + t * x_stride), v.load_f32(m_at + t * x_stride + 4)
                d1 = d1 * (1.0 / factor)
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

    return accumulate


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    panel = IntPanel(p["bits"], p["group"], p["offset"], bool(p["has_min"]))
    tokens, size = p["tokens"], block_bytes(panel, v.L)

    def make(of: int) -> MakeAccumulate:
        return lambda streams, ahead: accumulator(v, panel, streams, of, ahead)

    twice = make(TWICE) if tokens == MANY and v.REGISTERS >= 32 else None
    return matmul(v, make(tokens), streams_of(v, tokens), tokens, size, twice)
