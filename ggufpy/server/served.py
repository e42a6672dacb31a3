"""A model that is loaded and served: its engine's thread, its places, and what it has done so far."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ggufpy.generate.driver import Driver
from ggufpy.runtime.request import Event, Request
from ggufpy.server.aside import aside
from ggufpy.server.queue import Queue
from ggufpy.server.slots import Slots
from ggufpy.support import console

if TYPE_CHECKING:
    from pathlib import Path

    from ggufpy.llm import Llama

Sink = Callable[[Event], None]
T = TypeVar("T")
LOOK = 0.02  # seconds between two looks at what a thread, whose call nobody waits for, evaluates


class Served:
    """A loaded model. `name` is what clients call it. Made on the event loop that its requests belong to.

    `memory` is what it was reckoned to take, in bytes, `path` its file, `users` how many requests use or want it,
    `keep_alive` how many seconds it stays behind the last of them (below 0 for ever), `used` when the last one ended.
    """

    def __init__(self, name: str, llm: Llama, waiting: int, load_seconds: float = 0.0) -> None:
        self.name, self.llm, self.load_seconds = name, llm, load_seconds
        self.since = self.used = time.time()
        self.path: Path | None = None
        self.memory = self.users = 0
        self.keep_alive = -1.0
        self.queue = Queue(llm.n_parallel(), waiting)
        self.slots = Slots(llm.n_parallel())
        self.busy_steps = 0  # places that were taken, summed over steps
        self._counted = 0
        self._events: deque[tuple[Sink, Event]] = deque()  # from the engine's thread to the event loop
        self._loop = asyncio.get_running_loop()
        self._driver = Driver(llm.loop, self._after, self._failed)

    @property
    def expires(self) -> float | None:
        """When it goes (Unix seconds) unless somebody asks for it; None is never."""
        if self.keep_alive < 0:
            return None
        return (time.time() if self.users else self.used) + self.keep_alive

    @property
    def steps(self) -> int:
        """How many steps its engine has made."""
        return self._driver.steps

    def submit(self, request: Request, sink: Sink) -> None:
        """Evaluates a request; `sink` hears its events on the event loop. Raises GGUFError for one that cannot be."""
        self._driver.submit(request, lambda event: self._events.append((sink, event)))

    def taken(self, request: Request, count: int) -> None:
        """Its client has `count` more of its tokens."""
        self._driver.taken(request, count)

    def cancel(self, request: Request) -> None:
        """Ends a request before the next step."""
        self._driver.cancel(request)

    async def evaluate(self, call: Callable[[], T]) -> T:
        """What a call that evaluates returns: on a thread of its own, because it waits for the engine.

        Once this is cancelled, what the call evaluates ends before the next step; that is waited for.
        """
        threads: list[threading.Thread] = []

        def run() -> T:
            threads.append(threading.current_thread())
            return call()

        work = aside(f"ggufpy-evaluate-{self.name}", run)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                for thread in threads:
                    self.llm.loop.leave(thread)
                await asyncio.wait([work], timeout=LOOK)
            work.exception()  # nobody is there to hear it
            raise

    def close(self) -> None:
        """Ends the thread and the model. It waits for the step that is made: not on the event loop."""
        self._driver.close()
        self.llm.close()
        self._after()  # what it says to those that waited

    def _after(self) -> None:
        made, self._counted = self.steps - self._counted, self.steps
        self.busy_steps += made * self.queue.taken
        if self._events:
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the event loop is closed: nobody waits any more
                self._events.clear()

    def _deliver(self) -> None:
        while self._events:
            sink, event = self._events.popleft()
            sink(event)

    def _failed(self, error: BaseException) -> None:
        console.note(f"ggufpy: {self.name}: a step failed: {type(error).__name__}: {error}")
