"""Who may be evaluated, and who waits: as many texts as the model has places for, in turns by client.

A client with many requests waits behind its own: places that become free go to the clients that wait, one after the
other. Places have numbers, the lowest free one is given out first. All of it on the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ggufpy.server.problems import TOO_MANY, Problem

GUESS = 1.0  # seconds that a text takes, before one has ended
WEIGHT = 0.1  # of the newest text in the mean of what texts take
LONGEST = 120  # seconds that a client is told to wait, at most


class _Turn:
    """A text that waits for a place: for the one of that number, where it is not None. `work` is whose text it is."""

    def __init__(self, number: int | None, work: object) -> None:
        self.number, self.work = number, self if work is None else work
        self.place: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class Queue:
    """The places of one model. `most` requests may wait; further ones are refused with 429 and a time to wait."""

    def __init__(self, places: int, most: int) -> None:
        self.places, self._most = places, most
        self._free = list(range(places))  # a heap
        self._waiting: OrderedDict[str, deque[_Turn]] = OrderedDict()  # by client, next one first
        self._mean = GUESS  # seconds that a place is held

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self.places - len(self._free)

    @property
    def waiting(self) -> int:
        """How many requests wait for places, each for however many of its texts."""
        return len({turn.work for turns in self._waiting.values() for turn in turns})

    @property
    def texts(self) -> int:
        """How many texts wait for a place."""
        return sum(len(some) for some in self._waiting.values())

    def check(self, number: int | None = None) -> None:
        """Raises Problem 429 where as many wait as may, for any place or the one of that number."""
        busy = not self._free if number is None else number not in self._free
        if busy and self.waiting >= self._most:
            wait = min(LONGEST, max(1, round(self._mean * (self.texts + 1) / self.places)))
            raise Problem(
                TOO_MANY,
                f"{self.taken} texts are evaluated and {self.waiting} requests wait, as many as may: try again "
                f"in {wait} s (ggufpy serve --queue, --parallel)",
                "queue_full",
                headers={"retry-after": str(wait)},
            )

    @asynccontextmanager
    async def place(self, client: str, number: int | None = None, work: object = None) -> AsyncIterator[int]:
        """A place, when it is the client's turn: its number, which is `number` where that is given. The texts of one
        `work` wait as one request."""
        place = await self._enter(client, _Turn(number, work))
        clock = asyncio.get_running_loop().time
        since = clock()
        try:
            yield place
        finally:
            self._mean += WEIGHT * (clock() - since - self._mean)
            self._leave(place)

    async def _enter(self, client: str, turn: _Turn) -> int:
        self._waiting.setdefault(client, deque()).append(turn)
        self._serve()
        try:
            return await turn.place
        except BaseException:
            if turn.place.done() and not turn.place.cancelled():  # the place came, and nobody is there for it
                self._leave(turn.place.result())
            else:
                self._forget(client, turn)
            raise

    def _forget(self, client: str, turn: _Turn) -> None:
        self._waiting[client].remove(turn)
        if not self._waiting[client]:
            del self._waiting[client]

    def _leave(self, place: int) -> None:
        """A place is free."""
        heapq.heappush(self._free, place)
        self._serve()

    def _serve(self) -> None:
        """Gives free places to those that wait: the next client's first turn, which goes behind the others then."""
        while self._free and (found := self._next()) is not None:
            client, turn = found
            place = self._free[0] if turn.number is None else turn.number
            self._free.remove(place)
            heapq.heapify(self._free)
            turns = self._waiting.pop(client)
            turns.remove(turn)
            if turns:
                self._waiting[client] = turns
            turn.place.set_result(place)

    def _next(self) -> tuple[str, _Turn] | None:
        """The first turn for which there is a place; those that wait for one that is taken let others by."""
        for client, turns in self._waiting.items():
            for turn in turns:
                if not turn.place.done() and (turn.number is None or turn.number in self._free):
                    return client, turn
        return None
