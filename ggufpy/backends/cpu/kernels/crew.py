"""Starts a job on parked threads without Python, and is what those threads do in between.

    control            i64: how many jobs have been announced
    entry, job         what a job is: entry(job, ith, nth) is called on every thread
    mutex, condition   the system's own; lock, unlock, wait and wake are addresses of its functions on them
    stops              1 where threads are to end

Constant: role. "launch" (thread 0) announces the job, wakes the others and does its own share. "work" (the others)
waits for an announcement, spinning for a while and then blocked in the system, does its share, and starts over; it
returns when `stops` is set. A job ends with a barrier of all threads, so no thread can miss one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct(
    "control_ptr", "stops", "entry_ptr", "job_ptr", "mutex_ptr", "condition_ptr", "lock_ptr", "unlock_ptr", "wait_ptr",
    "wake_ptr",
)  # fmt: skip
SPINS = 8192  # about 0.2 ms: longer than an application takes between two tokens, too short to warm a laptop


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    def launch(args, ith, nth):
        control = args.control_ptr
        v.invoke4(args.lock_ptr, args.mutex_ptr, 0, 0, 0)
        v.atomic_store(control, v.atomic_load(control) + 1)
        v.invoke4(args.unlock_ptr, args.mutex_ptr, 0, 0, 0)
        v.invoke4(args.wake_ptr, args.condition_ptr, 0, 0, 0)
        if args.stops == 0:
            v.invoke(args.entry_ptr, args.job_ptr, 0, nth)

    def work(args, ith, nth):
        control, seen = args.control_ptr, 0
        while True:
            spins = 0
            while v.atomic_load(control) == seen and spins < SPINS:
                v.pause()
                spins += 1
            if v.atomic_load(control) == seen:
                v.invoke4(args.lock_ptr, args.mutex_ptr, 0, 0, 0)
                while v.atomic_load(control) == seen:
                    v.invoke4(args.wait_ptr, args.condition_ptr, args.mutex_ptr, 0xFFFFFFFF, 0)
                v.invoke4(args.unlock_ptr, args.mutex_ptr, 0, 0, 0)
            seen += 1
            if args.stops != 0:
                return
            v.invoke(args.entry_ptr, args.job_ptr, ith, nth)

    return launch if p["role"] == "launch" else work
