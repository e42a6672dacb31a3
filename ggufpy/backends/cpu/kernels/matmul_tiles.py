"""y[t, r] (+)= Σ_k weight[r, k] · x[t, k] + bias[r] for many tokens at once: the products of prompts.

    tiles     A [token / 16][n_blocks] tiles of bf16, 16 tokens × 32 columns each, as `to_tiles` makes them
    weights   [n_panels][n_blocks] blocks of any panel of 16 rows, rounded here to bf16
    y         [row][n_panels × 16] f32, rows y_stride bytes apart
    bias      [n_panels × 16] f32, or 0
    span      i64, i64: the first row of y, and how many; the tiles hold just these
    scratch   scratch_bytes a thread: B [PANELS][blocks of a chunk] tiles, then SUMS bytes for a copy of y

A tile of B has pairs of columns by rows of the panel: B[k / 2][r] = (weight[r, k], weight[r, k + 1]), 16 × 16 pairs, so
that a product is y[t, r] += Σ A[t][k / 2] · B[k / 2][r] over both of a pair's columns. In a round of two panels and 32
tokens the tile registers, where there are any, hold

                    6: B of panel 0   7: B of panel 1
    4: A, t 0-15    0: sums           1: sums
    5: A, t 16-31   2: sums           3: sums

A *chunk* (a constant) is the columns that are multiplied for all tokens before the next ones, so that their activations
stay in the L2 cache: 2048 columns in chunks of 1024 are 2 × 32 blocks. Of a chunk, two panels at a time are made into
tiles; these stay in the L1 cache while the activations of all tokens go by. Sums of a chunk are added to y in order, so
that neither threads nor tokens beside it change a result.

Threads take groups of panels by counting `next` up. What is past the last panel or the last row of the span is left
alone. Further constants: bits, group, offset, has_min (an integer panel) or dtype (a float panel).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import Kernel, kernel, struct
from ggufpy.quants.base import FloatPanel, IntPanel, Panel
from ggufpy.simd.isa import Level, has_bf16_dot, has_tiles

from .layout import BLOCK, GROUPS, Piece, block_bytes, pieces, scale_offset
from .to_tiles import TILE, TILE_ROWS

ARGS = struct(
    "span_ptr", "weights_ptr", "tiles_ptr", "y_ptr", "bias_ptr", "n_panels", "n_blocks", "y_stride", "adds",
    "multiplier:f4", "scratch_ptr", "scratch_bytes", "next_ptr",
)  # fmt: skip

PANELS = 2  # that are multiplied side by side
SHARES = 8  # groups of panels a thread: what one thread is late the others take over
TOKENS = 8  # that dot products take at a time: with two panels 16 sums, which hide their latency
AHEAD = 2  # blocks between a prefetch of activations and their use
VECTOR = 64  # bytes
SUMS = 2 * TILE_ROWS * PANELS * VECTOR  # bytes of two groups of tokens by PANELS panels


def bulk_kernel(panel: Panel, level: Level) -> Kernel | None:
    """The kernel for products of many tokens with this panel; None where `matmul_int` or `matmul_float` is best.

    Weights of 32 bits stay in float32: who keeps them so wants them exact.
    """
    if panel == FloatPanel("f32"):
        return None
    if has_tiles(level):
        return _kernel(panel, 1024)  # CPUs with tiles have 2 MiB of L2
    if has_bf16_dot(level) and panel in (FloatPanel("f16"), FloatPanel("bf16")):
        return _kernel(panel, 512)
    return None


def _kernel(panel: Panel, chunk: int) -> Kernel:
    if isinstance(panel, FloatPanel):
        return kernel("matmul_tiles", dtype=panel.dtype, chunk=chunk)
    constants = {"bits": panel.bits, "group": panel.group, "offset": panel.offset, "has_min": int(panel.has_min)}
    return kernel("matmul_tiles", **constants, chunk=chunk)


def scratch_bytes(of: Kernel) -> int:
    """Bytes of scratch memory for each thread: PANELS panels of a chunk, and a set of sums."""
    return PANELS * int(of.parameters["chunk"]) // BLOCK * TILE + SUMS


def _float_decoder(v: Any, dtype: str) -> tuple[Any, int]:
    """(decode, bytes of a block): decode(block, out, factor) makes a block's 32 columns a tile of B."""
    load = {"f16": v.load_f16, "bf16": v.load_bf16}[dtype]
    column = v.L * 2

    @v.njit
    def decode(block, out, factor):
        scale = v.splat_f(factor)
        for k in range(0, BLOCK, 2):
            low, high = load(block + k * column), load(block + (k + 1) * column)
            v.store_i(out + k // 2 * VECTOR, v.bf16_pairs(low * scale, high * scale))

    return decode, BLOCK * column


def _int_decoder(v: Any, panel: IntPanel) -> tuple[Any, int]:
    """As `_float_decoder`: weight = scale · (code - offset) + minimum, exact to rounding but for the minimum."""
    lower, upper = _half(v, panel, 0), _half(v, panel, 1)

    @v.njit
    def decode(block, out, factor):
        lower(block, out, factor)
        upper(block, out + GROUPS * VECTOR, factor)

    return decode, block_bytes(panel, v.L)


def _half(v: Any, panel: IntPanel, half: int) -> Any:
    """decode(block, out, factor) makes 16 of a block's columns half a tile of B.

    A code in bits 15 to 22 of a float that has the other bits of 256.0 makes it 256 + code: a multiply-add by the scale
    and minimum - scale · (256 + offset) makes it a weight.
    """
    of_group = [[p for p in pieces(panel.bits) if p.group == GROUPS // 2 * half + i] for i in range(4)]
    two = len(of_group[0]) == 2
    at, shift, mask, low = _columns([parts[0] for parts in of_group])
    at2, shift2, mask2, low2 = _columns([parts[-1] for parts in of_group])
    parts = BLOCK // panel.group
    scales_at = scale_offset(panel.bits, v.L) + (half * 2 * v.L if parts == 2 else 0)
    base, has_min = -256.0 - panel.offset, panel.has_min
    place, exponent = 0xFF << 15, 0x43800000

    @v.njit
    def decode(block, out, factor):
        scale = v.load_f16(block + scales_at) * v.splat_f(factor)
        start = scale * v.splat_f(base)
        if has_min:
            start = v.fma(v.load_f16(block + scales_at + parts * 2 * v.L), v.splat_f(factor), start)
        for i in range(4):
            word = ((v.load_i(block + at[i]) >> shift[i]) & v.splat_i(mask[i])) << low[i]
            if two:
                word = word | (((v.load_i(block + at2[i]) >> shift2[i]) & v.splat_i(mask2[i])) << low2[i])
            for pair in range(2):
                one = word << 15 if pair == 0 else word >> 1
                other = word << 7 if pair == 0 else word >> 9
                one = v.as_f((one & v.splat_i(place)) | v.splat_i(exponent))
                other = v.as_f((other & v.splat_i(place)) | v.splat_i(exponent))
                both = v.bf16_pairs(v.fma(scale, one, start), v.fma(scale, other, start))
                v.store_i(out + (2 * i + pair) * VECTOR, both)

    return decode


def _columns(each: list[Piece]) -> list[tuple[int, ...]]:
    """Of each piece: its vector's offset, its shift there, its mask, and its lowest bit in the code."""
    rows = [(p.vector * VECTOR, p.shift, 0x01010101 * ((1 << p.width) - 1), p.low) for p in each]
    return list(zip(*rows, strict=True))


@functools.cache  # what all panel formats share is compiled once a process
def _dots(v: Any, streams: int) -> Any:
    """multiply(args, panel, start, stop, scratch) as that of `_tiles`, with dot products of bf16 pairs."""
    sums = streams * TOKENS

    @v.njit
    def products(a, b, stride, count, acc):
        # acc[t, j] = Σ over `count` blocks of x[t] · weight[j], whose tiles are `stride` bytes apart.
        for n in range(sums):
            acc[n] = v.splat_f(0.0)
        for at in range(0, count * TILE, TILE):
            for pair in range(TILE_ROWS):
                for t in range(TOKENS):
                    x = v.splat_i(v.load_i32(a + at + t * VECTOR + 4 * pair))
                    for j in range(streams):
                        weight = v.load_i(b + j * stride + at + pair * VECTOR)
                        acc[t * streams + j] = v.dot_bf16(acc[t * streams + j], weight, x)

    @v.njit
    def multiply(args, panel, start, stop, scratch):
        first, rows, y_stride = v.load_i64(args.span_ptr), v.load_i64(args.span_ptr + 8), args.y_stride
        bias = args.bias_ptr + panel * VECTOR if args.bias_ptr != 0 and start == 0 else 0
        add = args.adds != 0 or start != 0
        acc = v.floats(sums)
        for row in range(0, rows, TOKENS):
            a = args.tiles_ptr + (row // TILE_ROWS * args.n_blocks + start) * TILE + row % TILE_ROWS * VECTOR
            products(a, scratch, (stop - start) * TILE, stop - start, acc)
            y = args.y_ptr + (first + row) * y_stride + panel * VECTOR
            for t in range(TOKENS):
                if row + t < rows:
                    for j in range(streams):
                        value, out = acc[t * streams + j], y + t * y_stride + j * VECTOR
                        if bias != 0:
                            value = value + v.load_f(bias + j * VECTOR)
                        if add:
                            value = value + v.load_f(out)
                        v.store_f(out, value)

    return multiply


@functools.cache
def _tiles(v: Any, streams: int) -> Any:
    """multiply(args, panel, start, stop, scratch) adds columns of blocks start to stop to y for `streams` panels.

    Two groups of tokens at a time are in tiles 4 and 5, panels in 6 and 7, sums in 0 to 3. Whole groups are loaded
    from y and stored to it as tiles are; if the last rows are not of the span, a copy of y takes its place.
    """
    width = streams * VECTOR
    two = streams == 2

    @v.njit
    def products(a, a_stride, b, b_stride, count):
        for at in range(0, count * TILE, TILE):
            v.tile_load(6, b + at, VECTOR)
            v.tile_load(4, a + at, VECTOR)
            v.tile_dot_bf16(0, 4, 6)
            v.tile_load(5, a + a_stride + at, VECTOR)
            v.tile_dot_bf16(2, 5, 6)
            if two:
                v.tile_load(7, b + b_stride + at, VECTOR)
                v.tile_dot_bf16(1, 4, 7)
                v.tile_dot_bf16(3, 5, 7)
            for line in range(0, TILE, VECTOR):
                v.prefetch_near(a + at + AHEAD * TILE + line)
                v.prefetch_near(a + a_stride + at + AHEAD * TILE + line)

    @v.njit
    def begin(at, stride, bias, add):
        # Loads the sums of the first group of tokens, and of the second, which is `below`.
        below = at + TILE_ROWS * stride
        if not add:
            at, below, stride = bias, bias, 0
        if at != 0:
            v.tile_load(0, at, stride)
            v.tile_load(2, below, stride)
            if two:
                v.tile_load(1, at + VECTOR, stride)
                v.tile_load(3, below + VECTOR, stride)
        else:
            v.tile_zero(0)
            v.tile_zero(1)
            v.tile_zero(2)
            v.tile_zero(3)

    @v.njit
    def store(at, stride):
        v.tile_store(0, at, stride)
        v.tile_store(2, at + TILE_ROWS * stride, stride)
        if two:
            v.tile_store(1, at + VECTOR, stride)
            v.tile_store(3, at + TILE_ROWS * stride + VECTOR, stride)

    @v.njit
    def copy(source, source_stride, to, to_stride, rows, bias):
        for r in range(rows):
            for j in range(streams):
                value = v.load_f(source + r * source_stride + j * VECTOR)
                if bias != 0:
                    value = value + v.load_f(bias + j * VECTOR)
                v.store_f(to + r * to_stride + j * VECTOR, value)

    @v.njit
    def multiply(args, panel, start, stop, scratch):
        first, rows, y_stride = v.load_i64(args.span_ptr), v.load_i64(args.span_ptr + 8), args.y_stride
        bias = args.bias_ptr + panel * VECTOR if args.bias_ptr != 0 and start == 0 else 0
        add = args.adds != 0 or start != 0
        spare, stride = scratch + args.scratch_bytes - SUMS, args.n_blocks * TILE
        for row in range(0, rows, 2 * TILE_ROWS):
            here = min(rows - row, 2 * TILE_ROWS)
            y = args.y_ptr + (first + row) * y_stride + panel * VECTOR
            direct = here == 2 * TILE_ROWS and not (add and bias != 0)
            at, at_stride = (y, y_stride) if direct else (spare, width)
            if not direct and add:
                copy(y, y_stride, spare, width, here, bias)
            for r in range(min(rows - row - here, 2 * TILE_ROWS)):
                v.prefetch(y + (here + r) * y_stride)
                v.prefetch(y + (here + r) * y_stride + width - VECTOR)
            begin(at, at_stride, bias, add)
            a = args.tiles_ptr + (row // TILE_ROWS * args.n_blocks + start) * TILE
            products(a, stride, scratch, (stop - start) * TILE, stop - start)
            store(at, at_stride)
            if not direct:
                copy(spare, width, y, y_stride, here, 0)

    return multiply


def _panels(v: Any, decoder: tuple[Any, int]) -> Any:
    """panels(args, first, last, start, stop, scratch) multiplies by blocks start to stop of panels first to last."""
    decode, size = decoder
    make = _tiles if v.TILES else _dots
    wide, narrow = make(v, PANELS), make(v, 1)
    lines = (size + VECTOR - 1) // VECTOR

    @v.njit
    def panels(args, first, last, start, stop, scratch):
        stride, factor = args.n_blocks * size, args.multiplier
        for panel in range(first, last, PANELS):
            streams = min(last - panel, PANELS)
            for j in range(streams):
                for b in range(stop - start):
                    block = args.weights_ptr + (panel + j) * stride + (start + b) * size
                    for line in range(lines):
                        v.prefetch(block + PANELS * stride + line * VECTOR)  # of the next round
                    decode(block, scratch + (j * (stop - start) + b) * TILE, factor)
            if streams == PANELS:
                wide(args, panel, start, stop, scratch)
            else:
                narrow(args, panel, start, stop, scratch)

    return panels


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    if v.L != TILE_ROWS or not (v.TILES or v.BF16_DOT):
        raise ValueError("the level has neither tiles nor dot products of bf16")
    if "dtype" in p:
        decoder = _float_decoder(v, p["dtype"])
    else:
        decoder = _int_decoder(v, IntPanel(p["bits"], p["group"], p["offset"], bool(p["has_min"])))
    panels = _panels(v, decoder)
    most = p["chunk"] // BLOCK

    @v.njit
    def nothing():
        return

    open_tiles, close_tiles = (v.tile_config, v.tile_release) if v.TILES else (nothing, nothing)

    def matmul(args, ith, nth):
        if v.load_i64(args.span_ptr + 8) > 0:
            blocks, scratch = args.n_blocks, args.scratch_ptr + ith * args.scratch_bytes
            chunks = (blocks + most - 1) // most
            pairs = (args.n_panels + PANELS * SHARES * nth - 1) // (PANELS * SHARES * nth)
            group = pairs * PANELS if nth > 1 else args.n_panels
            open_tiles()
            first = v.atomic_add(args.next_ptr, group)
            while first < args.n_panels:
                for c in range(chunks):
                    start, stop = blocks * c // chunks, blocks * (c + 1) // chunks
                    panels(args, first, min(first + group, args.n_panels), start, stop, scratch)
                first = v.atomic_add(args.next_ptr, group)
            close_tiles()

    return matmul
