"""One model of the pool, from the first request for it until it is closed."""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from ggufpy.server.loader import Abandoned
from ggufpy.server.problems import Problem

if TYPE_CHECKING:
    from ggufpy.server.catalogue import Entry
    from ggufpy.server.facts import Stamp
    from ggufpy.server.served import Served


UNLOADED = "unloaded"  # a model with which nothing happens


class State(Enum):
    """What happens with a model."""

    FETCHING = auto()
    WAITING = auto()  # for room
    LOADING = auto()
    LOADED = auto()
    CLOSING = auto()

    @property
    def word(self) -> str:
        """What llama-server's router calls it."""
        known = {State.FETCHING: "downloading", State.LOADED: "loaded", State.CLOSING: UNLOADED}
        return known.get(self, "loading")


class Slot:
    """A model and who wants it. On the event loop, but for `report`.

    `need` is how many bytes it has been given. `done` ends with the load, and has what went wrong; `served` is the
    model as long as there is one. `gone` is set once all of it is closed, `wake` when there may be room.
    """

    def __init__(self, entry: Entry, keep_alive: float) -> None:
        self.entry, self.keep_alive = entry, keep_alive
        self.state = State.FETCHING
        self.users = self.need = 0
        self.holds = False  # whether its place and its bytes are counted
        self.done: asyncio.Future[Problem | None] = asyncio.get_running_loop().create_future()
        self.gone, self.wake = asyncio.Event(), asyncio.Event()
        self.used = asyncio.get_running_loop().time()  # when its last request ended
        self.served: Served | None = None
        self.stamp: Stamp = ()  # of its files when it was loaded
        self.abandoned = False  # nobody wants it any more: its load may end
        self.progress = ("", 0, 0)  # of its load: stage, how much is done, of how much

    def report(self, stage: str, done: int, total: int) -> None:
        """Takes note of a load's progress. Raises Abandoned for one that is to end. On any thread."""
        self.progress = (stage, done, total)
        if self.abandoned:
            raise Abandoned

    def enter(self, keep_alive: float | None) -> None:
        """Somebody wants it, and says perhaps how long it stays afterwards."""
        if keep_alive is not None:
            self.keep_alive = keep_alive
        self._count(1)

    def leave(self) -> None:
        """Somebody has done with it."""
        self._count(-1)

    def _count(self, change: int) -> None:
        self.users += change
        self.used = asyncio.get_running_loop().time()
        if self.served is not None:
            self.served.users, self.served.used = self.users, time.time()
            self.served.keep_alive = self.keep_alive

    @property
    def idle(self) -> bool:
        """Whether it is loaded and nobody wants it."""
        return self.state is State.LOADED and not self.users

    @property
    def ends(self) -> float | None:
        """When it goes, by the event loop's clock; None for one that is not idle, or stays."""
        return self.used + self.keep_alive if self.idle and self.keep_alive >= 0 else None
