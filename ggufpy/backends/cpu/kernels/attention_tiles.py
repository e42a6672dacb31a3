"""Attention of bulk rows over the pages of their sequences, with products of bf16 tiles.

Constants, spans and most arguments are those of `attention`, whose third kind of span is taken here: runs of bulk rows,
also of one. Queries, keys, values and weights are rounded to bf16; scores, sums and what softmax makes of them are
float32.

A tile is TILE bytes, 16 rows of 16 pairs of bf16. A product C += A · B takes pairs: C[r][c] += Σ_p A[r][p] · B[p][c],
both of p's numbers. A thread's scratch holds (`_Room`; with key_length 64, value_length 64 and 96 rows of group 2):

    queries   A [query / 16][d / 32]      16 queries × 32 dimensions         12 × 2 tiles
    keys      B [position / 16][d / 32]   16 pairs of dimensions × 16 positions   8 × 2 tiles, a page
    values    B [position / 32][d / 16]   16 pairs of positions × 16 dimensions   4 × 4 tiles, a page
    scores    [32][PAGE] f32              of the 32 queries in turn
    weights   A [2][position / 32]        16 queries × 32 positions           2 × 4 tiles
    sums      [query][d, padded to 32] f32
    stats     [query] 128 bytes: sums of weights by lane (64 bytes), then f32 largest score

So a score tile is Σ over d / 32 of a query tile times a key tile, and a tile of sums grows by a weight tile times a
value tile.

A work unit is (block of rows, head). The queries of a block go by 32, two tiles of 16. For each page in turn its keys
and values become tiles once a block; then for each 32 queries come scores, weights by the largest score so far (what
has been summed is scaled down when that grows), and Σ weight · value. What a row gets depends on neither the block that
it is in nor the thread: masked weights are zeros. Threads take units by counting `next` up, the longest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .attention import LOWEST, RECORD, RECORDS, sight
from .common import capper
from .kv_types import PAGE, KvType, key_reader, value_reader
from .to_tiles import TILE, TILE_ROWS

ARGS = struct(
    "spans_ptr", "q_ptr", "keys_ptr", "values_ptr", "scratch_ptr", "y_ptr", "q_stride", "y_stride", "n_kv",
    "key_head_bytes", "value_head_bytes", "window", "scratch_bytes", "next_ptr", "sinks_ptr", "cap:f4",
)  # fmt: skip

PAIR = 2 * TILE_ROWS  # queries, columns or positions of two tiles side by side
QUERIES = 192  # of a block, at most, unless a group is larger: making tiles of a page is then a small part
LOG2E = 1.4426950408889634
SCORES = 4 * PAGE  # bytes of a query's scores
WEIGHTS = PAGE // PAIR * TILE  # bytes of the weights of 16 queries
STATS = 128  # bytes of a query's sums of weights, by lane, and behind them its largest score
TOP = 64


def block_rows(group: int) -> int:
    """Rows that are taken together, at most."""
    return max(1, QUERIES // group)


def _pairs(count: int) -> int:
    return -(-count // PAIR)


class _Room:
    """Where things are in a thread's scratch memory, in bytes."""

    def __init__(self, key_length: int, value_length: int, group: int) -> None:
        queries = _pairs(block_rows(group) * group) * PAIR
        self.key_blocks = _pairs(key_length)
        self.value_tiles = 2 * _pairs(value_length)
        self.keys = queries // TILE_ROWS * self.key_blocks * TILE  # behind the queries
        self.values = self.keys + PAGE // TILE_ROWS * self.key_blocks * TILE
        self.scores = self.values + PAGE // PAIR * self.value_tiles * TILE
        self.weights = self.scores + PAIR * SCORES
        self.sums = self.weights + 2 * WEIGHTS
        self.stats = self.sums + queries * self.value_tiles * 64
        self.bytes = self.stats + queries * STATS


def scratch_bytes(key_length: int, value_length: int, group: int) -> int:
    """Bytes that a thread needs."""
    return _Room(key_length, value_length, group).bytes


