"""Rows of blocks, as a file has them, → integer panels (`layout`), a row in each lane.

    source   [n_rows][n_blocks] blocks of the type, rows source_stride bytes apart
    out      [panel][n_blocks × weights / 32] blocks of a panel
    top      [lanes] i32: the bits of a float, the largest magnitude of the scales and minima that the lane had

A block of the file becomes weights / 32 of the panel. With 16 lanes, Q4_K (256 weights in 144 bytes) is loaded as nine
times 16 bytes of each of 16 rows, transposed so that i32 word w of lane r is bytes 4 w to 4 w + 3 of row r's block;
`lane_fields` takes these words apart in all lanes at once, and eight blocks of a panel come out.

Rows that fill the last panel up must be readable and count for nothing: there the panel is zero. Scales and minima are
multiplied by `factor` and stored as f16; `top` is of those before, and what is not finite is larger there than any
others. Work units are panels. Constant: type (a module of `ggufpy.quants` whose BLOCK has `lane_fields`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy import quants
from ggufpy.jit.spec import struct
from ggufpy.quants.base import IntPanel
from ggufpy.quants.words import Words

from .layout import BLOCK, block_bytes, pieces, scale_offset

ARGS = struct("source_ptr", "source_stride", "n_rows", "n_blocks", "out_ptr", "top_ptr", "factor:f4")


def _joiner(v: Any, bits: int) -> Any:
    """put(codes, out, keep) makes eight vectors of codes the vectors of a block, zero in lanes that are not kept."""
    places = tuple((p.group, p.vector, p.shift, p.low, 0x01010101 * ((1 << p.width) - 1)) for p in pieces(bits))
    count, size = len(places), 4 * v.L

    @v.njit
    def put(codes, out, keep):
        words = v.ints(bits)
        for i in range(bits):
            words[i] = v.splat_i(0)
        for n in range(count):
            group, vector, shift, low, mask = places[n]
            words[vector] = words[vector] | (((codes[group] >> low) & v.splat_i(mask)) << shift)
        for i in range(bits):
            v.store_i(out + size * i, words[i] & keep)

    return put


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    block = quants.get(p["type"])
    panel, nbytes, parts = block.panel, block.nbytes, block.weights // BLOCK
    assert isinstance(panel, IntPanel)
    codes_of, scale_of, minimum = block.lane_fields(v)
    minimum_of = minimum or scale_of  # never called without minima, but it must have a type
    has_min, halves, L = panel.has_min, BLOCK // panel.group, v.L
    put, scales_at, size = _joiner(v, panel.bits), scale_offset(panel.bits, L), block_bytes(panel, L)
    words = Words(block)
    loads, steps, count = words.pieces, len(words.pieces), words.count
    lines = -(-nbytes * L // 64)  # of a block of each row: as many of the next panel, whose rows follow, are prefetched

    @v.njit
    def load(at, stride, work):
        for i in range(steps):
            v.rows(at + loads[i][0], stride, work, loads[i][1])

    @v.njit
    def number(x, factor, to, keep, top):
        bits = v.as_i(x) & keep
        v.store_f16(to, v.as_f(bits) * factor)
        return v.max_i(top, bits & v.splat_i(0x7FFFFFFF))

    def pack(args, ith, nth):
        rows, blocks, stride, factor = args.n_rows, args.n_blocks, args.source_stride, v.splat_f(args.factor)
        work, codes = v.ints(count), v.ints(8)
        top = v.splat_i(0)
        panels = (rows + L - 1) // L
        out = args.out_ptr + panels * ith // nth * blocks * parts * size
        for panel in range(panels * ith // nth, panels * (ith + 1) // nth):
            keep = v.gt_i(v.splat_i(rows - panel * L), v.iota())
            source = args.source_ptr + panel * L * stride
            for b in range(blocks):
                load(source + b * nbytes, stride, work)
                for i in range(lines):
                    v.prefetch(source + L * stride + 64 * (b * lines + i))
                for s in range(parts):
                    codes_of(work, s, codes)
                    put(codes, out, keep)
                    for h in range(halves):
                        to = out + scales_at + 2 * h * L
                        top = number(scale_of(work, s, h), factor, to, keep, top)
                        if has_min:
                            top = number(minimum_of(work, s, h), factor, to + 2 * halves * L, keep, top)
                    out += size
        v.store_i(args.top_ptr, top)

    return pack
