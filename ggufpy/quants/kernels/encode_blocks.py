"""Rows of floats → rows of blocks, one block at a time: for types whose search branches too much for a row a lane.

Constants, arguments and their meaning are `encode_lanes`'s, but that any number of rows will do, and

    scratch   weights of the block [LONGEST] f32 | their importances [LONGEST] f32 | WORK bytes, which the encoder may
              use as it likes; SCRATCH bytes a lane of the level hold it

The encoder is `encode(x, w, mean, out, work, tables)`: the block's weights are contiguous f32 at x and their
importances at w, both free to be overwritten; mean is the mean square of the whole row, 0 where not weighted; the
block's bytes go to out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ggufpy import quants

from .encode_lanes import ARGS, EXPONENT, LONGEST

WORK = 4096
SCRATCH = 2 * LONGEST + WORK // 4  # bytes a lane: no level has fewer than four

__all__ = ["ARGS", "SCRATCH", "build"]


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    block, weighted = quants.get(p["type"]), p["weighted"]
    weights, nbytes, L = block.weights, block.nbytes, v.L
    w_at, work_at = 4 * LONGEST, 8 * LONGEST
    encode = block.block_encoder(v, weighted)
    zero, one = np.float32(0), np.float32(1)

    @v.njit
    def load(source, at, to):
        """A block's weights as f32, what is not finite as zero; a mask of the lanes that had any."""
        wrong, infinite = v.splat_i(0), v.splat_i(EXPONENT)
        for i in range(0, weights, L):
            if source == 0:
                bits = v.load_i(at + 4 * i)
            elif source == 1:
                bits = v.as_i(v.load_f16(at + 2 * i))
            else:
                bits = v.as_i(v.load_bf16(at + 2 * i))
            mask = v.eq_i(bits & infinite, infinite)
            wrong = wrong | mask
            v.store_i(to + 4 * i, v.choose_i(mask, v.splat_i(0), bits))
        return v.any(wrong)

    @v.njit
    def mean_square(source, at, blocks, scratch, width):
        """Of a row, its squares added in file order."""
        total, count = zero, zero
        for b in range(blocks):
            load(source, at + b * width, scratch)
            for i in range(weights):
                x = v.load_f32(scratch + 4 * i)
                total = total + x * x
                count = count + one
        return total / count

    @v.njit
    def encode_row(args, row, width):
        x, out, scratch = args.x_ptr + row * args.x_stride, args.out_ptr + row * args.out_stride, args.scratch_ptr
        mean = zero
        if weighted:
            mean = mean_square(args.x_type, x, args.n_blocks, scratch, width)
        for b in range(args.n_blocks):
            if load(args.x_type, x + b * width, scratch) != 0 and v.load_i64(args.bad_ptr) < 0:
                v.store_i64(args.bad_ptr, row)
            if weighted:
                w = args.importance_ptr + row * args.importance_stride + 4 * weights * b
                for i in range(0, weights, L):
                    v.store_f(scratch + w_at + 4 * i, v.load_f(w + 4 * i))
            encode(scratch, scratch + w_at, mean, out + b * nbytes, scratch + work_at, args.tables_ptr)

    def rows(args, ith, nth):
        width = weights * (4 if args.x_type == 0 else 2)
        for row in range(args.n_rows):
            encode_row(args, row, width)

    return rows
