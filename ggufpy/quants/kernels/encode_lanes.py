"""Rows of floats → rows of blocks, a row in each lane: the walk that every lane encoder shares.

    x            [n_rows][n_blocks × weights] f32, f16 or bf16 (x_type: 0, 1, 2), rows x_stride bytes apart
    importance   [n_rows][n_blocks × weights] f32, rows importance_stride bytes apart (0: they share one); read where
                 weighted
    out          [n_rows][n_blocks] blocks of nbytes each, rows out_stride bytes apart
    bad          i64: the number of a row with a value that is not finite, -1 before
    tables       addresses of the type's tables
    scratch      weights [LONGEST][lanes] f32 | importances [LONGEST][lanes] f32 | the block's bytes [nbytes][lanes],
                 room for LONGEST vectors | the encoder's own WORK vectors; SCRATCH bytes a lane

n_rows is at least a vector's lanes. Values that are not finite are encoded as zero. Runs on one thread.

The encoder is `encode(x, w, mean, out, work, tables)`: weight i of every lane is the f32 vector at x + 4 · L · i, its
importance the one at w + 4 · L · i, both free to be overwritten; mean, a vector, is the mean square of the lane's whole
row, 0 where not weighted; byte k of the lanes' blocks goes to out + L · k (`v.store_i8`).

Constants: type (a module of `ggufpy.quants` whose BLOCK has `lane_encoder`), weighted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy import quants
from ggufpy.jit.spec import struct

ARGS = struct(
    "x_ptr", "x_stride", "x_type", "n_rows", "n_blocks", "importance_ptr", "importance_stride", "out_ptr", "out_stride",
    "scratch_ptr", "bad_ptr", "tables_ptr",
)  # fmt: skip
LONGEST = 256  # weights of a block
WORK = 2048  # vectors that an encoder may use as it likes
SCRATCH = 4 * (2 * LONGEST + LONGEST + WORK)  # bytes a lane
SOURCES = ("f32", "f16", "bf16")
EXPONENT = 0x7F800000


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    block, weighted = quants.get(p["type"]), p["weighted"]
    weights, nbytes, L = block.weights, block.nbytes, v.L
    size = 4 * L
    w_at, out_at, work_at = size * LONGEST, size * 2 * LONGEST, size * 3 * LONGEST
    encode = block.lane_encoder(v, weighted)

    @v.njit
    def transpose(source, at, stride, to):
        for i in range(0, weights, L):
            if source == 0:
                v.transpose_f32(at + 4 * i, stride, to + size * i)
            elif source == 1:
                v.transpose_f16(at + 2 * i, stride, to + size * i)
            else:
                v.transpose_bf16(at + 2 * i, stride, to + size * i)

    @v.njit
    def sanitise(x):
        """Zeroes what is not finite; a mask of the rows that had any."""
        wrong = v.splat_i(0)
        infinite = v.splat_i(EXPONENT)
        for i in range(weights):
            bits = v.load_i(x + size * i)
            mask = v.eq_i(bits & infinite, infinite)
            wrong = wrong | mask
            v.store_i(x + size * i, v.choose_i(mask, v.splat_i(0), bits))
        return wrong

    @v.njit
    def report(bad, wrong, scratch, row):
        if v.any(wrong) != 0 and v.load_i64(bad) < 0:
            v.store_i(scratch, wrong)
            for r in range(L):
                if v.load_i32(scratch + 4 * r) != 0 and v.load_i64(bad) < 0:
                    v.store_i64(bad, row + r)

    @v.njit
    def mean_square(source, at, stride, blocks, scratch, width):
        """Of each row, its squares added in file order."""
        total = v.splat_f(0.0)
        for b in range(blocks):
            transpose(source, at + b * width, stride, scratch)
            sanitise(scratch)
            for i in range(weights):
                one = v.load_f(scratch + size * i)
                total = total + one * one
        return total / v.splat_f(weights * blocks)

    @v.njit
    def put(scratch, out, stride):
        for r in range(L):
            for k in range(nbytes):
                v.store_u8(out + r * stride + k, v.load_u8(scratch + L * k + r))

    def rows(args, ith, nth):
        source, blocks, count = args.x_type, args.n_blocks, args.n_rows
        x_stride, out_stride, w_stride = args.x_stride, args.out_stride, args.importance_stride
        scratch = args.scratch_ptr
        width = weights * (4 if source == 0 else 2)
        for group in range((count + L - 1) // L):
            first = min(group * L, count - L)  # the last ones again rather than a group of its own kind
            at, out = args.x_ptr + first * x_stride, args.out_ptr + first * out_stride
            mean = v.splat_f(0.0)
            if weighted:
                mean = mean_square(source, at, x_stride, blocks, scratch, width)
            for b in range(blocks):
                transpose(source, at + b * width, x_stride, scratch)
                wrong = sanitise(scratch)
                report(args.bad_ptr, wrong, scratch + work_at, first)
                if weighted:
                    w = args.importance_ptr + first * w_stride + 4 * weights * b
                    transpose(0, w, w_stride, scratch + w_at)
                encode(scratch, scratch + w_at, mean, scratch + out_at, scratch + work_at, args.tables_ptr)
                put(scratch + out_at, out + b * nbytes, out_stride)

    return rows
