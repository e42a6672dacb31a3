"""Causal attention of each token of a step over the cache, in chunks of CHUNK positions with an online softmax.

Constants: key_length, value_length, group (query heads that share a key/value head). Every chunk's result is a *part*:
for each query head of the group the unnormalised output row (padded to whole vectors), then the largest score and the
sum of weights. Parts are joined in order of position by the same code wherever it runs, so the bits do not depend on
the number of threads or on how a prompt was cut.

One token: work units are (key/value head, chunk) and parts go to `parts`, to be joined by `attention_join`.
Several: units are (token, key/value head); parts are joined at once, in `scratch` (one piece a thread).
`window` > 0 limits attention to that many latest positions. Cache layout: see rope_store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .spec import struct

CHUNK = 128

ARGS = struct(
    "step", "q", "keys", "values", "parts", "scratch", "y", "q_stride", "y_stride", "n_kv", "key_head_bytes",
    "value_head_bytes", "window", "max_chunks", "scratch_bytes",
)  # fmt: skip


def part_bytes(value_length: int, group: int, lanes: int) -> int:
    """Bytes of one part: `group` rows of output, then a largest score and a sum for each."""
    padded = -(-value_length // lanes) * lanes
    return 4 * group * padded + 8 * group


def scratch_bytes(value_length: int, group: int, lanes: int) -> int:
    """Bytes a thread needs: scores of a chunk and two parts, kept apart by whole cache lines."""
    size = 4 * group * CHUNK + 2 * part_bytes(value_length, group, lanes)
    return -(-size // 64) * 64 + 64


def joiner(v: Any, value_length: int, group: int) -> tuple[Any, Any]:
    """(join, finish): join(into, part) merges a part into another; finish(part, y) writes normalised rows."""
    padded = -(-value_length // v.L) * v.L
    vectors = padded // v.L
    stats = 4 * group * padded

    @v.njit
    def join(into, part, g):
        a, b = into + stats + 8 * g, part + stats + 8 * g
        m_a, m_b = v.splat_f(v.load_f32(a)), v.splat_f(v.load_f32(b))
        m = v.max(m_a, m_b)
        scale_a, scale_b = v.exp(m_a - m), v.exp(m_b - m)
        for d in range(vectors):
            at = 4 * (g * padded + d * v.L)
            v.store_f(into + at, v.fma(v.load_f(into + at), scale_a, v.load_f(part + at) * scale_b))
        total = v.load_f32(a + 4) * v.first(scale_a) + v.load_f32(b + 4) * v.first(scale_b)
        v.store_f32(a, v.first(m))
        v.store_f32(a + 4, total)

    @v.njit
    def finish(part, y, g):
        scale = 1.0 / v.load_f32(part + stats + 8 * g + 4)
        for i in range(value_length):
            v.store_f32(y + 4 * i, v.load_f32(part + 4 * (g * padded + i)) * scale)

    return join, finish


def _scores(v: Any, key_length: int, group: int) -> Any:
    """scores(...): q · k for the positions of a chunk, those outside [low, high) at -inf; also the largest of each."""
    tiles = max(1, min(8 // group, CHUNK // v.L))
    tile_bytes = key_length * v.L * 2
    count = group * tiles

    @v.njit
    def scores(q, keys, base, low, high, out, stats, ahead):
        best = v.floats(group)
        for g in range(group):
            best[g] = v.splat_f(-1e30)
        start = (max(low - base, 0) // (v.L * tiles)) * (v.L * tiles)
        for first in range(start, min(high - base, CHUNK), v.L * tiles):
            acc = v.floats(count)
            for n in range(count):
                acc[n] = v.splat_f(0.0)
            tile = keys + (base + first) // v.L * tile_bytes
            for d in range(key_length):
                for i in range(tiles):
                    key = v.load_f16(tile + i * tile_bytes + d * v.L * 2)
                    v.prefetch(ahead + (first + i * v.L) * key_length * 2 + d * v.L * 2)
                    for g in range(group):
                        n = i * group + g
                        acc[n] = v.fma(key, v.splat_f(v.load_f32(q + 4 * (g * key_length + d))), acc[n])
            for i in range(tiles):
                index = v.iota() + v.splat_i(base + first + i * v.L)
                for g in range(group):
                    value = v.less(index, v.splat_i(high), acc[i * group + g], v.splat_f(-1e30))
                    value = v.less(index, v.splat_i(low), v.splat_f(-1e30), value)
                    best[g] = v.max(best[g], value)
                    v.store_f(out + 4 * (g * CHUNK + first + i * v.L), value)
        for g in range(group):
            v.store_f32(stats + 8 * g, v.largest(best[g]))
        return start

    return scores


def _weighted(v: Any, value_length: int, group: int) -> Any:
    """weighted(...): Σ weight · value over positions [first, last) of a chunk, for all heads of the group."""
    padded = -(-value_length // v.L) * v.L
    vectors = padded // v.L
    wide = max(1, min(vectors, (v.REGISTERS - 6) // group))
    while vectors % wide:
        wide -= 1
    count = group * wide

    @v.njit
    def weighted(weights, values, first, last, out, ahead):
        for d0 in range(0, vectors, wide):
            acc = v.floats(count)
            for n in range(count):
                acc[n] = v.splat_f(0.0)
            for i in range(first, last):
                row = values + (i * padded + d0 * v.L) * 2
                for line in range((wide * v.L * 2 + 63) // 64):
                    v.prefetch(ahead + (i * padded + d0 * v.L) * 2 + 64 * line)
                for d in range(wide):
                    value = v.load_f16(row + d * v.L * 2)
                    for g in range(group):
                        n = g * wide + d
                        acc[n] = v.fma(value, v.splat_f(v.load_f32(weights + 4 * (g * CHUNK + i))), acc[n])
            for g in range(group):
                for d in range(wide):
                    v.store_f(out + 4 * (g * padded + (d0 + d) * v.L), acc[g * wide + d])

    return weighted


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    key_length, value_length, group = p["key_length"], p["value_length"], p["group"]
    padded = -(-value_length // v.L) * v.L
    size = part_bytes(value_length, group, v.L)
    stats_at = 4 * group * padded
    join, finish = joiner(v, value_length, group)
    scores, weighted = _scores(v, key_length, group), _weighted(v, value_length, group)

    @v.njit
    def part(q, keys, values, chunk, low, high, out, room):
        base = chunk * CHUNK
        stats = out + stats_at
        # Each pass over a chunk brings what the next one reads: the values of this chunk, the keys of the next.
        chunk_values = values + base * padded * 2
        start = scores(q, keys, base, low, high, room, stats, chunk_values)
        last = min(high - base, CHUNK)
        for g in range(group):
            m = v.splat_f(v.load_f32(stats + 8 * g))
            total = v.splat_f(0.0)
            for i in range(start, last, v.L):
                at = room + 4 * (g * CHUNK + i)
                e = v.exp(v.load_f(at) - m)
                v.store_f(at, e)
                total = total + e
            v.store_f32(stats + 8 * g + 4, v.sum(total))
        weighted(room, chunk_values, max(low - base, 0), last, out, keys + (base + CHUNK) * key_length * 2)

    def attention(args, ith, nth):
        n_tokens, position0 = v.load_i64(args.step), v.load_i64(args.step + 8)
        n_kv, window, max_chunks = args.n_kv, args.window, args.max_chunks
        q0, y0, keys0, values0, parts = args.q, args.y, args.keys, args.values, args.parts
        q_stride, y_stride = args.q_stride, args.y_stride
        key_head, value_head = args.key_head_bytes, args.value_head_bytes
        room = args.scratch + ith * args.scratch_bytes
        spare = room + 4 * group * CHUNK
        running = spare + size
        if n_tokens == 1:
            high = position0 + 1
            low = max(0, high - window) if window > 0 else 0
            first = low // CHUNK
            chunks = position0 // CHUNK + 1 - first
            units = n_kv * chunks
            for unit in range(units * ith // nth, units * (ith + 1) // nth):
                head = unit // chunks
                chunk = first + unit - head * chunks
                q = q0 + head * group * key_length * 4
                out = parts + (head * max_chunks + chunk) * size
                part(q, keys0 + head * key_head, values0 + head * value_head, chunk, low, high, out, room)
            return
        units = n_tokens * n_kv
        for unit in range(ith, units, nth):
            token = unit // n_kv
            head = unit - token * n_kv
            high = position0 + token + 1
            low = max(0, high - window) if window > 0 else 0
            q = q0 + token * q_stride + head * group * key_length * 4
            for chunk in range(low // CHUNK, (high - 1) // CHUNK + 1):
                out = running if chunk == low // CHUNK else spare
                part(q, keys0 + head * key_head, values0 + head * value_head, chunk, low, high, out, room)
                if chunk != low // CHUNK:
                    for g in range(group):
                        join(running, spare, g)
            for g in range(group):
                finish(running, y0 + token * y_stride + (head * group + g) * value_length * 4, g)

    return attention
