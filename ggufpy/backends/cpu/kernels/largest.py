"""The largest numbers of a row, in order: largest first, equals by column. One thread.

    row    [n_columns] f32, none of them NaN
    out    i64: how many there are, n_wanted or fewer where all others are -inf
           [n_wanted] i64: their columns
           scratch: [n_wanted] and [n_columns / (BLOCK · lanes), and one] f32

The row is read once, for the maxima of its blocks. The n_wanted-th largest of these is a bound that as many numbers
reach, so that few blocks are looked into. With 2 wanted of 3 9 | 4 9 | 5 1, in blocks of two, maxima are 9 9 5, the
bound is 9, and columns are 1 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("row_ptr", "n_columns", "n_wanted", "out_ptr")
BLOCK = 8  # vectors of numbers that have one maximum
LEAST = -3.4028234663852886e38  # the least finite number


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    @v.njit
    def maxima_of(row, columns, maxima):
        """Writes them; how many there are. The last block may be shorter."""
        size = BLOCK * v.L
        blocks = columns // size
        for i in range(blocks):
            at = row + 4 * size * i
            best = v.max(v.load_f(at), v.load_f(at + 4 * v.L))
            for j in range(2, BLOCK):
                best = v.max(best, v.load_f(at + 4 * v.L * j))
            v.store_f32(maxima + 4 * i, v.largest(best))
        if columns == blocks * size:
            return blocks
        top = v.load_f32(row + 4 * size * blocks)
        for j in range(size * blocks + 1, columns):
            top = max(top, v.load_f32(row + 4 * j))
        v.store_f32(maxima + 4 * blocks, top)
        return blocks + 1

    @v.njit
    def insert(x, column, tops, columns, count, wanted):
        """Puts a number behind all that are no smaller, and the last one out; how many there are then."""
        at = count if count < wanted else wanted - 1
        while at > 0 and v.load_f32(tops + 4 * (at - 1)) < x:
            v.store_f32(tops + 4 * at, v.load_f32(tops + 4 * (at - 1)))
            v.store_i64(columns + 8 * at, v.load_i64(columns + 8 * (at - 1)))
            at -= 1
        v.store_f32(tops + 4 * at, x)
        v.store_i64(columns + 8 * at, column)
        return min(count + 1, wanted)

    @v.njit
    def among(start, end, row, bound, tops, columns, count, wanted):
        """Inserts those from column `start` to `end` that belong to the largest; how many there are then."""
        for at in range(start, end):
            x = v.load_f32(row + 4 * at)
            if x >= bound and (count < wanted or x > v.load_f32(tops + 4 * (wanted - 1))):
                count = insert(x, at, tops, columns, count, wanted)
        return count

    def largest(args, ith, nth):
        row, n, wanted, size = args.row_ptr, args.n_columns, args.n_wanted, BLOCK * v.L
        columns = args.out_ptr + 8
        tops = columns + 8 * wanted
        maxima = tops + 4 * wanted
        blocks = maxima_of(row, n, maxima)
        bound = LEAST
        if among(0, blocks, maxima, LEAST, tops, columns, 0, wanted) == wanted:
            bound = v.load_f32(tops + 4 * (wanted - 1))
        bounds, count = v.splat_f(bound), 0
        for i in range(blocks):
            if v.load_f32(maxima + 4 * i) < bound:
                continue
            whole = min((i + 1) * size, n) // v.L
            for j in range(i * BLOCK, whole):
                if v.any(v.ge(v.load_f(row + 4 * v.L * j), bounds)) != 0:
                    count = among(j * v.L, (j + 1) * v.L, row, bound, tops, columns, count, wanted)
            if whole < (i + 1) * BLOCK:
                count = among(whole * v.L, n, row, bound, tops, columns, count, wanted)
        v.store_i64(args.out_ptr, count)

    return largest
