"""Continuous batching: a queue of requests over an engine, whose steps mix prompt chunks and decoded tokens.

Requests go in with `submit`, tokens come out of `step`. Every step decodes one token of each running request and fills
up with chunks of prompts, oldest first. A request's tokens do not depend on what else is running or has run. What a
request has read stays for later ones that begin alike and are read the same way (in bulk or not), until its pages are
needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError

from .engine import Chunk, Engine
from .prefixes import Prefixes
from .sequence import Sequence

Sample = Callable[[NDArray[np.float32]], int | None]


class Request:
    """A prompt and what follows it. `sample(logits)` gives the next token, or None to end."""

    def __init__(self, prompt: Items[int], sample: Sample) -> None:
        self.prompt = tuple(prompt)
        self.sample = sample
        self.produced: list[int] = []
        self.finish: str | None = None  # "stop" (sample gave None), "length" (context full), "cancelled" or "error"
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.finish is not None

    def cancel(self) -> None:
        """Ends the request before the next step; what it has produced stays."""
        if not self.done:
            self.finish = "cancelled"


@dataclass(eq=False)
class _Held:
    """A sequence, the tokens that its pages hold, and how many of them, from the first, were read in bulk.

    A text can only begin with tokens that were read as its own are to be: in bulk, or all of them exactly.
    """

    sequence: Sequence
    tokens: list[int]
    bulk: int = 0
    remembered: int = 0  # of those, how many later requests can begin with


@dataclass(eq=False)
class _Running:
    """A request, what its sequence holds, the tokens that are still to be evaluated, and how its prompt is read."""

    request: Request
    held: _Held
    pending: list[int]
    bulk: bool

    @property
    def in_bulk(self) -> bool:
        """Whether what is pending is read in bulk."""
        return self.bulk and not self.request.produced

    def read(self, tokens: Items[int]) -> None:
        """The first of what was pending has been evaluated."""
        self.held.tokens.extend(tokens)
        self.held.bulk += len(tokens) if self.in_bulk else 0
        del self.pending[: len(tokens)]


class Scheduler:
    """Runs as many requests of an engine at a time as it has sequences; others wait. For one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Request] = deque()
        self._running: list[_Running] = []
        self._kept: deque[_Held] = deque()  # what ended requests have read, oldest first
        # What is kept or running, by whether it was read in bulk.
        self._prefixes: dict[bool, Prefixes[_Held]] = {False: Prefixes(), True: Prefixes()}

    def submit(self, prompt: Items[int], sample: Sample) -> Request:
        """Queues a request. Raises GGUFError for a prompt that is empty, too long, or not of the vocabulary."""
        if not len(self._engine.tokens(prompt)):
            raise GGUFError("nothing to start from: the prompt is empty")
        if len(prompt) > self._engine.n_ctx:
            raise GGUFError(
                f"the prompt is {len(prompt)} tokens and a sequence holds {self._engine.n_ctx}: "
                "shorten it, or load the model with a larger n_ctx (-c)"
            )
        request = Request(prompt, sample)
        self._waiting.append(request)
        return request

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        self._drop_ended()
        return not self._waiting and not self._running

    def step(self) -> list[tuple[Request, int]]:
        """One step of the engine; the tokens that it produced, which are none while prompts are read."""
        self._drop_ended()
        self._admit()
        planned = self._plan()
        if not planned:
            return []
        self._make_room(planned)
        rows = self._engine.step([chunk for _, chunk in planned])
        found = []
        for (running, chunk), logits in zip(planned, rows, strict=True):
            running.read(chunk.tokens)
            self._remember(running.held)
            token = self._next(running, logits[0]) if not running.pending else None
            if token is not None:
                found.append((running.request, token))
        self._drop_ended()
        return found

    def _next(self, running: _Running, logits: NDArray[np.float32]) -> int | None:
        """The request's next token, put in line to be evaluated; None if it has ended."""
        request = running.request
        try:
            token = request.sample(logits)
            if token is not None:
                self._engine.tokens([token])
        except Exception as error:  # the others go on; whoever waits for this one finds it here
            request.finish, request.error = "error", error
            return None
        if token is None:
            request.finish = "stop"
            return None
        request.produced.append(token)
        running.pending.append(token)
        if len(running.held.tokens) == self._engine.n_ctx:
            request.finish = "length"
        return token

    def _drop_ended(self) -> None:
        """Keeps what ended requests have read, and forgets waiting ones that were cancelled."""
        self._waiting = deque(request for request in self._waiting if not request.done)
        ended = [running.held for running in self._running if running.request.done]
        self._running = [running for running in self._running if not running.request.done]
        self._kept.extend(ended)

    def _admit(self) -> None:
        """Starts waiting requests while there are places, each behind what has been read of its prompt already."""
        while self._waiting and len(self._running) < self._engine.parallel:
            request = self._waiting.popleft()
            bulk = self._engine.reads_in_bulk(len(request.prompt))
            held = self._begin(request.prompt, bulk)
            self._running.append(_Running(request, held, list(request.prompt[len(held.tokens) :]), bulk))

    def _begin(self, prompt: tuple[int, ...], bulk: bool) -> _Held:
        """A sequence that holds as much of the prompt as any other does, its last token always left to evaluate."""
        found = self._prefixes[bulk].longest(prompt[:-1])
        if found is None:
            return _Held(self._engine.sequence(), [])
        best, shared = found
        if best in self._kept:
            self._kept.remove(best)
            self._kept.append(best)  # used last
        held = _Held(best.sequence.fork(shared), best.tokens[:shared], min(best.bulk, shared))
        self._remember(held)
        return held

    def _remember(self, held: _Held) -> None:
        """Later requests can begin with what it has now."""
        if not held.bulk:
            self._prefixes[False].grow(held, held.tokens)
        elif held.bulk != held.remembered:  # while a text is decoded behind its prompt nothing is new
            self._prefixes[False].remove(held)
            self._prefixes[True].grow(held, held.tokens[: held.bulk])
            held.remembered = held.bulk

    def _forget(self, held: _Held) -> None:
        """Gives its pages back."""
        for prefixes in self._prefixes.values():
            prefixes.remove(held)
        held.sequence.close()

    def _plan(self) -> list[tuple[_Running, Chunk]]:
        """The chunks of the next step: what decodes first, then prompts in order of arrival."""
        left = self._engine.rows
        planned = []
        for running in sorted(self._running, key=lambda running: len(running.pending) > 1):
            count = min(len(running.pending), left)
            if count:
                logits: Literal["last", "none"] = "last" if count == len(running.pending) else "none"
                chunk = Chunk(running.held.sequence, running.pending[:count], logits, running.in_bulk)
                planned.append((running, chunk))
                left -= count
        return planned

    def _make_room(self, planned: list[tuple[_Running, Chunk]]) -> None:
        """Forgets what ended requests have read, oldest first, until the step has the pages that it takes."""
        wanted = sum(running.held.sequence.wants(len(chunk.tokens)) for running, chunk in planned)
        while self._kept and self._engine.free_pages < wanted:
            self._forget(self._kept.popleft())
