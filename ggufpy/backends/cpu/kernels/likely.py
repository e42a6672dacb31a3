"""The tokens of each row of logits that carry its probability: the likely ones, and a sample of the others.

    logits        [n_rows][n_columns] f32, rows logits_stride bytes apart
    stats         [n_rows] 16 bytes: f32 largest, f32 log of the sum, f32 sum of e^(x - largest), 4 unused
    ids, values   [n_rows][n_columns] i32 column, f32 x - largest: likely ones from the front, the sample from the back
    numbers       [n_rows] 16 bytes: i32 likely ones, i32 sampled ones, f32 probability of all that are not likely, 0
    scratch       SCRATCH bytes a thread

Tokens of a probability of at least e^`least` = `tick` are *likely*. Of the others, in order of their numbers, the one
is taken in which the sum of their probabilities passes the middle of each next tick: so one of probability p is taken
once in tick / p times (systematic sampling). Both are in order of their numbers, the sample from the end. With a tick
of 0.2, probabilities 0.5 0.06 0.24 0.09 0.11 make a row's ids

    0 2 . . 3      numbers 2 1 0.26: of the others, summed up 0.06 0.15 0.26, token 3 passes 0.1, none passes 0.3

Work units are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct(
    "n_rows", "logits_ptr", "logits_stride", "n_columns", "stats_ptr", "ids_ptr", "values_ptr", "numbers_ptr",
    "scratch_ptr", "least:f4", "tick:f4",
)  # fmt: skip
SCRATCH = 128  # bytes a thread: a vector of what is left of the largest, and one of probabilities


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    @v.njit
    def lane(at, x, share, limit, tick, ids, values, columns, state):
        """Puts one token where it belongs; state is (likely, sampled, what has been summed since the last sample)."""
        likely, sampled, since = state
        if x >= limit:
            v.store_i32(ids + 4 * likely, at)
            v.store_f32(values + 4 * likely, x)
            return likely + 1, sampled, since
        since += share
        if since >= tick:
            since -= tick
            v.store_i32(ids + 4 * (columns - 1 - sampled), at)
            v.store_f32(values + 4 * (columns - 1 - sampled), x)
            sampled += 1
        return likely, sampled, since

    def likely(args, ith, nth):
        columns, count, tick, scratch = args.n_columns, args.n_rows, args.tick, args.scratch_ptr + 128 * ith
        whole = columns // v.L
        zero = v.splat_f(0.0)
        for i in range(count * ith // nth, count * (ith + 1) // nth):
            row = args.logits_ptr + i * args.logits_stride
            stats, numbers = args.stats_ptr + 16 * i, args.numbers_ptr + 16 * i
            ids, values = args.ids_ptr + 4 * i * columns, args.values_ptr + 4 * i * columns
            top, inverse = v.load_f32(stats), 1.0 / v.load_f32(stats + 8)
            limit = args.least + v.load_f32(stats + 4)
            limits, factor = v.splat_f(limit), v.splat_f(inverse)
            rest = 0.0  # float64: a vocabulary is long
            state = (0, 0, tick / 2)
            for j in range(whole):
                x = v.load_f(row + 4 * v.L * j) - v.splat_f(top)
                above = v.ge(x, limits)
                others = v.choose(above, zero, v.exp(x) * factor)
                share = v.sum(others)
                rest += share
                if v.any(above) == 0 and state[2] + share < tick:
                    state = (state[0], state[1], state[2] + share)
                else:
                    v.store_f(scratch, x)
                    v.store_f(scratch + 64, others)
                    for k in range(v.L):
                        x1, p1 = v.load_f32(scratch + 4 * k), v.load_f32(scratch + 64 + 4 * k)
                        state = lane(j * v.L + k, x1, p1, limit, tick, ids, values, columns, state)
            for at in range(whole * v.L, columns):
                x1 = v.load_f32(row + 4 * at) - top
                p1 = v.first(v.exp(v.splat_f(x1))) * inverse
                if x1 < limit:
                    rest += p1
                state = lane(at, x1, p1, limit, tick, ids, values, columns, state)
            v.store_i32(numbers, state[0])
            v.store_i32(numbers + 4, state[1])
            v.store_f32(numbers + 8, rest)
            v.store_i32(numbers + 12, 0)

    return likely
