"""What tile registers do, done in memory: the kernels of AMX can be tested where there is none.

Every thread has tiles of its own, as on the CPU, and nothing is more forgiving than there: an operation without a
configuration, on a tile that it leaves out, or on tiles whose shapes do not fit one another, stops the process with
SIGILL (Intel SDM, LDTILECFG, TILELOADD, TDPBF16PS: #UD and #GP). Sums are made in the order of the instruction;
subnormal numbers count as zero.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from types import ModuleType
from typing import Any

from ggufpy.errors import GGUFError

TILE, ROW, TILES = 1024, 64, 8
CONFIG_AT = TILES * TILE  # offset of the 64 bytes of the configuration; their first is 0 where there is none
STATE = CONFIG_AT + 64  # bytes a thread
STATE_SYMBOL = "ggufpy_tile_state"  # () → the address of the calling thread's state


@functools.cache
def state_function() -> tuple[Any, int]:
    """What keeps the code of STATE_SYMBOL alive, and its address. Raises GGUFError without POSIX threads."""
    if sys.platform == "win32":
        raise GGUFError("tiles are emulated with POSIX threads, which this system does not have")
    import llvmlite.binding as llvm

    libc, key = ctypes.CDLL(None), ctypes.c_uint()

    def address(name: str) -> int:
        return ctypes.cast(getattr(libc, name), ctypes.c_void_p).value or 0

    if libc.pthread_key_create(ctypes.byref(key), ctypes.c_void_p(address("free"))):
        raise GGUFError("the system gives no memory of their own to threads")
    get, put, new = (address(name) for name in ("pthread_getspecific", "pthread_setspecific", "calloc"))
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    jit = llvm.create_lljit_compiler(use_jit_link=True)
    text = f"""
define i64 @{STATE_SYMBOL}() {{
  %get = inttoptr i64 {get} to ptr
  %known = call i64 %get(i32 {key.value})
  %none = icmp eq i64 %known, 0
  br i1 %none, label %make, label %done
make:
  %new = inttoptr i64 {new} to ptr
  %fresh = call i64 %new(i64 1, i64 {STATE})
  %put = inttoptr i64 {put} to ptr
  %ignored = call i32 %put(i32 {key.value}, i64 %fresh)
  ret i64 %fresh
done:
  ret i64 %known
}}
"""
    code = llvm.JITLibraryBuilder().add_ir(text).export_symbol(STATE_SYMBOL).link(jit, STATE_SYMBOL)
    return (jit, code), int(code[STATE_SYMBOL])


def emulated_tiles(v: ModuleType) -> dict[str, Any]:
    """The tile primitives, made of others of the same level (16 lanes), `v.tile_state` and `v.tile_shapes`."""
    shape, load_config = _configuration(v)
    flushed = _flushed(v)

    @v.whole
    def tile_config():
        load_config(v.tile_shapes())

    @v.whole
    def tile_release():
        v.store_u8(v.tile_state() + CONFIG_AT, 0)

    @v.whole
    def tile_zero(n):
        state = v.tile_state()
        shape(state, n)
        for r in range(TILE // ROW):
            v.store_i(state + n * TILE + r * ROW, v.splat_i(0))

    @v.whole
    def tile_load(n, address, stride):
        state = v.tile_state()
        rows, width = shape(state, n)
        tile_zero(n)
        for r in range(rows):
            for i in range(width):
                v.store_u8(state + n * TILE + r * ROW + i, v.load_u8(address + r * stride + i))

    @v.whole
    def tile_store(n, address, stride):
        state = v.tile_state()
        rows, width = shape(state, n)
        for r in range(rows):
            for i in range(width):
                v.store_u8(address + r * stride + i, v.load_u8(state + n * TILE + r * ROW + i))

    @v.whole
    def tile_dot_bf16(c, a, b):
        state, upper = v.tile_state(), v.splat_i(-0x10000)
        rows, width = shape(state, c)
        rows_a, width_a = shape(state, a)
        rows_b, width_b = shape(state, b)
        if c in (a, b) or a == b or rows != rows_a or width != width_b or width_a != 4 * rows_b or width % 4 != 0:
            v.trap()
        for r in range(rows):
            low, high = v.splat_f(0.0), v.splat_f(0.0)
            for k in range(rows_b):
                x = v.splat_i(v.load_i32(state + a * TILE + r * ROW + 4 * k))
                y = v.load_i(state + b * TILE + k * ROW)
                low = flushed(v.fma(flushed(v.as_f(x << 16)), flushed(v.as_f(y << 16)), low))
                high = flushed(v.fma(flushed(v.as_f(x & upper)), flushed(v.as_f(y & upper)), high))
            at = state + c * TILE + r * ROW
            v.store_f(at, flushed(flushed(v.load_f(at)) + flushed(low + high)))

    return {
        "tile_config": tile_config,
        "tile_release": tile_release,
        "tile_zero": tile_zero,
        "tile_load": tile_load,
        "tile_store": tile_store,
        "tile_dot_bf16": tile_dot_bf16,
    }


def _configuration(v: ModuleType) -> tuple[Any, Any]:
    """shape(state, n) → (rows, bytes a row) of a tile; load_config(address) reads 64 bytes as LDTILECFG does."""

    @v.njit
    def shape(state, n):
        config = state + CONFIG_AT
        rows, width = v.load_u8(config + 48 + n), v.load_u16(config + 16 + 2 * n)
        if v.load_u8(config) == 0 or rows == 0 or width == 0:
            v.trap()
        return rows, width

    @v.njit
    def load_config(address):
        state = v.tile_state()
        palette = v.load_u8(address)
        if palette > 1:
            v.trap()
        for i in range(2, 16):
            if palette == 1 and v.load_u8(address + i) != 0:
                v.trap()
        for n in range(16):
            rows, width = v.load_u8(address + 48 + n), v.load_u16(address + 16 + 2 * n)
            most_rows, most_width = (16, ROW) if n < TILES else (0, 0)
            if palette == 1 and (rows > most_rows or width > most_width or (rows == 0) != (width == 0)):
                v.trap()
        for i in range(64):
            v.store_u8(state + CONFIG_AT + i, v.load_u8(address + i) if palette == 1 else 0)
        for at in range(0, CONFIG_AT, ROW):
            v.store_i(state + at, v.splat_i(0))

    return shape, load_config


def _flushed(v: ModuleType) -> Any:
    """flushed(x): zero in place of subnormal numbers."""

    @v.njit
    def flushed(x):
        return v.choose(v.eq_i(v.as_i(x) & v.splat_i(0x7F800000), v.splat_i(0)), v.splat_f(0.0), x)

    return flushed
