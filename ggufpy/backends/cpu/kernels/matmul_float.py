"""y[t, r] (+)= Σ_k weight[r, k] · x[t, k] + bias[r] for weights in a float panel and float32 activations.

    weights   [n_panels][n_blocks][32 columns][lanes] f16, bf16 or f32: of each column one weight of each row
    x         [token][n_blocks][32] f32, rows x_stride bytes apart

The other arguments are those of `matrix`. Constants: dtype ("f16", "bf16", "f32"), tokens (activations that share one
reading of the weights).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .layout import BLOCK
from .matrix import ARGS, matmul

__all__ = ["ARGS", "build"]
UNROLL = 8
PREFETCH = 1024  # bytes ahead in each stream


def streams_of(v: Any, tokens: int) -> int:
    """Panels that are read side by side."""
    return 4 if tokens == 1 or v.REGISTERS >= 32 else 2


def vector_bytes(v: Any, dtype: str) -> int:
    """Bytes of a column of a panel."""
    lanes: int = v.L
    return lanes * (4 if dtype == "f32" else 2)


def accumulator(v: Any, dtype: str, streams: int, tokens: int, ahead: bool) -> Any:
    """accumulate(weights, stride, blocks, x, x_stride, total), see matrix.py."""
    load = {"f16": v.load_f16, "bf16": v.load_bf16, "f32": v.load_f}[dtype]
    vector = vector_bytes(v, dtype)
    lines = (UNROLL * vector + 63) // 64

    @v.njit
    def accumulate(weights, stride, blocks, x, x_stride, total):
        for k in range(0, BLOCK * blocks, UNROLL):
            if ahead:
                for j in range(streams):
                    for line in range(lines):
                        v.prefetch(weights + j * stride + k * vector + PREFETCH + 64 * line)
            for u in range(UNROLL):
                for t in range(tokens):
                    value = v.splat_f(v.load_f32(x + t * x_stride + 4 * (k + u)))
                    for j in range(streams):
                        n = j * tokens + t
                        total[n] = v.fma(load(weights + j * stride + (k + u) * vector), value, total[n])

    return accumulate


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    dtype, tokens, size = p["dtype"], p["tokens"], BLOCK * vector_bytes(v, p["dtype"])
    return matmul(v, lambda s, ahead: accumulator(v, dtype, s, tokens, ahead), streams_of(v, tokens), tokens, size)
