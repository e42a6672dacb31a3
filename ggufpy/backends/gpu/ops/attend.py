"""Attention: exact rows by splits of the positions that are added up, bulk rows by tiles of a text on tensor cores.

Exact rows are made 8-bit rows, too, where a matrix reads them next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ggufpy.backends.gpu import coded
from ggufpy.backends.gpu.device import ROW, Work
from ggufpy.backends.gpu.kv import LayerCache
from ggufpy.backends.gpu.lowering import BLOCK, Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.backends.gpu.step import TILE
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Attend, Heads
from ggufpy.support.records import dataclass

LOWERS = (Attend,)

Constants = tuple[tuple[str, str | int], ...]

MOST_SPLITS = 128
WARP = 32
UNIT = 32  # positions that a warp of exact rows takes at once (`kernels/attention.cuh`)
THREADS = 128
RESIDENT = (
    2  # blocks of a multiprocessor at least: left alone, compilers aim at more of them, and spill a few registers
)
REGISTERS = 128  # float32 of queries and values that a thread of exact rows may hold
SLICE = 32  # rows whose parts are in memory at once, a megabyte or so each
BLOCKS = 2  # of a row alone, for each multiprocessor: more would make more parts to be added up
TILED = 512  # the longest key or value that tiles have registers for

_SEEN = (("positions", "const int *"), ("ends", "const int *"))
_CACHE = (
    ("tables", "const int *"), ("pages", "const int *"), ("keys", "const char *"), ("values", "const char *"),
    ("key_page", "long long"), ("value_page", "long long"), ("key_head", "long long"), ("value_head", "long long"),
)  # fmt: skip
_QUERIES = (("q", "const float *"), ("q_stride", "int"), ("scale", "float"), ("cap", "float"), ("window", "int"))
_PARTS = (("parts", "float *"), ("sums", "float2 *"), ("splits", "int"), ("queries", "int"), ("row", "int"))
_JOINED = (("y", "float *"), ("y_stride", "int"), ("padding", "int"), ("sinks", "const float *"))
_ROWS = (*_SEEN, *_CACHE, *_QUERIES, *_PARTS)
_JOIN = (*_SEEN, ("window", "int"), ("length", "int"), *_PARTS, *_JOINED, *coded.ARGS)
_TILES = (
    *_SEEN, *_CACHE, *_QUERIES, *_JOINED, ("queries", "int"), ("tiles", "const int *"), ("tile_count", "const int *"),
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """How exact rows of a geometry are shared out: `lanes` of a warp have a position together, a block `heads` of the
    query heads that share a key, which takes `chunks` blocks for all of them."""

    lanes: int
    heads: int
    chunks: int


def split(heads: Heads) -> Split:
    """Lanes for the shorter of key and value, and as many heads as a thread has registers for."""
    lanes = 4
    while lanes < 32 and 8 * lanes < min(heads.key_length, heads.value_length):
        lanes *= 2
    held = sum(8 * -(-length // (8 * lanes)) for length in (heads.key_length, heads.value_length))
    chunks = -(-heads.group // max(1, REGISTERS // held))
    return Split(lanes, -(-heads.group // chunks), chunks)


def splits(heads: Heads, window: int, processors: int) -> int:
    """Into how many parts the positions of an exact row are split: two blocks for each multiprocessor, where a
    window has so many units. It does not depend on the rows of a step, for the bits of a row must not."""
    wanted = -(-BLOCKS * processors // (heads.shared * split(heads).chunks))
    return max(4, min(wanted, MOST_SPLITS, window // UNIT + 2 if window else MOST_SPLITS))


def tiled(heads: Heads) -> bool:
    """Whether bulk rows attend by tiles; longer heads do it as exact rows."""
    return max(heads.key_length, heads.value_length) <= TILED


def shares(heads: Heads) -> int:
    """How many warps share the columns of a tile's rows, so that registers are enough: then a block has 16 rows."""
    return 1 if max(heads.key_length, heads.value_length) <= 256 else 8


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    assert isinstance(op, Attend)
    return 1, _works(to, op, ops[1:])


def _works(to: Lowering, op: Attend, behind: Sequence[Op]) -> Iterator[Work]:
    cache, shape = to.parts.cache(op.layer), to.shape
    codes = coded.codes(to, op.y, _coded(to, op, behind))
    yield from _slices(to, op, cache, range(shape.few), codes)
    if shape.many and tiled(op.heads):
        yield _tiles(to, op, cache)
    else:
        yield from _slices(to, op, cache, range(shape.first, shape.first + shape.many), codes)


def _coded(to: Lowering, op: Attend, behind: Sequence[Op]) -> int:
    """Of how many rows 8-bit ones are made: of exact ones at most, and heads must be whole blocks."""
    if op.heads.value_length % BLOCK:
        return 0
    return min(coded.rows_wanted(to, op.y, op.writes[op.y], behind), to.shape.few)


def _slices(to: Lowering, op: Attend, cache: LayerCache, rows: range, codes: Mapping[str, int]) -> Iterator[Work]:
    """Rows one by one, as many at once as there is room for."""
    for row in rows[::SLICE]:
        yield from _rows(to, op, cache, range(row, min(row + SLICE, rows.stop)), codes)