def _gather(v: Any, key_length: int, group: int, room: _Room) -> Any:
    """gather(q, q_stride, queries, out) makes a block's queries tiles, times log2(e); past the last are zeros."""
    blocks, whole, rest = room.key_blocks, key_length // 16, key_length % 16

    @v.njit
    def gather(q, q_stride, queries, out):
        factor, zero = v.splat_f(LOG2E), v.splat_f(0.0)
        for n in range((queries + PAIR - 1) // PAIR * PAIR):
            source = q + n // group * q_stride + n % group * key_length * 4
            to = out + n // TILE_ROWS * blocks * TILE + n % TILE_ROWS * 64
            for j in range(2 * blocks):
                x = zero
                if n < queries and j < whole:
                    x = v.load_f(source + 64 * j)
                if n < queries and j == whole:
                    for i in range(rest):
                        one = v.splat_f(v.load_f32(source + 64 * j + 4 * i))
                        x = v.choose(v.eq_i(v.iota(), v.splat_i(i)), one, x)
                v.store_bf16(to + j // 2 * TILE + j % 2 * 32, x * factor)

    return gather


def _keys(v: Any, key_length: int, kind: KvType, room: _Room) -> Any:
    """keys(page, start, last, out) makes positions start to last, multiples of 16, tiles of pairs of dimensions."""
    blocks, tile_bytes, scaled = room.key_blocks, kind.tile_bytes(key_length, v.L), kind.scaled
    code, scale, _ = key_reader(v, kind, key_length)

    @v.njit
    def keys(page, start, last, out):
        zero = v.splat_f(0.0)
        for t in range(start // TILE_ROWS, last // TILE_ROWS):
            tile = page + t * tile_bytes
            for b in range(blocks):
                to = out + (t * blocks + b) * TILE
                factor = scale(tile, b) if scaled else zero
                for d in range(b * PAIR, b * PAIR + PAIR, 2):
                    low = code(tile, d) if d < key_length else zero
                    high = code(tile, d + 1) if d + 1 < key_length else zero
                    if scaled:
                        low, high = low * factor, high * factor
                    v.store_i(to + d % PAIR // 2 * 64, v.bf16_pairs(low, high))

    return keys


def _values(v: Any, value_length: int, kind: KvType, room: _Room) -> Any:
    """values(page, start, last, out) makes positions from start, a multiple of 32, tiles of pairs; zeros from last."""
    tiles, vectors, row_bytes = room.value_tiles, -(-value_length // v.L), kind.row_bytes(value_length, v.L)
    value = value_reader(v, kind, value_length)

    @v.njit
    def values(page, start, last, out):
        zero = v.splat_f(0.0)
        for i in range(start, (last + PAIR - 1) // PAIR * PAIR, 2):
            row = page + i * row_bytes
            to = out + i // PAIR * tiles * TILE + i % PAIR // 2 * 64
            for j in range(tiles):
                low = value(row, j) if i < last and j < vectors else zero
                high = value(row + row_bytes, j) if i + 1 < last and j < vectors else zero
                v.store_i(to + j * TILE, v.bf16_pairs(low, high))

    return values


def _products(v: Any, room: _Room) -> tuple[Any, Any]:
    """scores(...) and weighted(...) multiply 32 queries by keys, and their weights by values, of positions start to
    end, multiples of 32."""
    blocks, tiles = room.key_blocks, room.value_tiles
    width = tiles * 64

    @v.njit
    def dots():
        v.tile_dot_bf16(0, 4, 6)
        v.tile_dot_bf16(1, 4, 7)
        v.tile_dot_bf16(2, 5, 6)
        v.tile_dot_bf16(3, 5, 7)

    @v.njit
    def scores(q, keys, start, end, out):
        for t in range(start // TILE_ROWS, end // TILE_ROWS, 2):
            v.tile_zero(0)
            v.tile_zero(1)
            v.tile_zero(2)
            v.tile_zero(3)
            for b in range(blocks):
                v.tile_load(4, q + b * TILE, 64)
                v.tile_load(5, q + (blocks + b) * TILE, 64)
                v.tile_load(6, keys + (t * blocks + b) * TILE, 64)
                v.tile_load(7, keys + ((t + 1) * blocks + b) * TILE, 64)
                dots()
            v.tile_store(0, out + t * 64, SCORES)
            v.tile_store(1, out + t * 64 + 64, SCORES)
            v.tile_store(2, out + TILE_ROWS * SCORES + t * 64, SCORES)
            v.tile_store(3, out + TILE_ROWS * SCORES + t * 64 + 64, SCORES)

    @v.njit
    def weighted(weights, values, start, end, sums):
        for j in range(0, tiles, 2):
            at = sums + j * 64
            v.tile_load(0, at, width)
            v.tile_load(1, at + 64, width)
            v.tile_load(2, at + TILE_ROWS * width, width)
            v.tile_load(3, at + TILE_ROWS * width + 64, width)
            for b in range(start // PAIR, end // PAIR):
                v.tile_load(4, weights + b * TILE, 64)
                v.tile_load(5, weights + WEIGHTS + b * TILE, 64)
                v.tile_load(6, values + (b * tiles + j) * TILE, 64)
                v.tile_load(7, values + (b * tiles + j + 1) * TILE, 64)
                dots()
            v.tile_store(0, at, width)
            v.tile_store(1, at + 64, width)
            v.tile_store(2, at + TILE_ROWS * width, width)
            v.tile_store(3, at + TILE_ROWS * width + 64, width)

    return scores, weighted


def _power(v: Any) -> Any:
    """power(x): 2^x for x <= 0, a polynomial of degree 4 (relative error below 4e-6); 0 or 2^-125 from -125 down.

    Adding 1.5 · 2^23 leaves the nearest whole number in the low bits, which move into the exponent.
    """
    magic, c1, c2, c3, c4 = 12582912.0, 0.69312419, 0.24024099, 0.05590643, 0.00958285

    @v.njit
    def power(x):
        x = v.max(x, v.splat_f(-125.0))
        shifted = x + v.splat_f(magic)
        r = x - (shifted - v.splat_f(magic))
        p = v.fma(v.splat_f(c4), r, v.splat_f(c3))
        p = v.fma(p, r, v.splat_f(c2))
        p = v.fma(p, r, v.splat_f(c1))
        p = v.fma(p, r, v.splat_f(1.0))
        return v.as_f(v.as_i(p) + (v.as_i(shifted) << 23))

    return power


def _weigh(v: Any, room: _Room, softcap: int) -> tuple[Any, Any]:
    """Two functions that make a query's scores on a page weights, and scale what has been summed down where it is due.

    weigh(scores, weights, sums, stats, cap) takes a whole page of which all is seen; weigh_some(..., cap, start, end,
    low, high) positions start to end, multiples of 32, of which low to high are seen. `cap` is in units of log 2 too.
    """
    vectors, tiles = PAGE // 16, room.value_tiles
    power, capped = _power(v), capper(v)

    @v.njit
    def score(at, cap):
        return capped(v.load_f(at), cap) if softcap else v.load_f(at)

    @v.njit
    def grow(top, sums, stats):
        # Returns the largest score so far, after scaling down what was summed by a smaller one.
        before = v.load_f32(stats + TOP)
        if top <= before:
            return before
        scale = power(v.splat_f(before) - v.splat_f(top))
        for j in range(tiles):
            v.store_f(sums + 64 * j, v.load_f(sums + 64 * j) * scale)
        v.store_f(stats, v.load_f(stats) * scale)
        v.store_f32(stats + TOP, top)
        return top

    @v.njit
    def weigh(scores, weights, sums, stats, cap):
        x = v.floats(vectors)
        best = score(scores, cap)
        x[0] = best
        for i in range(1, vectors):
            x[i] = score(scores + 64 * i, cap)
            best = v.max(best, x[i])
        top = v.splat_f(grow(v.largest(best), sums, stats))
        total = v.load_f(stats)
        for i in range(vectors):
            e = power(x[i] - top)
            total = total + e
            v.store_bf16(weights + i // 2 * TILE + i % 2 * 32, e)
        v.store_f(stats, total)

    @v.njit
    def weigh_some(scores, weights, sums, stats, cap, start, end, low, high):
        best = v.splat_f(LOWEST)
        for i in range(start, end, 16):
            index = v.iota() + v.splat_i(i)
            value = v.less(index, v.splat_i(high), score(scores + 4 * i, cap), v.splat_f(LOWEST))
            value = v.less(index, v.splat_i(low), v.splat_f(LOWEST), value)
            best = v.max(best, value)
            v.store_f(scores + 4 * i, value)
        top = v.splat_f(grow(v.largest(best), sums, stats))
        total = v.load_f(stats)
        for i in range(start, end, 16):
            value = v.load_f(scores + 4 * i)
            e = v.above(value, v.splat_f(LOWEST), power(value - top), v.splat_f(0.0))
            total = total + e
            v.store_bf16(weights + i // PAIR * TILE + i % PAIR * 2, e)
        v.store_f(stats, total)

    return weigh, weigh_some


def _page(v: Any, p: Mapping[str, Any], room: _Room) -> Any:
    """page(scratch, base, position, here, known, window, cap) adds a page, whose tiles are made, for a block's rows."""
    group, tiles = p["group"], room.value_tiles
    scores, weighted = _products(v, room)
    weigh, weigh_some = _weigh(v, room, p.get("softcap", 0))
    first_seen, end_seen = sight(v, p.get("everything", 0))
    key_bytes, width = room.key_blocks * TILE // TILE_ROWS, tiles * 64
    keys_at, values_at, scores_at, weights_at = room.keys, room.values, room.scores, room.weights
    sums_at, stats_at = room.sums, room.stats

    @v.njit
    def page(scratch, base, position, here, known, window, cap):
        for n0 in range(0, here * group, PAIR):
            first, final = position + n0 // group, position + min((n0 + PAIR - 1) // group, here - 1)
            start = max(first_seen(first, window) - base, 0) // PAIR * PAIR
            end = min((end_seen(final, known, window) - base + PAIR - 1) // PAIR * PAIR, PAGE)
            if start >= end:
                continue
            scores(scratch + n0 * key_bytes, scratch + keys_at, start, end, scratch + scores_at)
            seen = end_seen(first, known, window) - base >= PAGE and first_seen(final, window) <= base
            for i in range(min(PAIR, here * group - n0)):
                n = n0 + i
                scored, weights = scratch + scores_at + i * SCORES, scratch + weights_at
                weights += i // TILE_ROWS * WEIGHTS + i % TILE_ROWS * 64
                sums, stats = scratch + sums_at + n * width, scratch + stats_at + n * STATS
                if seen:
                    weigh(scored, weights, sums, stats, cap)
                else:
                    own = position + n // group
                    high = min(end_seen(own, known, window) - base, PAGE)
                    low = max(first_seen(own, window) - base, 0)
                    weigh_some(scored, weights, sums, stats, cap, start, end, low, high)
            weighted(scratch + weights_at, scratch + values_at, start, end, scratch + sums_at + n0 * width)

    return page


def _ends(v: Any, p: Mapping[str, Any], room: _Room) -> tuple[Any, Any]:
    """begin(scratch, queries) clears sums before the first page; finish(scratch, n, y, sink) writes a query's row."""
    value_length, tiles = p["value_length"], room.value_tiles
    whole, rest = value_length // 16, value_length % 16
    sums_at, stats_at = room.sums, room.stats
    power, with_sinks = _power(v), p.get("sinks", 0)

    @v.njit
    def begin(scratch, queries):
        for n in range((queries + PAIR - 1) // PAIR * PAIR):
            for j in range(tiles):
                v.store_f(scratch + sums_at + (n * tiles + j) * 64, v.splat_f(0.0))
            v.store_f(scratch + stats_at + n * STATS, v.splat_f(0.0))
            v.store_f32(scratch + stats_at + n * STATS + TOP, LOWEST)

    @v.njit
    def finish(scratch, n, y, sink):
        sums, stats = scratch + sums_at + n * tiles * 64, scratch + stats_at + n * STATS
        total = v.sum(v.load_f(stats))
        if with_sinks:
            largest, score = v.splat_f(v.load_f32(stats + TOP)), v.splat_f(v.load_f32(sink) * LOG2E)
            top = v.max(largest, score)
            shrunk = v.first(power(largest - top))
            scale = shrunk / (total * shrunk + v.first(power(score - top)))
        else:
            scale = 1.0 / total
        for j in range(whole):
            v.store_f(y + 64 * j, v.load_f(sums + 64 * j) * v.splat_f(scale))
        for i in range(whole * 16, whole * 16 + rest):
            v.store_f32(y + 4 * i, v.load_f32(sums + 4 * i) * scale)

    return begin, finish


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    if not v.TILES:
        raise ValueError("the level has no tiles")
    key_length, value_length, group = p["key_length"], p["value_length"], p["group"]
    room = _Room(key_length, value_length, group)
    least, most = -(-PAIR // group), block_rows(group)
    gather = _gather(v, key_length, group, room)
    to_keys = _keys(v, key_length, KvType(p["key_type"]), room)
    to_values = _values(v, value_length, KvType(p["value_type"]), room)
    page = _page(v, p, room)
    begin, finish = _ends(v, p, room)
    keys_at, values_at = room.keys, room.values
    first_seen, end_seen = sight(v, p.get("everything", 0))

    @v.njit
    def block(args, scratch, row, position, here, known, head, table):
        n_kv, window, cap = args.n_kv, args.window, args.cap * LOG2E
        end_of_all = end_seen(position + here - 1, known, window)
        gather(args.q_ptr + row * args.q_stride + head * group * key_length * 4, args.q_stride, here * group, scratch)
        begin(scratch, here * group)
        lowest = first_seen(position, window)
        for chunk in range(lowest // PAGE, (end_of_all - 1) // PAGE + 1):
            base = chunk * PAGE
            number = v.load_i64(table + 8 * chunk) * n_kv + head
            start, last = max(lowest - base, 0) // PAIR * PAIR, min(end_of_all - base, PAGE)
            end = (last + PAIR - 1) // PAIR * PAIR
            to_keys(args.keys_ptr + number * args.key_head_bytes, start, end, scratch + keys_at)
            to_values(args.values_ptr + number * args.value_head_bytes, start, last, scratch + values_at)
            page(scratch, base, position, here, known, window, cap)
        for r in range(here):
            for g in range(group):
                one = head * group + g
                finish(
                    scratch,
                    r * group + g,
                    args.y_ptr + (row + r) * args.y_stride + one * value_length * 4,
                    args.sinks_ptr + 4 * one,
                )

    def attention_tiles(args, ith, nth):
        skipped = v.load_i64(args.spans_ptr) + v.load_i64(args.spans_ptr + 8)
        count, n_kv = v.load_i64(args.spans_ptr + 16), args.n_kv
        scratch, begun = args.scratch_ptr + ith * args.scratch_bytes, 0
        if count == 0:
            return
        v.tile_config()
        turn = v.atomic_add(args.next_ptr, 1)
        for s in range(skipped, skipped + count):
            record = args.spans_ptr + RECORDS + 8 * RECORD * s
            row, length = v.load_i64(record), v.load_i64(record + 8)
            position, table = v.load_i64(record + 16), v.load_i64(record + 24)
            # A thread gets six units, if they are not too small for it.
            rows = min(most, max(least, (length * n_kv + 6 * nth - 1) // (6 * nth)))
            units = (length + rows - 1) // rows * n_kv
            while turn < begun + units:
                unit = units - 1 - (turn - begun)
                first = unit // n_kv * rows
                head = unit % n_kv
                here, known = min(rows, length - first), position + length
                block(args, scratch, row + first, position + first, here, known, head, table)
                turn = v.atomic_add(args.next_ptr, 1)
            begun += units
        v.tile_release()

    return attention_tiles
