"""What the machine can do, to hold kernels against: reading memory, byte products, fused multiply-adds, bf16 products.

    buffer   n_units bytes for "read", 4096 for the others
    result   [thread] 64 bytes, which keep the work alive

Constant: what ("read", "dot4", "fma", "bf16", "tiles"). "read" sums n_units bytes, each thread its share, walking four
arrays at once. The others make n_units rounds of 12 operations on registers that do not wait for one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct
from ggufpy.simd.isa import Level, has_bf16_dot, has_tiles

ARGS = struct("buffer_ptr", "n_units", "result_ptr")
OPERATIONS = 12  # enough to cover latency, few enough for 16 registers


def operations(level: Level) -> dict[str, int]:
    """What a level multiplies with, and how many operations (multiply and add are two) one instruction is."""
    counts = {"dot4": 8 * level.lanes, "fma": 2 * level.lanes}
    if has_bf16_dot(level):
        counts["bf16"] = 4 * level.lanes
    if has_tiles(level):
        counts["tiles"] = 2 * 16 * 16 * 32
    return counts


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    return {"read": _read, "dot4": _dot4, "fma": _fma, "bf16": _bf16, "tiles": _tiles}[p["what"]](v)


def _read(v: Any) -> Callable[..., None]:
    line = v.L * 4
    lines = 256 // line

    def read(args, ith, nth):
        quarter = args.n_units // nth // 4 // 256 * 256
        start = args.buffer_ptr + ith * (args.n_units // nth // 64 * 64)
        total = v.ints(4)
        for j in range(4):
            total[j] = v.splat_i(0)
        for at in range(0, quarter, 256):
            for j in range(4):
                here = start + j * quarter + at
                for i in range(4):
                    v.prefetch(here + 1024 + 64 * i)
                for i in range(lines):
                    total[j] = total[j] + v.load_i(here + i * line)
        v.store_i32(args.result_ptr + 64 * ith, v.sum_i(total[0] + total[1] + total[2] + total[3]))

    return read


def _dot4(v: Any) -> Callable[..., None]:
    def dot4(args, ith, nth):
        acc = v.ints(OPERATIONS)
        x = v.load_i(args.buffer_ptr)
        for n in range(OPERATIONS):
            acc[n] = v.splat_i(n)
        for i in range(args.n_units):
            here = args.buffer_ptr + 64 * (i & 15)
            for n in range(OPERATIONS):
                acc[n] = v.dot4(acc[n], x, v.load_i(here + 64 * n))  # loaded, so that no product is computed once
        total = acc[0]
        for n in range(1, OPERATIONS):
            total = total + acc[n]
        v.store_i32(args.result_ptr + 64 * ith, v.sum_i(total))

    return dot4


def _fma(v: Any) -> Callable[..., None]:
    def fma(args, ith, nth):
        acc = v.floats(OPERATIONS)
        x, y = v.load_f(args.buffer_ptr), v.load_f(args.buffer_ptr + 64)
        for n in range(OPERATIONS):
            acc[n] = v.splat_f(n)
        for _ in range(args.n_units):
            for n in range(OPERATIONS):
                acc[n] = v.fma(acc[n], x, y)
        total = acc[0]
        for n in range(1, OPERATIONS):
            total = total + acc[n]
        v.store_f32(args.result_ptr + 64 * ith, v.sum(total))

    return fma


def _bf16(v: Any) -> Callable[..., None]:
    def bf16(args, ith, nth):
        acc = v.floats(OPERATIONS)
        x, y = v.load_i(args.buffer_ptr), v.load_i(args.buffer_ptr + 64)
        for n in range(OPERATIONS):
            acc[n] = v.splat_f(n)
        for _ in range(args.n_units):
            for n in range(OPERATIONS):
                acc[n] = v.dot_bf16(acc[n], x, y)
        total = acc[0]
        for n in range(1, OPERATIONS):
            total = total + acc[n]
        v.store_f32(args.result_ptr + 64 * ith, v.sum(total))

    return bf16


def _tiles(v: Any) -> Callable[..., None]:
    @v.njit
    def six():
        v.tile_dot_bf16(0, 6, 7)
        v.tile_dot_bf16(1, 6, 7)
        v.tile_dot_bf16(2, 6, 7)
        v.tile_dot_bf16(3, 6, 7)
        v.tile_dot_bf16(4, 6, 7)
        v.tile_dot_bf16(5, 6, 7)

    def tiles(args, ith, nth):
        v.tile_config()
        v.tile_load(6, args.buffer_ptr, 64)
        v.tile_load(7, args.buffer_ptr + 1024, 64)
        for _ in range(args.n_units):
            six()
            six()
        v.tile_release()

    return tiles
