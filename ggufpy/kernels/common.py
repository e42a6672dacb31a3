"""Pieces that several kernels share: 8-bit quantisation of activations, and sharing work out to threads."""

from __future__ import annotations

from typing import Any


def quantiser(v: Any) -> Any:
    """quantise(source, q, b, blocks): 32 floats at `source` → block b of the quantised row at q.

    A row is codes (32 × blocks bytes), then f32 scales by block, then i32 sums of codes by 16 columns; the code is
    x / scale to nearest even, the scale the largest magnitude over 127.
    """
    vectors = 32 // v.L
    per_sum = vectors // 2

    @v.njit  # type: ignore[untyped-decorator]
    def quantise(source, q, b, blocks):  # type: ignore[no-untyped-def]
        largest = v.abs(v.load_f(source))
        for i in range(1, vectors):
            largest = v.max(largest, v.abs(v.load_f(source + 4 * v.L * i)))
        top = v.largest(largest)
        scale = top / 127.0
        inverse = 127.0 / top if top > 1e-30 else 0.0
        for half in range(2):
            total = v.splat_i(0)
            for i in range(half * per_sum, (half + 1) * per_sum):
                code = v.round_i(v.load_f(source + 4 * v.L * i) * v.splat_f(inverse))
                v.store_i8(q + 32 * b + v.L * i, code)
                total = total + code
            v.store_i32(q + 36 * blocks + 8 * b + 4 * half, v.sum_i(total))
        v.store_f32(q + 32 * blocks + 4 * b, scale)

    return quantise
