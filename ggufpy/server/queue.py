"""Who may be evaluated, and who waits: as many texts as the model has places for, in turns by client.

A client with many requests waits behind its own: places that become free go to the clients that wait, one after the
other. All of it on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ggufpy.server.problems import TOO_MANY, Problem

GUESS = 1.0  # seconds that a text takes, before one has ended
WEIGHT = 0.1  # of the newest text in the mean of what texts take
LONGEST = 120  # seconds that a client is told to wait, at most


class Queue:
    """The places of one model. `most` requests may wait; further ones are refused with 429 and a time to wait."""

    def __init__(self, places: int, most: int) -> None:
        self.places, self._most = places, most
        self.taken = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # by client, next one first
        self._mean = GUESS  # seconds that a place is held

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(len(some) for some in self._waiting.values())

    def check(self) -> None:
        """Raises Problem 429 where as many wait as may."""
        if self.taken >= self.places and self.waiting >= self._most:
            wait = min(LONGEST, max(1, round(self._mean * (self.waiting + 1) / self.places)))
            raise Problem(
                TOO_MANY,
                f"{self.taken} requests are evaluated and {self.waiting} wait, which is as many as may: try again in "
                f"{wait} s (ggufpy serve --queue, --parallel)",
                "queue_full",
                headers={"retry-after": str(wait)},
            )

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """A place, when it is the client's turn."""
        await self._enter(client)
        clock = asyncio.get_running_loop().time
        since = clock()
        try:
            yield
        finally:
            self._mean += WEIGHT * (clock() - since - self._mean)
            self._leave()

    async def _enter(self, client: str) -> None:
        if self.taken < self.places and not self._waiting:
            self.taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # the place came, and nobody is there for it
                self._leave()
            else:
                self._forget(client, turn)
            raise

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        self._waiting[client].remove(turn)
        if not self._waiting[client]:
            del self._waiting[client]

    def _leave(self) -> None:
        """A place is free: it is the next client's, which goes behind the others then."""
        self.taken -= 1
        while self._waiting:
            client, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns
            if not turn.done():
                self.taken += 1
                turn.set_result(None)
                return
