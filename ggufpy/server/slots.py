"""What the places of a model are at, or were at last: llama-server's slots.

A text that is at work has one place for its life, and is shown there until the place has another. All of it on the
event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING

from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.api.openai.asked import Asked
    from ggufpy.runtime.request import Request


@dataclass(frozen=True)
class Counts:
    """How far a text is: tokens of its prompt, those of them that were read before and those that are read, and
    tokens that have come."""

    prompt: int
    cached: int
    read: int
    made: int


@dataclass(frozen=True)
class Shown:
    """A text as its place shows it: `asked` and the number of its choice, whether as a stream, and how far it is."""

    task: int
    asked: Asked
    number: int
    stream: bool
    counts: Callable[[], Counts]
    tokens: Callable[[], list[int]]  # those of it that are evaluated
    new_line: Callable[[], bool]  # whether its text has one


class Slot:
    """One place. `latest` is what has it or had it last; None before there was any, and once it is erased."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.latest: Shown | None = None
        self.restored: list[int] | None = None  # a text that came from a file, and none since
        self.working = False

    @property
    def tokens(self) -> list[int]:
        """The tokens of its text that are evaluated."""
        if self.restored is not None:
            return list(self.restored)
        return self.latest.tokens() if self.latest is not None else []

    def forget(self) -> int:
        """Forgets its text; returns how many tokens that had."""
        size = len(self.tokens)
        self.latest, self.restored = None, None
        return size

    def restore(self, tokens: list[int]) -> None:
        """Its text is one that was loaded."""
        self.latest, self.restored = None, tokens


class Slots:
    """The places of one model."""

    def __init__(self, places: int) -> None:
        self._slots = [Slot(number) for number in range(places)]
        self._tasks = count()
        self.moving = asyncio.Lock()  # of whoever saves a text or loads one: one at a time

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def next_task(self) -> int:
        """The number of a new text."""
        return next(self._tasks)

    def begin(self, number: int, shown: Shown) -> None:
        """A text has this place."""
        slot = self._slots[number]
        slot.latest, slot.restored, slot.working = shown, None, True

    def end(self, number: int, shown: Shown) -> None:
        """It has no more; what is shown from now on is all that is kept of it."""
        slot = self._slots[number]
        slot.working = False
        if slot.latest is not None and slot.latest.task == shown.task:  # it was not erased meanwhile
            slot.latest = shown


Reach = tuple[Callable[[], Counts], Callable[[], list[int]]]


def running(request: Request, counted: Callable[[], int]) -> Reach:
    """How far a request is, and its tokens; `counted` says how many of those that came its reader has had."""

    def counts() -> Counts:
        read = min(max(request.evaluated, request.reused), len(request.prompt))
        return Counts(len(request.prompt), request.reused, read, counted())

    return counts, lambda: request.text[: request.evaluated]


def over(request: Request, counted: int) -> Reach:
    """The same of a request that has ended, of which nothing else is held."""
    counts, tokens = running(request, lambda: counted)
    last_counts, last_tokens = counts(), tokens()
    return lambda: last_counts, lambda: last_tokens
