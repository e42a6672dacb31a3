"""Continuous batching: requests over an engine, whose steps mix chunks of prompts, decoded tokens and drafts.

Requests go in with `submit`, events come out of `step`. Every step decodes one token of each running request, fills up
with chunks of prompts, and has drafts where there is room left. There are as many places as the engine has sequences.
What an ended request has read keeps its place until a new one wants it: who begins alike does not read it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Items
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError

from .engine import Engine
from .held import Beginnings, Held, Kind
from .prefixes import common
from .request import Event, Failed, Finished, Request, Token
from .running import Planned, Running
from .sharing import Pace, Wish, shares
from .snapshots import Snapshot

Floats = NDArray[np.float32]


class Scheduler:
    """Runs as many requests at a time as the engine has sequences; others wait. For one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Request] = deque()
        self._running: list[Running] = []
        self._kept: list[Held] = []  # what ended requests have read, oldest first
        self._beginnings = Beginnings()
        self._pace = Pace(engine.prompt_seconds)
        self.events: deque[Event] = deque()  # what has come and was not yet told

    def check(self, request: Request) -> None:
        """Raises GGUFError for a prompt that is empty, too long, or not of the vocabulary, or with an origin that does
        not fit this cache."""
        if not len(self._engine.tokens(request.prompt)):
            raise GGUFError("nothing to start from: the prompt is empty and the model adds no token of its own")
        if len(request.prompt) > self._engine.n_ctx:
            raise GGUFError(
                f"the prompt is {len(request.prompt)} tokens and the context holds {self._engine.n_ctx}: "
                "shorten it, or load the model with a larger n_ctx (-c)"
            )

        if request.origin is not None:
            self._engine.check_saved(request.origin.groups, len(request.origin.tokens))

    def submit(self, request: Request) -> Request:
        """Queues a request. Raises GGUFError as `check` does."""
        self.check(request)
        self.enqueue(request)
        return request

    def enqueue(self, request: Request) -> None:
        """Queues a request that has been checked."""
        self._waiting.append(request)

    @property
    def running(self) -> list[Request]:
        """Those that have a place."""
        return [running.request for running in self._running]

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing. Requests that are paused wait for whoever paused them."""
        can_begin = len(self._running) < self._engine.parallel
        waits = any(request.done or (can_begin and not request.paused) for request in self._waiting)
        return not (self.events or waits or any(r.request.done or not r.request.paused for r in self._running))

    @property
    def crowded(self) -> bool:
        """Whether a request waits for a place that others have."""
        wanted = any(not request.paused for request in self._waiting)
        return wanted and len(self._running) >= self._engine.parallel

    def withdraw(self, request: Request) -> None:
        """Takes a running request's place. It waits for another, and reads its text again as far as nobody has it."""
        for running in [running for running in self._running if running.request is request]:
            self._running.remove(running)
            self._kept.append(running.held)
            self._waiting.append(request)

    def forget(self) -> None:
        """Nothing that has been read counts as read for another: what ended requests have is given back."""
        self._collect_ended()
        self._give_back()
        for running in self._running:
            running.held.hide()

    def forget_text(self, tokens: Items[int]) -> None:
        """What ended requests have read of this text, and of no other, is given back."""
        self._collect_ended()
        text = list(tokens)
        for held in [held for held in self._kept if held.tokens == text[: len(held.tokens)]]:
            self._close(held)

    def _give_back(self) -> None:
        """Closes what ended requests have read."""
        while self._kept:
            self._close(self._kept[0])

    def step(self) -> list[Event]:
        """As `advance`; what came of it, and what has ended since the last."""
        self.advance()
        events, self.events = list(self.events), deque()
        return events

    def advance(self) -> None:
        """One step of the engine, if there is anything to evaluate. What comes of it is behind the others in `events`.

        An interrupt leaves every request as it was before the step, or behind it, and events where they are.
        """
        self._collect_ended()
        self._admit()
        try:
            if planned := self._plan():
                self._evaluate(planned)
        except BaseException:
            for running in self._running:
                running.agree()
            raise
        self._collect_ended()

    def _collect_ended(self) -> None:
        """Takes ended requests off their places; what they have read is kept."""
        for request in [request for request in self._waiting if request.done]:
            self._waiting.remove(request)
            self.events.append(_end(request))
        for running in [running for running in self._running if running.request.done]:
            self._running.remove(running)
            self._kept.append(running.held)
            self.events.append(_end(running.request))

    # -- places --

    def _admit(self) -> None:
        """Starts waiting requests while there are places, each behind what has been read of its text already."""
        for request in [request for request in self._waiting if not request.paused]:
            if len(self._running) >= self._engine.parallel:
                return
            try:
                running = self._begin(request)  # until then it waits, whatever interrupts this
            except Exception as error:
                self._waiting.remove(request)
                request.finish, request.error = "error", error
                self.events.append(_end(request))
            else:
                self._waiting.remove(request)
                self._running.append(running)

    def _begin(self, request: Request) -> Running:
        """The request with a sequence that holds as much of its text as any other does, but for its last token."""
        in_bulk = self._engine.reads_in_bulk(len(request.prompt))
        held = self._taken_over(request, in_bulk)
        if held is None:
            self._free_place()
            held = Held(self._engine.sequence(request.scales))
        elif request.reuse == "any":
            in_bulk = self._engine.reads_in_bulk(len(request.prompt) - len(held.tokens))
        if not request.begun:
            request.reused = len(held.tokens)
        try:
            request.begin()
            if len(held.tokens) == len(request.text):
                self._end_reading(request, held)
        except BaseException:  # of whoever draws or guesses, or an interrupt: others can have what it holds
            self._kept.append(held)
            raise
        request.evaluated = len(held.tokens)
        return Running(request, held, common(request.prompt, request.text) if in_bulk else 0)

    def known(self, tokens: list[int], scales: tuple[float, ...] = ()) -> int:
        """How many tokens of a text, from the first on, have been read and are there."""
        nearest = self._nearest(tokens, "any", scales)
        return 0 if nearest is None else nearest[1]

    def _nearest(self, tokens: list[int], kind: Kind, scales: tuple[float, ...]) -> tuple[Held, int] | None:
        """What holds most of a text, and how many tokens of it can be gone on from."""
        some = [*self._kept, *(running.held for running in self._running)]
        nearest = self._beginnings.longest(some, tokens, kind, scales)
        if nearest is None:
            return None
        shared = nearest[0].sequence.keepable(nearest[1])  # windows may have forgotten what would be gone back to
        return (nearest[0], shared) if shared else None

    def _restored(self, request: Request, most: int) -> Held | None:
        """What the request brings along, if that is more of its text, up to `most` tokens, than others have read."""
        origin = request.origin
        if origin is None or origin.scales != request.scales:
            return None
        shared = common(origin.tokens, request.text[:most])
        if shared <= self.known(request.text[:most], request.scales):
            return None
        self._free_place()
        sequence = self._engine.restored(origin.groups, len(origin.tokens), origin.scales)
        if not sequence.keepable(shared):
            sequence.close()
            return None
        held = Held(sequence, list(origin.tokens), origin.bulk)
        held.cut(shared)
        return held

    def _taken_over(self, request: Request, in_bulk: bool) -> Held | None:
        """What holds most of the request's text: the place of an ended one, or a fork where that may be wanted."""
        most = len(request.text) - (not request.moves)  # the last one is read again for its logits
        if restored := self._restored(request, most):
            return restored
        if request.reuse == "none":
            return None
        kind: Kind = "any" if request.reuse == "any" else "bulk" if in_bulk else "exact"
        nearest = self._nearest(request.text[:most], kind, request.scales)
        if nearest is None:
            return None
        held, shared = nearest
        if held in self._kept:
            if shared == len(held.tokens) or self._free_places < 1:
                held.cut(shared)
                self._kept.remove(held)
                return held
            self._kept.append(self._kept.pop(self._kept.index(held)))  # used last
        self._free_place()
        return held.fork(shared)

    @property
    def _free_places(self) -> int:
        return self._engine.parallel - len(self._running) - len(self._kept)

    def _free_place(self) -> None:
        """Makes sure that there is a place for one more: what was used longest ago goes."""
        while self._kept and self._free_places < 1:
            self._close(self._kept[0])

    def _close(self, held: Held) -> None:
        self._kept.remove(held)
        self._beginnings.forget(held)
        held.sequence.close()

    # -- steps --

    def _plan(self) -> list[Planned]:
        """The next step's chunks: a token of each text that is written, prompts (`sharing.py`), and then drafts."""
        engine, active = self._engine, [running for running in self._running if not running.request.paused]
        parts = [(running, running.left) for running in active if running.left <= 1 and not engine.whole_texts]
        prompts = [running for running in active if running.left > 1 or engine.whole_texts]
        wishes = [Wish(running.left, running.readable(engine.n_ctx)) for running in prompts]
        room = engine.rows - len(parts)
        if parts and self._pace.rows is not None:
            room = min(room, self._pace.rows)
        parts += zip(prompts, shares(wishes, room, engine.whole_texts), strict=True)
        room = engine.rows - sum(count for _, count in parts)
        planned = []
        for running, count in parts:
            if count < 1:  # there is room in one of the next steps
                continue
            try:
                running.shift(engine.n_ctx)
                draft = [] if running.request.done else running.draft(room, engine.n_ctx)
            except Exception as error:  # of whoever guesses
                running.fail(error)
            if running.request.done:
                continue
            planned.append(Planned(running, running.request.text[running.at : running.at + count], draft))
            room -= len(draft)
        return planned

    def _evaluate(self, planned: list[Planned]) -> None:
        """Evaluates a step. One that fails is made chunk by chunk, so that whoever it fails for fails alone."""
        try:
            before = monotonic()
            rows = self._engine.step([one.chunk for one in planned])
            self._pace.note(sum(len(one.tokens) for one in planned if len(one.tokens) > 1), monotonic() - before)
        except Exception as error:
            for one in planned:
                one.running.agree()
            if len(planned) == 1 and not (self._kept and isinstance(error, GGUFError)):
                planned[0].running.fail(error)
                return
            self._give_back()  # it may have been their pages that were wanting
            for one in planned:
                self._evaluate([one])
            return
        for one, logits in zip(planned, rows, strict=True):
            try:
                self._take(one, logits)
            except Exception as error:  # of whoever draws, guesses or takes logits
                one.running.fail(error)

    def _take(self, one: Planned, logits: Floats) -> None:
        """Notes what has been evaluated, and draws what follows."""
        running, request = one.running, one.running.request
        first = running.at
        running.held.read(one.tokens, running.in_bulk)
        request.evaluated = running.at
        if request.take is not None and first < len(request.prompt):
            request.take(first, logits)
        if running.left:
            return
        if request.sampler is None:
            self._end_reading(request, running.held)
            return
        for row in logits[len(logits) - 1 - len(one.draft) :]:
            if not self._next(running, row):
                break
            running.held.read(request.text[-1:], False)
            request.evaluated = running.at
        running.held.cut(running.at)  # what was guessed and did not come

    def _end_reading(self, request: Request, held: Held) -> None:
        """The prompt of a request without a sampler has been read."""
        if request.saves:
            groups = self._engine.snapshot(held.sequence, len(held.tokens))
            request.saved = Snapshot(tuple(held.tokens), held.bulk, request.scales, groups)
        request.finish = "read"

    def _next(self, running: Running, logits: Floats) -> bool:
        """Draws the next token. Whether it has been guessed, so that it is evaluated already."""
        request = running.request
        assert request.sampler is not None
        token = int(request.sampler.sample(logits))
        if token in request.ends:
            request.finish = "stop"
            return False
        if not 0 <= token < self._engine.n_vocab:
            self._engine.tokens([token])  # raises what is to be said
        request.sampler.accept(token)
        request.produced.append(token)
        request.text.append(token)
        self.events.append(Token(request, token, logits.copy() if request.told else None))
        guessed = request.drafts is not None and request.drafts.check(token)
        full = running.at == self._engine.n_ctx and (request.keep is None or request.keep >= running.at)
        if full or len(request.produced) == request.limit:
            request.finish = "length"
        return guessed and not request.done


def _end(request: Request) -> Event:
    return Finished(request) if request.error is None else Failed(request, request.error)
