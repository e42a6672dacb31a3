"""Interleaves rows of 2- or 4-byte numbers into float panels.

    source   [n_rows][n_columns] numbers; n_rows is a multiple of a vector's lanes
    out      [panel][n_blocks × 32 columns][lanes] numbers: for each column one number of each row of the panel

Columns that fill the last block up are not written: `out` must be zero there. Work units are panels. Constant: size
(bytes a number).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("source_ptr", "n_rows", "n_columns", "n_blocks", "out_ptr")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    size, L = p["size"], v.L
    each = 16 // size  # columns that are taken at a time

    @v.njit
    def one(at, to):
        if size == 4:
            v.store_i32(to, v.load_i32(at))
        else:
            v.store_u16(to, v.load_u16(at))

    def pack(args, ith, nth):
        source, columns, blocks = args.source_ptr, args.n_columns, args.n_blocks
        stride, whole = columns * size, columns // each * each
        words = v.ints(4)
        panels = args.n_rows // L
        for panel in range(panels * ith // nth, panels * (ith + 1) // nth):
            first, out = source + panel * L * stride, args.out_ptr + panel * blocks * 32 * L * size
            for k in range(0, whole, each):
                v.rows(first + size * k, stride, words, 0)
                for i in range(4):
                    word = words[i] if size == 4 else v.evens_first(words[i])
                    v.store_i(out + L * (size * k + 4 * i), word)
            for k in range(whole, columns):
                for r in range(L):
                    one(first + r * stride + size * k, out + size * (k * L + r))

    return pack
