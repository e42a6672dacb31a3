"""Starts a job on parked threads without Python, and is what those threads do in between.

Constant: role. "launch" (thread 0): announces the job in `entry` and `job`, wakes the others and does its own share.
"work" (the others): waits for an announcement, spinning for a while and then blocked in the system, does its share, and
starts over; returns when `stop` is set.

`control` is one int64, the number of jobs announced. A job ends with a barrier of all threads, so no thread can miss
one. `lock`, `unlock`, `wait`, `wake` are addresses of the system's functions on `mutex` and `condition`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct("control", "stop", "entry", "job", "mutex", "condition", "lock", "unlock", "wait", "wake")
SPINS = 8192  # about 0.2 ms: longer than an application takes between two tokens, too short to warm a laptop


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def launch(args, ith, nth):
        control = args.control
        v.invoke4(args.lock, args.mutex, 0, 0, 0)
        v.atomic_store(control, v.atomic_load(control) + 1)
        v.invoke4(args.unlock, args.mutex, 0, 0, 0)
        v.invoke4(args.wake, args.condition, 0, 0, 0)
        if args.stop == 0:
            v.invoke(args.entry, args.job, 0, nth)

    def work(args, ith, nth):
        control, seen = args.control, 0
        while True:
            spins = 0
            while v.atomic_load(control) == seen and spins < SPINS:
                v.pause()
                spins += 1
            if v.atomic_load(control) == seen:
                v.invoke4(args.lock, args.mutex, 0, 0, 0)
                while v.atomic_load(control) == seen:
                    v.invoke4(args.wait, args.condition, args.mutex, 0xFFFFFFFF, 0)
                v.invoke4(args.unlock, args.mutex, 0, 0, 0)
            seen += 1
            if args.stop != 0:
                return
            v.invoke(args.entry, args.job, ith, nth)

    return launch if p["role"] == "launch" else work
