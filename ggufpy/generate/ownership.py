"""Who may use a context: one thread at a time, for a whole call, or for a generation until it ends.

In: a thread that wants to use a context. Out: it has it, or an error before anything of the context is touched.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from ggufpy.errors import GGUFError


class BusyError(GGUFError):
    """The context is another thread's now."""


class Owner:
    """The thread that a context belongs to now, if any.

    A generation that waits for its next token keeps the context for the thread that asked for the last one, unless it
    was dropped, closed, or that thread is gone. Within one thread any call may take over.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._closed = False
        self._waiting: weakref.ref[object] | None = None  # the generation that goes on
        self._thread = threading.current_thread()  # the one that it goes on in

    @contextmanager
    def held(self, by: object = None) -> Iterator[None]:
        """The context, for this thread, in this block; `by` is the generation that wants it.

        Raises BusyError while it is another thread's, GGUFError once the model is closed.
        """
        self._acquire()
        try:
            if self._closed:
                raise GGUFError("this model is closed: open it again with Llama(...)")
            self._check_waiting(by)
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Let nobody use it from now on; what waits cannot go on. Raises BusyError while another thread is at work."""
        self._acquire()
        self._closed = True
        self._lock.release()

    def keep(self, generation: object) -> None:
        """`generation` goes on in this thread; whoever calls this holds the context."""
        self._waiting, self._thread = weakref.ref(generation), threading.current_thread()

    def leave(self, generation: object = None) -> None:
        """`generation` has ended, or is not to go on; without one, whichever it is that waits."""
        if generation is None or (self._waiting is not None and self._waiting() is generation):
            self._waiting = None

    def _acquire(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise BusyError("the model is at work for another thread: use one at a time, or load it twice")

    def _check_waiting(self, by: object) -> None:
        waiting = None if self._waiting is None else self._waiting()
        if waiting is None or waiting is by:
            return
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            raise BusyError(
                "the model is at work for another thread, whose generation has not ended: read it to its end or close "
                "it, use one thread at a time, or load the model twice"
            )
