"""Rows of float32 activations → bf16 tiles, which `matmul_tiles` multiplies by.

    x       [row][n_blocks][32] f32, rows x_stride bytes apart
    span    i64, i64: the first row, and how many
    tiles   [group of 16 rows][n_blocks] tiles of TILE bytes: [16 rows][32 columns] bf16, to nearest even

Rows of zeros make the groups up to an even number: 33 rows of 96 columns are 4 × 3 tiles, and row 20 of the span,
columns 32 to 63, is row 4 of tile 1 · 3 + 1, at byte 4 · 1024 + 4 · 64. Work units are tiles; the level must have 16
lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .layout import BLOCK

ARGS = struct("span_ptr", "x_ptr", "x_stride", "tiles_ptr", "n_blocks")

TILE_ROWS = 16
TILE = TILE_ROWS * BLOCK * 2  # bytes


def tiles_bytes(rows: int, blocks: int) -> int:
    """Bytes that the tiles of `rows` rows of `blocks` · 32 columns take."""
    return -(-rows // (2 * TILE_ROWS)) * 2 * blocks * TILE


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    if v.L != TILE_ROWS:
        raise ValueError(f"tiles take levels of {TILE_ROWS} lanes")

    def to_tiles(args, ith, nth):
        first, count = v.load_i64(args.span_ptr), v.load_i64(args.span_ptr + 8)
        x, x_stride, tiles, blocks = args.x_ptr, args.x_stride, args.tiles_ptr, args.n_blocks
        number = (count + 2 * TILE_ROWS - 1) // (2 * TILE_ROWS) * 2 * blocks
        for n in range(number * ith // nth, number * (ith + 1) // nth):
            row, column = n // blocks * TILE_ROWS, n % blocks * BLOCK
            source, tile = x + (first + row) * x_stride + 4 * column, tiles + n * TILE
            rows = min(count - row, TILE_ROWS)
            for r in range(rows):
                v.store_bf16(tile + 64 * r, v.load_f(source + r * x_stride))
                v.store_bf16(tile + 64 * r + 32, v.load_f(source + r * x_stride + 64))
            for r in range(max(rows, 0), TILE_ROWS):
                v.store_i(tile + 64 * r, v.splat_i(0))

    return to_tiles
