"""A tape: kernel calls with arguments filled in, and barriers where results are awaited, run on every thread."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.tape import COUNTER, STAMP
from ggufpy.jit.cache import Library
from ggufpy.jit.spec import kernel, load_source

from .lowering import Call, Cut
from .memory import Region
from .threads import Team, clock_address, yield_address

COUNTED = "next_ptr"  # the argument by which threads take turns


def barriers(calls: Sequence[Call]) -> list[bool]:
    """Whether threads wait after each call: where the next one meets what has been touched since the last wait."""
    waits = [False] * len(calls)
    read: set[str] = set()
    written: set[str] = set()
    for i, call in enumerate(calls):
        if call.reads & written or call.writes & (written | read):
            waits[i - 1] = True
            read, written = set(), set()
        read |= call.reads
        written |= call.writes
    waits[-1] = True  # nobody may still be at work when the tape returns
    return waits


class Tape:
    """Calls ready to run: addresses of kernels and of their argument structs, which it keeps alive."""

    def __init__(self, calls: Sequence[Call], library: Library) -> None:
        self.calls = calls
        counted = [call for call in calls if COUNTED in (load_source(call.kernel).ARGS.names or ())]
        self._counters = Region(max(len(counted), 1) * COUNTER, "the tape's counters")
        places = {id(call): self._counters.at(COUNTER * i, COUNTER) for i, call in enumerate(counted)}
        self._structs = [_filled(call, places.get(id(call))) for call in calls]
        self._entries = np.zeros((len(calls), 3), np.int64)
        for i, (call, wait) in enumerate(zip(calls, barriers(calls), strict=True)):
            self._entries[i] = (library.address(call.kernel), self._structs[i].ctypes.data, wait)
        runner = kernel("tape")
        self._args = np.zeros((), load_source(runner).ARGS)
        self._args["entries_ptr"], self._args["n_entries"] = self._entries.ctypes.data, len(calls)
        self._args["yield_ptr"] = yield_address()
        self._args["counters_ptr"], self._args["n_counters"] = self._counters.at(0, COUNTER), len(counted)
        self._runner = library.address(runner)

    def run(self, team: Team) -> None:
        """Runs every call on the team's threads; all of them have passed the last barrier when it returns."""
        self._args["barrier_ptr"] = team.barrier
        team.run(self._runner, self._args.ctypes.data)

    def timed(self, team: Team) -> NDArray[np.float64]:
        """As `run`; (calls, 2) seconds that thread 0 was at work on each, and that it waited behind it."""
        stamps = np.zeros((2 * len(self.calls) + 1, STAMP // 8), np.int64)
        self._args["clock_ptr"], self._args["clock_id"] = clock_address(), time.CLOCK_MONOTONIC
        self._args["stamps_ptr"] = stamps.ctypes.data
        try:
            self.run(team)
        finally:
            self._args["stamps_ptr"] = 0
        nanoseconds = (stamps[:, 0] - stamps[0, 0]) * 1_000_000_000 + stamps[:, 1]
        seconds: NDArray[np.float64] = np.diff(nanoseconds).reshape(-1, 2) / 1e9
        return seconds


def stretches(calls: Iterable[Call | Cut], library: Library) -> list[Tape | Cut]:
    """Tapes of what stands between cuts, and the cuts."""
    pieces: list[Tape | Cut] = []
    since: list[Call] = []
    for one in calls:
        if isinstance(one, Call):
            since.append(one)
            continue
        if since:
            pieces.append(Tape(since, library))
        pieces.append(one)
        since = []
    return [*pieces, Tape(since, library)] if since else pieces


def _filled(call: Call, counter: int | None = None) -> NDArray[Any]:
    """The kernel's argument struct. Raises ValueError unless every field is given, and nothing else."""
    dtype = load_source(call.kernel).ARGS
    if set(dtype.names or ()) - {COUNTED} != set(call.arguments):
        raise ValueError(f"{call.kernel.symbol} takes {dtype.names}, given {sorted(call.arguments)}")
    struct = np.zeros((), dtype)
    if counter is not None:
        struct[COUNTED] = counter
    for name, value in call.arguments.items():
        struct[name] = value
    return struct
