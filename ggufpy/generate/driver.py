"""A thread that makes the steps of a loop for requests that no thread waits for: a server's.

In: requests, each with a function that hears what comes of it. The thread sleeps while there is nothing to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ggufpy.generate.loop import Loop
from ggufpy.runtime.request import Event, Request


class Driver:
    """Steps of one loop. `after` is called on its thread behind each step, when all its events have been given out."""

    def __init__(self, loop: Loop, after: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        self._loop, self._after, self._failed = loop, after, failed
        self._woken = threading.Event()
        self._closing = False
        self.steps = 0
        loop.driven_by(self._woken.set)
        self._thread = threading.Thread(target=self._run, name="ggufpy-steps", daemon=True)
        self._thread.start()

    def submit(self, request: Request, sink: Callable[[Event], None]) -> None:
        """Evaluates a request. `sink` gets its events on this thread: what it does takes time from all texts.

        Raises GGUFError for a request that cannot be, and once the model is closed.
        """
        self._loop.check(request)
        self._loop.push(request, sink)

    def cancel(self, request: Request) -> None:
        """Nobody wants more of a request: it ends before the next step, and its sink hears nothing any more."""
        self._loop.drop(request)

    def taken(self, request: Request, count: int = 1) -> None:
        """Whoever has a request's tokens has done with `count` of them: it may go on where it was too far ahead."""
        request.taken += count
        if request.paused:
            self._woken.set()

    def close(self) -> None:
        """Ends the thread behind the step that it makes."""
        self._closing = True
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._woken.wait()
            self._woken.clear()
            try:
                going_on = True
                while going_on and not self._closing:
                    going_on = self._loop.drive()
                    self.steps += going_on
                    self._after()
            except BaseException as error:  # a step fails for its requests, so this is a fault of ours: it is told
                self._failed(error)
                self._loop.give_up(RuntimeError(f"a step failed: {type(error).__name__}: {error}"))
                self._after()