def _rows(to: Lowering, op: Attend, cache: LayerCache, rows: range, codes: Mapping[str, int]) -> Iterator[Work]:
    """Rows one by one, with the same bits whatever their company."""
    heads, step = op.heads, to.parts.step
    parts = splits(heads, op.window, to.parts.processors)
    size = len(rows) * heads.queries * parts
    numbers = -(-4 * size * heads.value_length // ROW) * ROW
    room = to.parts.room("parts of attention", numbers + 8 * size)
    seen = {"positions": step.positions, "ends": step.ends, "window": op.window}
    left = {"parts": room, "sums": room + numbers, "splits": parts, "queries": heads.queries, "row": rows.start}
    grid = (heads.shared * split(heads).chunks, parts, len(rows))
    yield to.launch(rows_spec(op, cache), {**seen, **_read(to, op, cache), **left}, grid)
    joined = {**seen, **left, **_written(to, op), "length": heads.value_length, **codes}
    yield to.launch(join_spec(op), joined, (heads.queries, len(rows), 1))


def _tiles(to: Lowering, op: Attend, cache: LayerCache) -> Work:
    step = to.parts.step
    values = {
        "positions": step.positions, "ends": step.ends, "window": op.window, "queries": op.heads.queries,
        "tiles": step.tiles, "tile_count": step.tile_count, **_read(to, op, cache), **_written(to, op),
    }  # fmt: skip
    blocks = 1 if shares(op.heads) == 1 else TILE // 16
    return to.launch(tiles_spec(op, cache), values, (op.heads.queries * blocks, to.shape.tiles, 1))


def _read(to: Lowering, op: Attend, cache: LayerCache) -> dict[str, int | float]:
    """What is attended to, and by what."""
    q, step = to.place(op.q), to.parts.step
    return {
        "tables": step.tables + 4 * step.table_stride * cache.group, "pages": step.pages, "keys": cache.keys,
        "values": cache.values, "key_page": cache.key_page, "value_page": cache.value_page, "key_head": cache.key_head,
        "value_head": cache.value_head, "q": q.address, "q_stride": q.stride, "scale": op.scale, "cap": op.softcap,
    }  # fmt: skip


def _written(to: Lowering, op: Attend) -> dict[str, int | float]:
    """Where it goes. Behind its width are zeros up to a whole block."""
    y, width = to.place(op.y), op.heads.queries * op.heads.value_length
    sinks = 0 if op.sinks is None else to.parts.vector(op.sinks)
    return {"y": y.address, "y_stride": y.stride, "padding": -width % BLOCK, "sinks": sinks}


def _constants(op: Attend, cache: LayerCache) -> Constants:
    return (
        *cache.constants, ("GROUP", op.heads.group), ("CAUSAL", int(op.causal)), ("SOFTCAP", int(op.softcap > 0)),
        ("SINKS", int(op.sinks is not None)),
    )  # fmt: skip


def rows_spec(op: Attend, cache: LayerCache) -> KernelSpec:
    """Of exact rows."""
    cut = split(op.heads)
    shared = (("LANES", cut.lanes), ("HEADS", cut.heads), ("CHUNKS", cut.chunks), ("RESIDENT", RESIDENT))
    return KernelSpec("attend", _ROWS, (*_constants(op, cache), *shared), THREADS)


def join_spec(op: Attend) -> KernelSpec:
    """Of what is left of exact rows."""
    constants = (("CAUSAL", int(op.causal)), ("SINKS", int(op.sinks is not None)), ("MOST_SPLITS", MOST_SPLITS))
    return KernelSpec("attend_join", _JOIN, constants, THREADS)


def tiles_spec(op: Attend, cache: LayerCache) -> KernelSpec:
    """Of bulk rows: as many keys at a time as registers and 48 KiB of shared memory are enough for."""
    longest = max(op.heads.key_length, op.heads.value_length)
    keys = 64 if longest <= 128 else 32 if longest <= 256 else 16
    parts = shares(op.heads)
    resident = RESIDENT if parts == 1 else 1
    constants = (*_constants(op, cache), ("KEYS", keys), ("SHARES", parts), ("RESIDENT", resident))
    return KernelSpec("attend_tiles", _TILES, constants, THREADS if parts == 1 else WARP * parts)


def examples() -> list[KernelSpec]:
    """Kernels of every kind: types of the cache, lengths and groups of heads, and what scores go through."""
    specs: list[KernelSpec] = []
    for heads, kinds, options in _EXAMPLES:
        op = Attend(0, "q", "y", heads, heads.key_length**-0.5, **options)
        cache = LayerCache(0, 0, 0, 0, 0, 0, *kinds, heads, 0)
        specs += [rows_spec(op, cache), join_spec(op), *([tiles_spec(op, cache)] if tiled(heads) else [])]
    return list(dict.fromkeys(specs))


_EXAMPLES: tuple[tuple[Heads, tuple[str, str], dict[str, Any]], ...] = (
    (Heads(32, 32, 128, 128), ("f16", "f16"), {}),
    (Heads(32, 8, 128, 128), ("q8_0", "q8_0"), {}),
    (Heads(32, 4, 128, 128), ("q4_0", "q4_0"), {}),
    (Heads(64, 8, 64, 64), ("bf16", "bf16"), {"window": 128, "sinks": Weight("sinks", (64,))}),
    (Heads(71, 1, 64, 64), ("f16", "q8_0"), {}),
    (Heads(12, 12, 64, 64), ("f16", "f16"), {"causal": False, "window": 128}),
    (Heads(32, 32, 80, 80), ("f16", "bf16"), {}),
    (Heads(32, 32, 96, 96), ("q8_0", "f16"), {}),
    (Heads(16, 16, 192, 128), ("f16", "f16"), {}),
    (Heads(16, 8, 256, 256), ("f16", "q8_0"), {"softcap": 50.0, "window": 4096}),
    (Heads(8, 1, 256, 256), ("q4_0", "bf16"), {}),
    (Heads(8, 2, 512, 512), ("f16", "q4_0"), {}),
    (Heads(16, 1, 576, 512), ("f16", "f16"), {}),
    (Heads(2, 2, 1024, 1024), ("f16", "f16"), {}),
    (Heads(4, 4, 20, 12), ("f16", "f16"), {}),
)
