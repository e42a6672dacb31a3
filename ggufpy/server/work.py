"""One call at work on the event loop: the deltas of its choices, as the engine's thread makes their tokens.

In: what a call asks for, and its tokens' streams. Out: deltas, all that a step has brought at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING

from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.texts import Delta, Reader, counts, stream_of
from ggufpy.api.shape import Shape, Spent, TextSpent
from ggufpy.errors import GGUFError
from ggufpy.runtime.request import Event, Failed, Token
from ggufpy.server.problems import BAD_REQUEST, FAILED, Problem
from ggufpy.server.served import Served
from ggufpy.server.slots import Shown, over, running
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.generate.loop import Stream
    from ggufpy.llm import Llama


@dataclass(frozen=True)
class Prepared:
    """A call that has been checked: what it asks for, how its answer is told, whether as a stream.

    `place` is the number of the place that its texts must have, one after the other. `account` is given what says how
    much a text has taken so far.
    """

    asked: Asked
    shape: Shape
    stream: bool
    _: KW_ONLY
    place: int | None = None
    account: Callable[[Callable[[int], TextSpent]], None] | None = None


class _Choice:
    """One text: its request, what reads it, and when it got where it is."""

    def __init__(self, llm: Llama, asked: Asked, number: int) -> None:
        self.asked, self.number = asked, number
        self.stream: Stream = stream_of(llm, asked, number)
        self.reader = Reader(llm, asked)
        self.begun = self.ended = False
        self.over = asyncio.Event()
        self.times: dict[str, float] = {}
        self.place: int | None = None
        self.task = -1
        self.new_line = False

    def delta(self, event: Event) -> Delta | None:
        """What an event brings. Raises what the text has failed with."""
        if self.ended:
            return None
        if isinstance(event, Token):
            delta = self.reader.push(event.token, event.logits)
            self.new_line = self.new_line or "\n" in delta.text
            return delta
        self.end()
        if isinstance(event, Failed):
            raise event.error
        return self.reader.finish(self.stream.request.finish)

    def end(self) -> None:
        """No more tokens are wanted."""
        self.ended = True
        self.over.set()

    def spent(self, now: float) -> TextSpent:
        """What it has taken so far."""
        begun, first, end = (self.times.get(moment, now) for moment in ("begun", "first", "end"))
        made, request = len(self.reader.drawn), self.stream.request
        return TextSpent(len(request.prompt), request.reused, made, self.place, first - begun, end - first)

    def shown(self, stream: bool) -> Shown:
        """The text as its place shows it while it is at work."""
        reach = running(self.stream.request, lambda: len(self.reader.drawn))
        return Shown(self.task, self.asked, self.number, stream, *reach, lambda: self.new_line)

    def left(self, stream: bool) -> Shown:
        """The text as its place shows it from now on: nothing else of it is held."""
        reach, new_line = over(self.stream.request, len(self.reader.drawn)), self.new_line
        return Shown(self.task, self.asked, self.number, stream, *reach, lambda: new_line)


class Work:
    """A call at work. It is made on any thread, with the texts of its choices; all else is on the event loop."""

    def __init__(self, served: Served, prepared: Prepared, client: str) -> None:
        self._served, self._asked, self._client = served, prepared.asked, client
        self._place, self._stream = prepared.place, prepared.stream  # not the shape, which refers to this object
        self._choices = [_Choice(served.llm, self._asked, i) for i in range(len(self._asked.samplings))]
        self._events: deque[tuple[_Choice, Event]] = deque()
        self._ready = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._problem: Problem | None = None
        self._times: dict[str, float] = {}
        self.loading = 0.0  # seconds that its model was waited for
        if prepared.account is not None:
            prepared.account(self.spent_of)

    @property
    def spent(self) -> Spent:
        """What it has taken so far."""
        now = time.monotonic()
        asked, begun, first = (self._times.get(moment, now) for moment in ("asked", "begun", "first"))
        texts = tuple(choice.spent(now) for choice in self._choices)
        requests = [choice.stream.request for choice in self._choices]
        tokens = counts(self._asked, requests, [text.completion for text in texts])
        times = (self.loading + begun - asked, self.loading, first - begun, now - first)
        return Spent(*tokens, *times, texts)

    def spent_of(self, number: int) -> TextSpent:
        """What one text has taken so far."""
        return self._choices[number].spent(time.monotonic())

    async def deltas(self) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """The deltas of all choices with their numbers, as many as have come.

        Raises Problem for what fails.
        """
        self._note("asked")
        try:
            for choice in self._choices[:: self._asked.per_prompt]:
                self._start(choice)
            while not all(choice.ended for choice in self._choices):
                await self._ready.wait()
                self._ready.clear()
                if made := self._take():
                    self._note("first")
                    yield made
                    self._told(made)
                    self._follow(made)
                if self._problem is not None:
                    raise self._problem
        finally:
            for task in self._tasks.values():
                task.cancel()
            self._tasks.clear()  # a task that was cancelled keeps its frame, and that keeps this object
            self._end()

    def _start(self, choice: _Choice) -> None:
        self._tasks[choice.number] = asyncio.create_task(self._run(choice))

    def _follow(self, made: list[tuple[int, Delta]]) -> None:
        """Further choices of a prompt begin behind what is read of it for the first one."""
        each = self._asked.per_prompt
        for first in {number // each * each for number, _ in made}:
            for choice in self._choices[first : first + each]:
                if choice.number not in self._tasks:
                    self._start(choice)

    async def _run(self, choice: _Choice) -> None:
        """One text, from its place to its end."""
        served, request = self._served, choice.stream.request

        def put(event: Event) -> None:
            self._events.append((choice, event))
            self._ready.set()

        try:
            async with served.queue.place(self._client, self._place, self) as choice.place:
                self._note("begun")
                choice.times["begun"] = time.monotonic()
                choice.begun, choice.task = True, served.slots.next_task()
                served.slots.begin(choice.place, choice.shown(self._stream))
                try:
                    served.submit(request, put)
                    await choice.over.wait()
                finally:
                    served.cancel(request)
                    served.slots.end(choice.place, choice.left(self._stream))
        except Exception as error:
            put(Failed(request, error))

    def _take(self) -> list[tuple[int, Delta]]:
        """The deltas of what has come, up to what has failed."""
        made: list[tuple[int, Delta]] = []
        while self._events and self._problem is None:
            choice, event = self._events.popleft()
            try:
                made += self._said(choice, event)
            except GGUFError as error:
                self._problem = Problem(BAD_REQUEST, str(error))
            except Exception as error:
                self._problem = Problem(FAILED, f"the model failed: {type(error).__name__}: {error}")
        return made

    def _said(self, choice: _Choice, event: Event) -> list[tuple[int, Delta]]:
        """What an event of a choice brings. Raises what the choice has failed with."""
        delta = choice.delta(event)
        made = [] if delta is None else [(choice.number, delta)]
        now = time.monotonic()
        if delta is not None:
            choice.times.setdefault("first", now)
        if choice.reader.hit and not choice.ended:
            choice.end()
            self._served.cancel(choice.stream.request)
            made.append((choice.number, choice.reader.finish(None)))
        if choice.ended:
            choice.times.setdefault("end", now)
        return made

    def _told(self, made: list[tuple[int, Delta]]) -> None:
        """The client has these deltas."""
        for number, delta in made:
            if delta.token is not None:
                self._served.taken(self._choices[number].stream.request, 1)

    def _note(self, moment: str) -> None:
        self._times.setdefault(moment, time.monotonic())

    def _end(self) -> None:
        now = time.monotonic()
        for choice in self._choices:
            choice.times.setdefault("end", now)
            if choice.begun:
                choice.reader.keep()
            self._served.cancel(choice.stream.request)
