"""Attention of the rows of a step over the pages of their sequences, with an online softmax.

    q              [row][n_kv][group][key_length] f32, rows q_stride bytes apart
    y              [row][n_kv][group][value_length] f32, rows y_stride bytes apart
    keys, values   [page][n_kv] pages of a head, key_head_bytes and value_head_bytes each, as `kv_types` draws them
    sinks          [n_kv][group] f32
    spans          i64 × 3: how many single rows, runs, and spans that `attention_tiles` takes; then, in this order,
                   a record of RECORD i64 for each: first row, rows, first position, page table, parts (addresses)
    page table     i64 for each PAGE positions: the number of their page
    part           [queries][value_length, padded to whole vectors] f32, then [queries] (f32 largest score, f32 sum)
    scratch        scratch_bytes a thread: scores [queries][PAGE], queries [queries][key_length], two parts

A span of rows 4 to 6 (3 rows) whose first position is 200, beside a single row 0 at position 300, is

    1 1 0 | 0 1 300 table parts | 4 3 200 table 0

and a row at position 300 sees table[0], table[1] and, of table[2], positions 256 to 300: it has 3 parts a head.

A page is what one turn of the online softmax takes. Its result is a part: for each query the row of output before it
is divided by the sum of weights. Parts are joined in order of position by the same code wherever it runs, so the bits
do not depend on the number of threads or on how a prompt was cut. A single row leaves parts[head][page] for
`attention_join`; its work units are (head, page). Runs are taken in blocks of a few rows, whose queries share every key
and value that is read; their work units are (block, head), and parts are joined at once in scratch.

Constants: key_length, value_length, group (query heads that share a key/value head), key_type, value_type; and, 1 where
they are given: softcap (scores become cap · tanh(score / cap)), sinks (a query head's sink is a score that counts in
the sum of weights alone), everything (rows see all that their sequence has with this step, not only what is before
them; with a window what is at most window // 2 positions away, before and behind). Else `window` > 0 limits attention
to that many latest positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .common import capper
from .kv_types import PAGE, KvType, key_reader, value_reader

RECORD = 5  # int64 of a span
RECORDS = 24  # offset of the first
QUERIES = 24  # of a block, at most, unless a group is larger
LOWEST = -1e30  # the score of what is not seen

ARGS = struct(
    "spans_ptr", "q_ptr", "keys_ptr", "values_ptr", "scratch_ptr", "y_ptr", "q_stride", "y_stride", "n_kv",
    "key_head_bytes", "value_head_bytes", "window", "scratch_bytes", "sinks_ptr", "cap:f4",
)  # fmt: skip


def block_rows(group: int) -> int:
    """Rows of a run that are taken together."""
    return max(1, QUERIES // group)


def part_bytes(value_length: int, queries: int, lanes: int) -> int:
    """Bytes of one part: `queries` rows of output, then a largest score and a sum for each."""
    padded = -(-value_length // lanes) * lanes
    return 4 * queries * padded + 8 * queries


def scratch_bytes(key_length: int, value_length: int, group: int, lanes: int) -> int:
    """Bytes a thread needs: queries and scores of a block and two parts, kept apart by whole cache lines."""
    queries = block_rows(group) * group
    size = 4 * queries * (PAGE + key_length) + 2 * part_bytes(value_length, queries, lanes)
    return -(-size // 64) * 64 + 64


def sight(v: Any, everything: int) -> tuple[Any, Any]:
    """(first, end) of the positions that a row sees: first(position, window) and end(position, known, window)."""

    @v.njit
    def first_before(position, window):
        return max(position + 1 - window, 0) if window > 0 else 0

    @v.njit
    def end_before(position, known, window):
        return position + 1

    @v.njit
    def first_around(position, window):
        return max(position - window // 2, 0) if window > 0 else 0

    @v.njit
    def end_around(position, known, window):
        return min(position + window // 2 + 1, known) if window > 0 else known

    return (first_around, end_around) if everything else (first_before, end_before)


def joiner(v: Any, value_length: int, queries: int, sinks: bool) -> tuple[Any, Any]:
    """(join, finish) for query n: join(into, part, n) merges parts; finish(part, n, y, sink) writes the normalised row.

    `sink` is the address of the score of the head's sink, if there are `sinks`.
    """
    padded = -(-value_length // v.L) * v.L
    vectors = padded // v.L
    stats = 4 * queries * padded

    @v.njit
    def join(into, part, n):
        a, b = into + stats + 8 * n, part + stats + 8 * n
        m_a, m_b = v.splat_f(v.load_f32(a)), v.splat_f(v.load_f32(b))
        m = v.max(m_a, m_b)
        scale_a, scale_b = v.exp(m_a - m), v.exp(m_b - m)
        for d in range(vectors):
            at = 4 * (n * padded + d * v.L)
            v.store_f(into + at, v.fma(v.load_f(into + at), scale_a, v.load_f(part + at) * scale_b))
        total = v.load_f32(a + 4) * v.first(scale_a) + v.load_f32(b + 4) * v.first(scale_b)
        v.store_f32(a, v.first(m))
        v.store_f32(a + 4, total)

    @v.njit
    def finish(part, n, y, sink):
        at = part + stats + 8 * n
        if sinks:
            largest, score = v.splat_f(v.load_f32(at)), v.splat_f(v.load_f32(sink))
            top = v.max(largest, score)
            shrunk = v.first(v.exp(largest - top))
            scale = shrunk / (v.load_f32(at + 4) * shrunk + v.first(v.exp(score - top)))
        else:
            scale = 1.0 / v.load_f32(at + 4)
        for i in range(value_length):
            v.store_f32(y + 4 * i, v.load_f32(part + 4 * (n * padded + i)) * scale)

    return join, finish


def _at_once(queries: int, most: int) -> int:
    """The largest number of queries up to `most` that divides them evenly."""
    return max(n for n in range(1, most + 1) if queries % n == 0)


def _scores(v: Any, key_length: int, kind: KvType, queries: int) -> tuple[Any, int]:
    """(scores, positions at once): scores(...) writes q · k of all queries for positions start to last of a page."""
    L, wide = v.L, v.REGISTERS >= 32
    count = _at_once(queries, 8 if wide else 6)
    tiles = 1
    while tiles * 2 * count <= (16 if wide else 12) and tiles * 2 <= PAGE // L:
        tiles *= 2
    tile_bytes = kind.tile_bytes(key_length, L)
    code, scale, block = key_reader(v, kind, key_length)
    scaled, total = kind.scaled, count * tiles

    @v.njit
    def scores(q, keys, start, last, room, ahead, ahead_step):
        for first in range(start, last, L * tiles):
            tile = keys + first // L * tile_bytes
            for n0 in range(0, queries, count):
                rows = q + 4 * n0 * key_length
                acc = v.floats(total)
                for n in range(total):
                    acc[n] = v.splat_f(0.0)
                for b in range(key_length // block):
                    scales = v.floats(tiles)
                    for i in range(tiles):
                        if scaled:
                            scales[i] = scale(tile + i * tile_bytes, b)
                    for d in range(b * block, b * block + block):
                        here = v.floats(tiles)  # one number of each query at a time, or there are too few registers
                        for i in range(tiles):
                            key = code(tile + i * tile_bytes, d)
                            here[i] = key * scales[i] if scaled else key
                            v.prefetch(ahead + ((first // L + i) * key_length + d) * ahead_step)
                        for n in range(count):
                            x = v.splat_f(v.load_f32(rows + 4 * (n * key_length + d)))
                            for i in range(tiles):
                                acc[i * count + n] = v.fma(here[i], x, acc[i * count + n])
                for i in range(tiles):
                    for n in range(count):
                        v.store_f(room + 4 * ((n0 + n) * PAGE + first + i * L), acc[i * count + n])

    return scores, L * tiles


def _weighted(v: Any, value_length: int, kind: KvType, queries: int) -> Any:
    """weighted(...) writes Σ weight · value over positions first to last of a page, for all queries."""
    L = v.L
    padded = -(-value_length // L) * L
    vectors = padded // L
    count = _at_once(queries, 8 if v.REGISTERS >= 32 else 6)
    wide = max(1, min(vectors, (26 if v.REGISTERS >= 32 else 12) // count))
    while vectors % wide:
        wide -= 1
    total = count * wide
    row_bytes = kind.row_bytes(value_length, L)
    value = value_reader(v, kind, value_length)

    @v.njit
    def weighted(room, values, first, last, out, ahead, ahead_step):
        for n0 in range(0, queries, count):
            weights, to = room + 4 * n0 * PAGE, out + 4 * n0 * padded
            for d0 in range(0, vectors, wide):
                acc = v.floats(total)
                for n in range(total):
                    acc[n] = v.splat_f(0.0)
                for i in range(first, last):
                    row = values + i * row_bytes
                    for at in range(0, ahead_step * wide // vectors, 64):
                        v.prefetch(ahead + i * ahead_step + d0 * ahead_step // vectors + at)
                    here = v.floats(wide)
                    for d in range(wide):
                        here[d] = value(row, d0 + d)
                    for n in range(count):
                        weight = v.splat_f(v.load_f32(weights + 4 * (n * PAGE + i)))
                        for d in range(wide):
                            acc[n * wide + d] = v.fma(here[d], weight, acc[n * wide + d])
                for n in range(count):
                    for d in range(wide):
                        v.store_f(to + 4 * (n * padded + (d0 + d) * L), acc[n * wide + d])

    return weighted


def _part(v: Any, p: Mapping[str, Any], rows: int) -> Any:
    """part(...) makes a page's part for the queries of `rows` rows; `here` of them count, the others repeat the last.

    `known` positions have been stored; `cap` is 0 where scores have none.
    """
    key_length, value_length, group = p["key_length"], p["value_length"], p["group"]
    key_type, value_type = KvType(p["key_type"]), KvType(p["value_type"])
    L, queries = v.L, rows * group
    stats_at = 4 * queries * (-(-value_length // L) * L)
    scores, unit = _scores(v, key_length, key_type, queries)
    weighted = _weighted(v, value_length, value_type, queries)
    capped, softcap = capper(v), p.get("softcap", 0)
    first_seen, end_seen = sight(v, p.get("everything", 0))
    value_step = value_type.value_page(value_length, L) // (PAGE // L * key_length)
    key_step = key_type.key_page(key_length, L) // PAGE

    @v.njit
    def part(q, keys, values, base, position, here, known, window, cap, out, room, next_keys):
        # Each pass over a page brings what the next one reads: the values of this page, the keys of the next.
        stats = out + stats_at
        lowest = first_seen(position, window)
        start = max(lowest - base, 0) // unit * unit
        last = min(end_seen(position + here - 1, known, window) - base, PAGE)
        scores(q, keys, start, last, room, values, value_step)
        for r in range(rows):
            own = position + min(r, here - 1)
            low, high = first_seen(own, window), end_seen(own, known, window)
            for g in range(group):
                scored = room + 4 * (r * group + g) * PAGE
                best = v.splat_f(LOWEST)
                for i in range(start, last, L):
                    index = v.iota() + v.splat_i(base + i)
                    value = v.load_f(scored + 4 * i)
                    if softcap:
                        value = capped(value, cap)
                    value = v.less(index, v.splat_i(high), value, v.splat_f(LOWEST))
                    value = v.less(index, v.splat_i(low), v.splat_f(LOWEST), value)
                    best = v.max(best, value)
                    v.store_f(scored + 4 * i, value)
                top = v.largest(best)
                total = v.splat_f(0.0)
                for i in range(start, last, L):
                    value = v.load_f(scored + 4 * i)
                    e = v.above(value, v.splat_f(LOWEST), v.exp(value - v.splat_f(top)), v.splat_f(0.0))
                    v.store_f(scored + 4 * i, e)
                    total = total + e
                v.store_f32(stats + 8 * (r * group + g), top)
                v.store_f32(stats + 8 * (r * group + g) + 4, v.sum(total))
        weighted(room, values, max(lowest - base, 0), last, out, next_keys, key_step)

    return part


def _singles(v: Any, p: Mapping[str, Any]) -> Any:
    """singles(args, ith, nth, count) takes rows that are alone in their sequence's step; threads share pages out."""
    key_length, group = p["key_length"], p["group"]
    size = part_bytes(p["value_length"], group, v.L)
    part = _part(v, p, 1)
    first_seen, _ = sight(v, p.get("everything", 0))

    @v.njit
    def singles(args, ith, nth, count):
        n_kv, window, records = args.n_kv, args.window, args.spans_ptr + RECORDS
        q0, q_stride, keys0, values0 = args.q_ptr, args.q_stride, args.keys_ptr, args.values_ptr
        key_head, value_head = args.key_head_bytes, args.value_head_bytes
        room = args.scratch_ptr + ith * args.scratch_bytes
        units = 0
        for s in range(count):
            position = v.load_i64(records + 8 * RECORD * s + 16)
            units += n_kv * (position // PAGE + 1 - first_seen(position, window) // PAGE)
        mine, end, begun = units * ith // nth, units * (ith + 1) // nth, 0
        for s in range(count):
            record = records + 8 * RECORD * s
            row, position, table = v.load_i64(record), v.load_i64(record + 16), v.load_i64(record + 24)
            parts, pages = v.load_i64(record + 32), position // PAGE + 1
            first = first_seen(position, window) // PAGE
            chunks = pages - first
            for unit in range(max(mine - begun, 0), min(end - begun, n_kv * chunks)):
                head = unit // chunks
                chunk = first + unit - head * chunks
                page, following = v.load_i64(table + 8 * chunk), v.load_i64(table + 8 * min(chunk + 1, pages - 1))
                q = q0 + row * q_stride + head * group * key_length * 4
                keys = keys0 + (page * n_kv + head) * key_head
                next_keys = keys0 + (following * n_kv + head) * key_head
                values = values0 + (page * n_kv + head) * value_head
                out = parts + (head * pages + chunk) * size
                known = position + 1
                part(q, keys, values, chunk * PAGE, position, 1, known, window, args.cap, out, room, next_keys)
            begun += n_kv * chunks

    return singles


def _runs(v: Any, p: Mapping[str, Any]) -> Any:
    """runs(args, ith, nth, single, count) takes runs of rows, in blocks that threads share out."""
    key_length, value_length, group = p["key_length"], p["value_length"], p["group"]
    rows = block_rows(group)
    queries = rows * group
    size = part_bytes(value_length, queries, v.L)
    part = _part(v, p, rows)
    first_seen, end_seen = sight(v, p.get("everything", 0))
    join, finish = joiner(v, value_length, queries, bool(p.get("sinks", 0)))

    @v.njit
    def gather(q, q_stride, here, out):
        # Puts the queries of a block side by side; rows beyond its end repeat the last.
        for r in range(rows):
            row = q + min(r, here - 1) * q_stride
            for i in range(0, group * key_length):
                v.store_f32(out + 4 * (r * group * key_length + i), v.load_f32(row + 4 * i))

    @v.njit
    def runs(args, ith, nth, single, count):
        n_kv, window, records = args.n_kv, args.window, args.spans_ptr + RECORDS + 8 * RECORD * single
        cap, sinks = args.cap, args.sinks_ptr
        keys0, values0, y0, y_stride = args.keys_ptr, args.values_ptr, args.y_ptr, args.y_stride
        key_head, value_head, q_stride = args.key_head_bytes, args.value_head_bytes, args.q_stride
        room = args.scratch_ptr + ith * args.scratch_bytes
        q = room + 4 * queries * PAGE
        running = q + 4 * queries * key_length
        spare = running + size
        turn = ith
        for s in range(count):
            record = records + 8 * RECORD * s
            row0, length = v.load_i64(record), v.load_i64(record + 8)
            position0, table = v.load_i64(record + 16), v.load_i64(record + 24)
            units = (length + rows - 1) // rows * n_kv
            for unit in range(turn, units, nth):
                block = unit // n_kv
                head = unit - block * n_kv
                row, position = row0 + block * rows, position0 + block * rows
                here = min(rows, length - block * rows)
                gather(args.q_ptr + row * q_stride + head * group * key_length * 4, q_stride, here, q)
                first, known = first_seen(position, window) // PAGE, position0 + length
                end = (end_seen(position + here - 1, known, window) - 1) // PAGE
                for chunk in range(first, end + 1):
                    page = v.load_i64(table + 8 * chunk) * n_kv + head
                    following = v.load_i64(table + 8 * min(chunk + 1, end)) * n_kv + head
                    keys, values = keys0 + page * key_head, values0 + page * value_head
                    out = running if chunk == first else spare
                    next_keys = keys0 + following * key_head
                    part(q, keys, values, chunk * PAGE, position, here, known, window, cap, out, room, next_keys)
                    if chunk != first:
                        for n in range(here * group):
                            join(running, spare, n)
                for r in range(here):
                    for g in range(group):
                        one = head * group + g
                        y = y0 + (row + r) * y_stride + one * value_length * 4
                        finish(running, r * group + g, y, sinks + 4 * one)
            turn = (turn - units) % nth

    return runs


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    singles, runs = _singles(v, p), _runs(v, p)

    def attention(args, ith, nth):
        single, several = v.load_i64(args.spans_ptr), v.load_i64(args.spans_ptr + 8)
        singles(args, ith, nth, single)
        runs(args, ith, nth, single, several)

    return attention
