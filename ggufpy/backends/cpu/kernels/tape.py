"""Runs a plan: calls kernel after kernel, every thread the same list, with a barrier where one needs another's result.

    entries    [n_entries] (i64 kernel, i64 its arguments, i64 whether to wait afterwards); the first two are addresses
    barrier    as in `common.barrier`; `yield` is the address of sched_yield
    counters   [n_counters] i64, a cache line each: those of kernels whose threads take turns; zeros again at the end
    stamps     [1 + 2 · n_entries] (i64 seconds, i64 nanoseconds), or 0: at the start, then for every entry when its
               kernel returns and when the wait behind it is over

Thread 0 has clock_gettime (`clock`, of the kind `clock_id`) write the stamps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .common import barrier as waiting

ARGS = struct(
    "entries_ptr", "n_entries", "barrier_ptr", "yield_ptr", "counters_ptr", "n_counters", "clock_ptr", "clock_id",
    "stamps_ptr",
)  # fmt: skip
COUNTER = 64  # bytes
STAMP = 16  # bytes of a time: seconds and nanoseconds


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    wait = waiting(v)

    def tape(args, ith, nth):
        entries, count, barrier, give_way = args.entries_ptr, args.n_entries, args.barrier_ptr, args.yield_ptr
        clock, clock_id, stamps = args.clock_ptr, args.clock_id, args.stamps_ptr if ith == 0 else 0
        if stamps != 0:
            v.invoke(clock, clock_id, stamps, 0)
        for i in range(count):
            entry = entries + 24 * i
            v.invoke(v.load_i64(entry), v.load_i64(entry + 8), ith, nth)
            if stamps != 0:
                v.invoke(clock, clock_id, stamps + (2 * i + 1) * STAMP, 0)
            if nth > 1 and v.load_i64(entry + 16) != 0:
                wait(barrier, give_way, nth)
            if stamps != 0:
                v.invoke(clock, clock_id, stamps + (2 * i + 2) * STAMP, 0)
        if ith == 0:  # the last wait is over: all are through
            for i in range(args.n_counters):
                v.atomic_store(args.counters_ptr + COUNTER * i, 0)

    return tape
