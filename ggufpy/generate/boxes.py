"""What has come of a request, and who takes it: a thread that asks for it, or a function that it is given to."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ggufpy.runtime.request import Event, Failed, Request

AHEAD = 8  # tokens that a text may be ahead of whoever takes them, in steps that others wait for


@dataclass(eq=False)
class Box:
    """What has come of a request and was not yet taken, and who takes it."""

    request: Request
    events: deque[Event] = field(default_factory=deque)
    thread: threading.Thread | None = None  # the last that asked
    asking: bool = False
    since: float = 0.0  # when it last stopped asking

    def put(self, event: Event) -> None:
        """An event has come."""
        if not (self.events and self.events[-1] is event):  # it was put here before an interrupt
            self.events.append(event)

    def given_up(self, error: Exception) -> None:
        """There will be no more of it. Whoever waits on a thread sees that there."""

    def paused(self, running: bool) -> bool:
        """Whether nobody wants more of the request now; `running` says whether it has a place."""
        return not self.asking and (len(self.events) >= AHEAD or not running)

    def left(self, asking: set[threading.Thread | None], late: float) -> bool:
        """Whether nobody goes on with it, since before `late` or for good; `asking` are threads that wait."""
        if self.asking:
            return False
        alive = self.thread is not None and self.thread.is_alive() and self.thread not in asking
        return not alive or self.since < late


@dataclass(eq=False)
class Pushed(Box):
    """A request whose events are given to a function as they come. Whoever has them counts `request.taken` up."""

    sink: Callable[[Event], None] = lambda event: None
    full_since: float | None = None  # since when as much waits to be taken as may

    def put(self, event: Event) -> None:
        """See `Box`."""
        self.sink(event)

    def given_up(self, error: Exception) -> None:
        """See `Box`."""
        if not self.request.done:
            self.request.cancel()
            self.sink(Failed(self.request, error))

    def paused(self, running: bool) -> bool:
        """See `Box`."""
        if len(self.request.produced) - self.request.taken < AHEAD:
            self.full_since = None
            return False
        if self.full_since is None:
            self.full_since = time.monotonic()
        return True

    def left(self, asking: set[threading.Thread | None], late: float) -> bool:
        """See `Box`."""
        return self.full_since is not None and self.full_since < late
