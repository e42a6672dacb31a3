"""Runs a plan: calls kernel after kernel, every thread the same list, with a barrier where one needs another's result.

An entry is three int64: kernel address, argument address, and whether to wait afterwards. `barrier` is two int64 on
cache lines of their own: threads arrived, and rounds done. Waiting spins, and after a while gives the processor away
(`yield_` is the address of sched_yield), so that more threads than cores still make progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .spec import struct

ARGS = struct("entries", "count", "barrier", "yield_")
SPINS = 4096


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def tape(args, ith, nth):
        entries, count, barrier, give_way = args.entries, args.count, args.barrier, args.yield_
        for i in range(count):
            entry = entries + 24 * i
            v.invoke(v.load_i64(entry), v.load_i64(entry + 8), ith, nth)
            if nth > 1 and v.load_i64(entry + 16) != 0:
                rounds = v.atomic_load(barrier + 64)
                if v.atomic_add(barrier, 1) == nth - 1:
                    v.atomic_store(barrier, 0)
                    v.atomic_store(barrier + 64, rounds + 1)
                else:
                    spins = 0
                    while v.atomic_load(barrier + 64) == rounds:
                        spins += 1
                        if spins < SPINS:
                            v.pause()
                        else:
                            v.invoke0(give_way)

    return tape
