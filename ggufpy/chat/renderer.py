"""A process that renders templates for this one, and is killed when it takes too long.

It runs `worker.py` with nothing of this process but where Python's modules are: no environment, no files. Where no
process can be had (Python is built into another program, or the system starts none), templates are rendered here,
within the limits of `meter.py` alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ggufpy.chat import limits, rendering
from ggufpy.chat.limits import Allowance, TemplateFailure, TooMuch
from ggufpy.chat.worker import READY, receive, send

if TYPE_CHECKING:
    from ggufpy.chat.rendering import Rendering

# Isolated, so that no module beside a user's script is taken for one of ours; then the path that found us here.
PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from ggufpy.chat.worker import serve; serve()"
_MAX_ANSWER = 4 * limits.MAX_OUTPUT + (1 << 16)  # bytes
# What Python itself may need to start: never the user's own, which may be secrets
_ENVIRONMENT = (
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "SYSTEMROOT",
    "PATH",
    "PYTHONHOME",
)


class Renderer:
    """Renders templates within limits. Safe to share between threads, whose renderings wait for one another.

    The process starts at once, without this one waiting, and again after it was killed. It ends with `close`, with
    this object, and with this process. A process that was forked from this one has one of its own.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}  # by process: a fork may copy one that is held
        self._worker: Worker | None = None
        self._here: Rendering | None = None
        self._closed = False
        self._had_worker = False
        self._start()

    @property
    def isolated(self) -> bool:
        """Whether templates run in a process of their own, and not in this one."""
        return self._here is None

    def render(
        self, source: str, variables: Mapping[str, Any] | None, blank: Sequence[str], allowance: Allowance
    ) -> str:
        """What a template writes; without `variables` it is only compiled, and the text is empty.

        `blank` names variables for special tokens that the model lacks. What it takes is taken off `allowance`, but
        not the wait for other threads and for the process to start, nor what long variables may take beside. Raises
        TemplateFailure, TooMuch among them.
        """
        allowance.check()
        data = rendering.packed(variables)
        beside = len(data) * limits.SECONDS_A_BYTE
        seconds = allowance.left + beside
        asked = rendering.request(source, data, blank, max(seconds - limits.MARGIN, seconds / 2))
        with self._lock():
            if self._closed:
                raise TemplateFailure("the model that it came with is closed")
            worker = self._ready()
            begun = time.monotonic()
            try:
                answer = self._answer_here(asked) if worker is None else worker.ask(asked, seconds)
            except BaseException:  # its answer may still come, and would be taken for another's
                self._stop()
                raise
            finally:
                allowance.spend(max(time.monotonic() - begun - beside, 0.0))
        return rendering.text_of(answer)

    def close(self) -> None:
        """End the process; closing twice is fine. What is asked later is refused."""
        with self._lock():
            self._closed = True
            self._stop()

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _start(self) -> None:
        """Start a process, or have templates rendered here."""
        try:
            self._worker = Worker() if _has_python() else None
        except OSError:
            self._worker = None
        if self._worker is None:
            self._render_here()

    def _render_here(self) -> None:
        """From now on, unless there was a process: a template that had it killed does not run here."""
        if self._had_worker:
            raise TemplateFailure("the system starts no other process for templates")
        self._here = rendering.Rendering(killable=False)

    def _ready(self) -> Worker | None:
        """A process that waits for a request, or None where templates are rendered here."""
        if self._worker is not None and not self._worker.alive:
            self._stop()
        if self._worker is None and self._here is None:
            self._start()
        if self._worker is None:
            return None
        try:
            self._had_worker |= self._worker.wait_until_ready()
        except BaseException:
            self._stop()
            raise
        if not self._worker.is_ready:
            self._stop()
            self._render_here()
        return self._worker

    def _answer_here(self, asked: bytes) -> bytes:
        assert self._here is not None
        return self._here.answer(asked)

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()


class Worker:
    """One process. Used by one thread at a time."""

    def __init__(self) -> None:
        """Starts it, without waiting. Raises OSError where the system starts none."""
        self._owner = os.getpid()
        self.is_ready = False
        self._process = _started()
        self.end = weakref.finalize(self, _ended, self._process, self._owner)

    @property
    def alive(self) -> bool:
        """Whether it runs, and is this process's own."""
        return self._owner == os.getpid() and self._process.poll() is None

    def wait_until_ready(self) -> bool:
        """Whether it has started; False for a program that is not what it should be."""
        if not self.is_ready:
            answer, _ = self._exchange(None, limits.START_SECONDS)
            self.is_ready = answer == READY
        return self.is_ready

    def ask(self, asked: bytes, seconds: float) -> bytes:
        """The answer to a request. Raises TooMuch, and the process is no more, when it takes longer than `seconds`."""
        answer, killed = self._exchange(asked, seconds)
        if answer is None:
            raise TooMuch(limits.TOO_SLOW if killed else "its process ended, perhaps for want of memory")
        return answer

    def _exchange(self, asked: bytes | None, seconds: float) -> tuple[bytes | None, bool]:
        """Sends a request, if there is one, and takes the next message; whether it was killed for being too slow."""
        process, killed = self._process, threading.Event()

        def kill() -> None:  # knows no worker, which would live as long as the thread
            killed.set()
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            if asked is not None:
                send(cast(BinaryIO, process.stdin), asked)
            return receive(cast(BinaryIO, process.stdout), _MAX_ANSWER), killed.is_set()
        except OSError:  # it has ended
            return None, killed.is_set()
        finally:
            timer.cancel()


def _has_python() -> bool:
    """Whether the running program is Python, and runs our module when it is started again."""
    name = Path(sys.executable or "").name.lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


def _started() -> subprocess.Popen[bytes]:
    here = str(Path(__file__).resolve().parents[2])  # an editable install is found by a hook, and not by the path
    path = [os.path.abspath(entry) for entry in sys.path if entry]
    alone: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        alone = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PROGRAM, *path, here],
        bufsize=0,  # nothing of a request is left in a buffer, nor a lock in a forked process
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        **alone,
    )


def _ended(process: subprocess.Popen[bytes], owner: int) -> None:
    """Ends a process, unless it is that of the process from which this one was forked."""
    if owner == os.getpid():
        process.kill()
        process.wait()
    else:
        process.returncode = 0
    for file in (process.stdin, process.stdout):
        if file is not None:
            file.close()
