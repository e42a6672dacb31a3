"""Kernels that the cache lacks → their object code, on every core and by one process at a time.

Numba holds Python's lock, so several kernels at once take several processes: this module, run as a program, is one. It
reads pickled (kernel, level) pairs and answers each with object code, or with nothing where it cannot compile it. What
no worker delivers is compiled by the process that asked for it, where an error belongs. Processes that want the same
kernel share the work: whoever has a kernel's turn compiles it, the others take it from the cache.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ggufpy.simd.isa import Level
from ggufpy.support.cores import default_threads

from .cache import _read, _write, cache_path, folder
from .spec import Kernel

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Found = tuple[Kernel, bytes]
EACH = 2  # kernels that make a worker worth its start, a second that Numba takes to be imported
MOST_WORKERS = 8  # of some 200 MB each
PATIENCE = 60.0  # seconds without news after which another process's turn is no longer waited for


def compiled(kernels: Sequence[Kernel], level: Level) -> Iterator[Found]:
    """Each of the kernels, in the order in which they are ready. Raises what compiling one raises."""
    left = dict.fromkeys(kernels)
    count = _workers(len(left))
    if count > 1:
        for kernel, code in _delivered(list(left), level, count):
            del left[kernel]
            yield kernel, code
    yield from _here(list(left), level)


def _workers(kernels: int) -> int:
    """How many processes so many kernels are worth: 0 or 1 where this one does as well or cannot start another."""
    python = Path(sys.executable or "").name.lower().startswith("python")
    if getattr(sys, "frozen", False) or not python:  # a program that is not Python does not run our module
        return 0
    most = min(kernels // EACH, MOST_WORKERS)
    return min(most, default_threads()) if most > 1 else most


# -- this process --


def _here(kernels: Sequence[Kernel], level: Level) -> Iterator[Found]:
    """Compiles kernels, those first that no other process is at; what others are at comes from them in the end."""
    waiting, news = list(kernels), time.monotonic()
    while waiting:
        busy: list[Kernel] = []
        for kernel in waiting:
            path = cache_path(kernel, level)
            with _turn(path, time.monotonic() - news > PATIENCE) as ours:
                code = _made(kernel, level, path) if ours else None
            if code is None:
                busy.append(kernel)
            else:
                news = time.monotonic()
                yield kernel, code
        if len(busy) == len(waiting):
            time.sleep(0.02)
        waiting = busy


def _made(kernel: Kernel, level: Level, path: Path) -> bytes:
    code = _read(path)  # whoever had the turn before us may have left it there
    if code is None:
        from .compile import object_code

        code = object_code(kernel, level)
        _write(path, code)
    return code


@contextlib.contextmanager
def _turn(path: Path, anyway: bool) -> Iterator[bool]:
    """Whether this process may compile the kernel of a cache file: `anyway`, or if no other process has its turn.

    Turns are locks on bytes of one file, so they end with the process and leave nothing behind. Where the cache cannot
    be written or the system has no locks, every process has every turn.
    """
    with contextlib.ExitStack() as stack:
        ours = True
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder() / "turns", "ab"))
            ours = _lock(file.fileno(), zlib.crc32(path.name.encode()) & 0x3FFFFFFF)
        yield ours or anyway


def _lock(descriptor: int, byte: int) -> bool:
    """Takes a byte of a file, until it is closed; False if another process has it."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, byte, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True


# -- other processes --

# Isolated, so that no module beside a user's script is taken for one of ours; then the path that found us here.
PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from ggufpy.jit.ahead import serve; serve()"


def _delivered(kernels: Sequence[Kernel], level: Level, count: int) -> Iterator[Found]:
    """What `count` workers make of the kernels; what they do not deliver is left out."""
    jobs: queue.SimpleQueue[Kernel] = queue.SimpleQueue()
    done: queue.SimpleQueue[Found | None] = queue.SimpleQueue()
    for kernel in kernels:
        jobs.put(kernel)
    workers = [process for process in (_start() for _ in range(count)) if process is not None]
    try:
        for process in workers:
            arguments = (process, level, jobs, done)
            threading.Thread(target=_feed, args=arguments, name="ggufpy-compile", daemon=True).start()
        ended = 0
        while ended < len(workers):
            try:
                delivered = done.get(timeout=PATIENCE)
            except queue.Empty:  # whatever they are doing, it is not this
                return
            if delivered is None:
                ended += 1
            else:
                yield delivered
    finally:
        for process in workers:
            process.kill()
            process.wait()


def _start() -> subprocess.Popen[bytes] | None:
    """A worker, or None where the system starts none. It is no part of the terminal: Ctrl-C is for us alone."""
    path = [os.path.abspath(entry) for entry in sys.path]
    alone: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        alone = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", PROGRAM, *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what fails there is tried again here, and then heard of
            **alone,
        )
    except OSError:
        return None


def _feed(
    process: subprocess.Popen[bytes],
    level: Level,
    jobs: queue.SimpleQueue[Kernel],
    done: queue.SimpleQueue[Found | None],
) -> None:
    """Gives a worker one kernel after another for as long as there are any and it lives; None on `done` ends it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin, process.stdout:
            while True:
                kernel = jobs.get_nowait()
                pickle.dump((kernel, level), process.stdin)
                process.stdin.flush()
                code = pickle.load(process.stdout)
                if code is not None:
                    done.put((kernel, code))
    except (queue.Empty, OSError, EOFError, ValueError, pickle.UnpicklingError):
        pass  # there are no more kernels, or no more worker
    finally:
        done.put(None)


def serve() -> None:
    """A worker's life: kernels from standard input, object code to standard output, until there is no more input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nobody else's output gets between answers
    with contextlib.suppress(EOFError, BrokenPipeError), answers:
        while True:
            kernel, level = pickle.load(sys.stdin.buffer)
            pickle.dump(_answer(kernel, level), answers)
            answers.flush()


def _answer(kernel: Kernel, level: Level) -> bytes | None:
    """The kernel's object code, or None if it cannot be compiled here: whoever asked will see why."""
    try:
        return next(code for _, code in _here([kernel], level))
    except Exception:
        return None
