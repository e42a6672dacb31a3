"""The team of threads that runs a tape: one call a step, the caller being thread 0, the others parked in between."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

from .memory import Region

Entry = Callable[[int, int, int], None]


def yield_address() -> int:
    """The address of a C function without arguments that gives the processor away."""
    if sys.platform == "win32":
        return ctypes.cast(ctypes.windll.kernel32.SwitchToThread, ctypes.c_void_p).value or 0
    return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0


class Team:
    """`size` threads. `run` calls entry(args, ith, size) on each at once and returns when thread 0 is through.

    The entry must end with a wait on `barrier`, so that no thread is still at work when thread 0 returns. The barrier
    belongs to the team, not to what it runs: a thread may look at it once more after thread 0 has gone on.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = Region(128, "the barrier")
        self._entry: Entry | None = None
        self._args = 0
        self._gates = [threading.Lock() for _ in range(size - 1)]
        for gate in self._gates:
            gate.acquire()
        self._threads = [
            threading.Thread(target=self._work, args=(i + 1, gate), daemon=True, name=f"ggufpy-{i + 1}")
            for i, gate in enumerate(self._gates)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, ith: int, gate: threading.Lock) -> None:
        while True:
            gate.acquire()
            entry = self._entry
            if entry is None:
                return
            entry(self._args, ith, self.size)

    def run(self, entry: Entry, args: int) -> None:
        self._entry, self._args = entry, args
        for gate in self._gates:
            gate.release()
        entry(args, 0, self.size)

    def close(self) -> None:
        """Ends the threads; the team cannot run again."""
        self._entry = None
        for gate in self._gates:
            gate.release()
        for thread in self._threads:
            thread.join()
        self._gates, self._threads = [], []
