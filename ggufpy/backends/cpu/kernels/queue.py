"""Runs kernels that do not need one another's results: every thread takes the next of the list until there are none.

    entries   [n_entries] (i64 kernel, i64 its arguments): addresses
    next      i64: entries that have been taken, 0 at the start
    barrier   as in `common.barrier`; `yield` is the address of sched_yield

Each kernel runs on one thread; threads wait for each other at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

from .common import barrier as waiting

ARGS = struct("entries_ptr", "n_entries", "next_ptr", "barrier_ptr", "yield_ptr")
ENTRY = 16


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    wait = waiting(v)

    def queue(args, ith, nth):
        entries, count, following = args.entries_ptr, args.n_entries, args.next_ptr
        i = v.atomic_add(following, 1)
        while i < count:
            v.invoke(v.load_i64(entries + ENTRY * i), v.load_i64(entries + ENTRY * i + 8), 0, 1)
            i = v.atomic_add(following, 1)
        if nth > 1:
            wait(args.barrier_ptr, args.yield_ptr, nth)

    return queue
