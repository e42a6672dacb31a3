"""What the server has done so far, in numbers: what `/metrics` shows.

A request has an `Entry` while it is answered, and the `Book` adds it up once it is over: per request some additions and
places in lists that are short, per token nothing. All of it is written on the event loop.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ggufpy.api.shape import Spent

if TYPE_CHECKING:
    from ggufpy.server.problems import Problem

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
LENGTHS = tuple(float(1 << power) for power in range(4, 18))  # 16 to 131,072 tokens
GONE = 499  # the status, in numbers only, of a request whose client has left (nginx has it so)
ENTRY = "ggufpy.entry"  # the key of a request's entry in its ASGI scope
OTHER = "other"  # the route of requests that have none


@dataclass(eq=False)
class Histogram:
    """How many values are at most as large as each bound; `counts` has one more, for those above all of them."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def cumulative(self) -> list[tuple[str, int]]:
        """Bounds as Prometheus writes them, and how many values are at most that."""
        made, so_far = [], 0
        for bound, count in zip([*self.bounds, float("inf")], self.counts, strict=True):
            so_far += count
            made.append(("+Inf" if bound == float("inf") else repr(bound), so_far))
        return made


@dataclass(eq=False)
class Tally:
    """What one model has done since the server began, however often it was loaded."""

    requests: int = 0
    prompt_tokens: int = 0  # evaluated
    cached_tokens: int = 0  # of prompts, read before
    tokens: int = 0
    longest: int = 0  # tokens of the longest text, with its prompt
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    first_token: Histogram = field(default_factory=lambda: Histogram(SECONDS))  # seconds, from the request on
    per_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_SECONDS))  # seconds, behind the first
    waits: Histogram = field(default_factory=lambda: Histogram(SECONDS))  # seconds, for a place
    prompts: Histogram = field(default_factory=lambda: Histogram(LENGTHS))  # tokens
    answers: Histogram = field(default_factory=lambda: Histogram(LENGTHS))  # tokens

    def add(self, spent: Spent, seconds: float) -> None:
        """A request has ended that took so much, and so many seconds until its first token."""
        self.requests += 1
        self.prompt_tokens += spent.prompt - spent.cached
        self.cached_tokens += spent.cached
        self.tokens += spent.completion
        self.prompt_seconds += spent.prompt_seconds
        self.decode_seconds += spent.decode_seconds
        self.longest = max([self.longest, *(text.prompt + text.completion for text in spent.texts)])
        self.waits.add(max(spent.wait_seconds - spent.load_seconds, 0.0))
        self.prompts.add(spent.prompt)
        self.answers.add(spent.completion)
        if spent.completion:
            self.first_token.add(seconds)
        for text in spent.texts:
            if text.completion > 1:
                self.per_token.add(text.decode_seconds / (text.completion - 1))


@dataclass(eq=False)
class Entry:
    """One request while it is answered. `model` and `spent` are there where one was asked for and generated, `reason`
    where it was refused: a word."""

    route: str
    since: float
    model: str = ""
    status: int = 0
    gone: bool = False  # its client has left
    spent: Spent | None = None
    reason: str = ""

    def refused(self, problem: Problem) -> None:
        """It could not be answered, or not to the end. The problem is not kept: its frames have this entry."""
        self.reason = problem.code or f"status_{problem.status}"


def entry_of(scope: MutableMapping[str, Any]) -> Entry:
    """The entry of the request whose ASGI scope this is."""
    entry = scope.get(ENTRY)
    return entry if isinstance(entry, Entry) else Entry(OTHER, time.monotonic())


class Book:
    """All requests of a server."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}  # by model
        self.requests: Counter[tuple[str, str, int]] = Counter()  # by model, route and status
        self.refused: Counter[tuple[str, str]] = Counter()  # by route and reason
        self.cancelled: Counter[tuple[str, str]] = Counter()  # by model and route
        self.seconds: dict[str, Histogram] = {}  # by route
        self.open = 0

    def begin(self, route: str) -> Entry:
        """A request has come."""
        self.open += 1
        return Entry(route, time.monotonic())

    def end(self, entry: Entry) -> None:
        """It is over."""
        self.open -= 1
        status = GONE if entry.gone else entry.status
        self.requests[entry.model, entry.route, status] += 1
        seconds = time.monotonic() - entry.since
        self.seconds.setdefault(entry.route, Histogram(SECONDS)).add(seconds)
        if entry.gone:
            self.cancelled[entry.model, entry.route] += 1
        if entry.reason:
            self.refused[entry.route, entry.reason] += 1
        if entry.spent is not None and any(text.place is not None for text in entry.spent.texts):
            first = max(seconds - entry.spent.decode_seconds, 0.0)
            self.tallies.setdefault(entry.model, Tally()).add(entry.spent, first)

    def missed(self, status: int) -> None:
        """A request has come for which there is no route."""
        self.end(Entry(OTHER, time.monotonic(), status=status))
        self.open += 1
