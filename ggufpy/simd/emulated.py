"""What tile registers do, done in memory: the kernels of AMX can be tested where there is none.

The sums are made in the order of the instruction: Intel SDM, TDPBF16PS. Tiles that are not configured, or configured
a second time before they are released, have no rows: nothing is stored.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .frontend import helper

TILE, ROW = 1024, 64
ROWS_AT = 8 * TILE  # offset of the number of rows, an i64: 16 when configured, else 0


def emulated_tiles(v: ModuleType) -> dict[str, Any]:
    """The tile primitives, made of others of the same level (16 lanes) and `v.tile_state`."""

    @helper
    def tile_config():
        state = v.tile_state()
        for at in range(0, ROWS_AT, ROW):
            v.store_i(state + at, v.splat_i(0))
        v.store_i64(state + ROWS_AT, 16 - v.load_i64(state + ROWS_AT))

    @helper
    def tile_release():
        v.store_i64(v.tile_state() + ROWS_AT, 0)

    @helper
    def tile_zero(n):
        state = v.tile_state()
        for r in range(v.load_i64(state + ROWS_AT)):
            v.store_i(state + n * TILE + r * ROW, v.splat_i(0))

    @helper
    def tile_load(n, address, stride):
        state = v.tile_state()
        for r in range(v.load_i64(state + ROWS_AT)):
            v.store_i(state + n * TILE + r * ROW, v.load_i(address + r * stride))

    @helper
    def tile_store(n, address, stride):
        state = v.tile_state()
        for r in range(v.load_i64(state + ROWS_AT)):
            v.store_i(address + r * stride, v.load_i(state + n * TILE + r * ROW))

    @helper
    def tile_dot_bf16(c, a, b):
        state = v.tile_state()
        rows, upper = v.load_i64(state + ROWS_AT), v.splat_i(-0x10000)
        for r in range(rows):
            low, high = v.splat_f(0.0), v.splat_f(0.0)
            for k in range(rows):
                x = v.splat_i(v.load_i32(state + a * TILE + r * ROW + 4 * k))
                y = v.load_i(state + b * TILE + k * ROW)
                low = v.fma(v.as_f(x << 16), v.as_f(y << 16), low)
                high = v.fma(v.as_f(x & upper), v.as_f(y & upper), high)
            at = state + c * TILE + r * ROW
            v.store_f(at, v.load_f(at) + (low + high))

    return {
        "tile_config": tile_config,
        "tile_release": tile_release,
        "tile_zero": tile_zero,
        "tile_load": tile_load,
        "tile_store": tile_store,
        "tile_dot_bf16": tile_dot_bf16,
    }
