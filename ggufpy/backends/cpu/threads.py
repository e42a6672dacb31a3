"""The team of threads that runs a tape: one call a step, the caller being thread 0, the others parked in between.

Waking and waiting happen in compiled code (`kernels/crew.py`), so a step takes no turn of Python's lock, and an
interrupt from the keyboard finds a step either not begun or done.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.jit.cache import Library, function
from ggufpy.jit.spec import kernel, load_source

from .memory import Region

Entry = Callable[[int, int, int], None]
LAUNCH, WORK = kernel("crew", role="launch"), kernel("crew", role="work")
CONTROL, BARRIER, MUTEX, CONDITION, ROOM = 0, 128, 256, 512, 768  # offsets in the team's memory


def _system(name: str) -> int:
    """The address of a C function of the process."""
    library = ctypes.CDLL("kernel32" if sys.platform == "win32" else None)
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def yield_address() -> int:
    """The address of a C function without arguments that gives the processor away."""
    return _system("SwitchToThread" if sys.platform == "win32" else "sched_yield")


def clock_address() -> int:
    """The address of clock_gettime. Raises GGUFError where there is none."""
    if sys.platform == "win32":
        raise GGUFError("a step is profiled with clock_gettime, which Windows does not have")
    return _system("clock_gettime")


def _waiting(mutex: int, condition: int) -> dict[str, int]:
    """Initialises a mutex and a condition variable in place; the functions that work on them, by what they do."""
    if sys.platform == "win32":  # both begin as zeros
        names = ("AcquireSRWLockExclusive", "ReleaseSRWLockExclusive", "SleepConditionVariableSRW")
        names = (*names, "WakeAllConditionVariable")
    else:
        posix = ctypes.CDLL(None)
        if posix.pthread_mutex_init(ctypes.c_void_p(mutex), None) or posix.pthread_cond_init(
            ctypes.c_void_p(condition), None
        ):
            raise GGUFError("the system gives no locks for threads")
        names = ("pthread_mutex_lock", "pthread_mutex_unlock", "pthread_cond_wait", "pthread_cond_broadcast")
    return dict(zip(("lock_ptr", "unlock_ptr", "wait_ptr", "wake_ptr"), map(_system, names), strict=True))


def _serve(work: Entry, args: NDArray[Any], memory: Region, ith: int, size: int) -> None:
    """The life of thread `ith`. It holds what it works on, but not the team, which may be dropped."""
    work(args.ctypes.data, ith, size)


class Team:
    """`size` threads. `run` calls entry(job, ith, size) on each at once and returns when thread 0 is through.

    The entry must end with a wait on `barrier`, so that no thread is still at work when thread 0 returns. The barrier
    belongs to the team, not to what it runs: a thread may look at it once more after thread 0 has gone on. One call at
    a time.
    """

    def __init__(self, size: int, library: Library) -> None:
        self.size = size
        memory = Region(ROOM, "the team")
        self.barrier = memory.at(BARRIER, 128)
        self._args = np.zeros((), load_source(LAUNCH).ARGS)
        mutex, condition = memory.at(MUTEX, 256), memory.at(CONDITION, 256)
        given = {"control_ptr": memory.at(CONTROL, 64), "mutex_ptr": mutex, "condition_ptr": condition}
        for name, value in (given | _waiting(mutex, condition)).items():
            self._args[name] = value
        self._pid, self._memory = os.getpid(), memory
        library.load([LAUNCH, WORK])
        self._launch, work = function(library.address(LAUNCH)), function(library.address(WORK))
        threads = [
            threading.Thread(target=_serve, args=(work, self._args, memory, i, size), daemon=True, name=f"ggufpy-{i}")
            for i in range(1, size)
        ]
        for thread in threads:
            thread.start()
        # A team that is dropped takes its threads along.
        self._end = weakref.finalize(self, _end, self._launch, self._args, threads, self._pid)

    def run(self, entry: int, job: int) -> None:
        """Raises GGUFError if the team is closed, or was made before a fork."""
        if not self._end.alive:
            raise GGUFError("the model has been closed")
        if self._pid != os.getpid():
            raise GGUFError("a model cannot be used on both sides of a fork: load it in the process that uses it")
        self._args["entry_ptr"], self._args["job_ptr"] = entry, job
        self._launch(self._args.ctypes.data, 0, self.size)

    def close(self) -> None:
        """Ends the threads; the team cannot run again."""
        self._end()


def _end(launch: Entry, args: NDArray[Any], threads: list[threading.Thread], pid: int) -> None:
    if pid != os.getpid():
        return  # after a fork there are no threads to end
    args["stops"] = 1
    launch(args.ctypes.data, 0, len(threads) + 1)
    for thread in threads:
        thread.join()
