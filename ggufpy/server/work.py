"""One call at work on the event loop: the deltas of its choices, as the engine's thread makes their tokens.

In: what a call asks for, and its tokens' streams. Out: deltas, all that a step has brought at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.texts import Delta, Reader, stream_of
from ggufpy.api.shape import Shape, Spent
from ggufpy.errors import GGUFError
from ggufpy.runtime.request import Event, Failed, Token
from ggufpy.server.problems import BAD_REQUEST, FAILED, Gone, Problem
from ggufpy.server.served import Served
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.generate.loop import Stream
    from ggufpy.llm import Llama


@dataclass(frozen=True)
class Prepared:
    """A call that has been checked: what it asks for, how its answer is told, whether as a stream."""

    asked: Asked
    shape: Shape
    stream: bool


class _Choice:
    """One text: its request, and what reads it."""

    def __init__(self, llm: Llama, asked: Asked, number: int) -> None:
        self.number = number
        self.stream: Stream = stream_of(llm, asked, number)
        self.reader = Reader(llm, asked)
        self.begun = self.ended = False

    def delta(self, event: Event) -> Delta | None:
        """What an event brings. Raises what the text has failed with."""
        if self.ended:
            return None
        if isinstance(event, Token):
            return self.reader.push(event.token, event.logits)
        self.ended = True
        if isinstance(event, Failed):
            raise event.error
        return self.reader.finish(self.stream.request.finish)


class Work:
    """A call at work. `choices_of` makes its texts, on any thread; all else is on the event loop."""

    def __init__(self, served: Served, asked: Asked, client: str) -> None:
        self._served, self._asked, self._client = served, asked, client
        self._choices = [_Choice(served.llm, asked, i) for i in range(len(asked.samplings))]
        self._events: deque[tuple[_Choice, Event]] = deque()
        self._ready = asyncio.Event()
        self._gone = False
        self._times: dict[str, float] = {}
        self.loading = 0.0  # seconds that the call has waited for its model

    @property
    def spent(self) -> Spent:
        """What it has taken so far."""
        now = asyncio.get_running_loop().time()
        asked, begun, first = (self._times.get(moment, now) for moment in ("asked", "begun", "first"))
        count = sum(len(choice.reader.drawn) for choice in self._choices)
        cached = self._choices[0].stream.request.reused
        times = (self.loading + begun - asked, self.loading, first - begun, now - first)
        return Spent(len(self._asked.tokens), cached, count, *times)

    def leave(self) -> None:
        """The client has gone: what is at work for it ends before the next step."""
        self._gone = True
        for choice in self._choices:
            self._served.cancel(choice.stream.request)
        self._ready.set()

    async def deltas(self) -> AsyncIterator[list[tuple[int, Delta]]]:
        """The deltas of all choices with their numbers, as many as have come.

        Raises Gone where the client has left, and Problem for what fails.
        """
        self._note("asked")
        tasks: list[asyncio.Task[None]] = []
        async with AsyncExitStack() as places:
            try:
                await self._begin(self._choices[0], places)
                while not all(choice.ended for choice in self._choices):
                    await self._ready.wait()
                    self._ready.clear()
                    if self._gone:
                        raise Gone
                    if made := self._take():
                        self._note("first")
                        yield made
                        self._told(made)
                        if not tasks:  # the others begin behind what is read of the first one's prompt
                            tasks = [asyncio.create_task(self._begin(each, places)) for each in self._choices[1:]]
            finally:
                for task in tasks:
                    task.cancel()
                self._end()

    async def _begin(self, choice: _Choice, places: AsyncExitStack) -> None:
        await places.enter_async_context(self._served.queue.place(self._client))
        self._note("begun")
        choice.begun = True

        def put(event: Event) -> None:
            self._events.append((choice, event))
            self._ready.set()

        if self._gone:
            raise Gone
        self._served.submit(choice.stream.request, put)

    def _take(self) -> list[tuple[int, Delta]]:
        """The deltas of what has come."""
        made: list[tuple[int, Delta]] = []
        while self._events:
            choice, event = self._events.popleft()
            try:
                delta = choice.delta(event)
            except GGUFError as error:
                raise Problem(BAD_REQUEST, str(error)) from error
            except Exception as error:
                raise Problem(FAILED, f"the model failed: {type(error).__name__}: {error}") from error
            if delta is not None:
                made.append((choice.number, delta))
            if choice.reader.hit and not choice.ended:
                choice.ended = True
                self._served.cancel(choice.stream.request)
                made.append((choice.number, choice.reader.finish(None)))
        return made

    def _told(self, made: list[tuple[int, Delta]]) -> None:
        """The client has these deltas."""
        for number, delta in made:
            if delta.token is not None:
                self._served.taken(self._choices[number].stream.request, 1)

    def _note(self, moment: str) -> None:
        self._times.setdefault(moment, asyncio.get_running_loop().time())

    def _end(self) -> None:
        for choice in self._choices:
            if choice.begun:
                choice.reader.keep()
            self._served.cancel(choice.stream.request)
        self._served.tally.done(self.spent)
