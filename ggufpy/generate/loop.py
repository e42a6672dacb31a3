"""Requests of any number of threads over one engine: in go requests, out come their tokens, each as it is asked for.

There is no thread beside those that ask. Whoever waits for a token makes steps for all who take part, so that calls of
several threads are evaluated together, as many as the engine has sequences. Others wait their turn. A `Driver`
(`driver.py`) asks for requests that no thread waits for.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ggufpy.errors import GGUFError
from ggufpy.generate.boxes import Box, Pushed
from ggufpy.runtime.request import Event, Failed, Finished, Request, Token
from ggufpy.runtime.scheduler import Scheduler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.runtime import Engine

CLOSED = "this model is closed: open it again with Llama(...)"
PATIENCE = 1.0  # seconds after which a text that nobody goes on with gives its place to one that waits
POLL = 0.05  # seconds between two looks at whether such a place has become free


class Loop:
    """The requests of one engine, which belongs to it from now on."""

    def __init__(self, engine: Engine) -> None:
        self._at_work: tuple[Engine, Scheduler] | None = (engine, Scheduler(engine))  # None once this is closed
        self._pid = os.getpid()
        self._leader = threading.Lock()  # of whoever makes a step: the scheduler is theirs
        self._door = threading.Lock()  # held while waiting for it, so that steps in a row let others between
        self._wake: Callable[[], None] | None = None  # tells a driver that there is something to do
        self._leading: threading.Thread | None = None  # who that is
        self._changed = threading.Condition()  # guards what follows
        self._boxes: dict[Request, Box] = {}
        self._new: list[Request] = []
        self.latest: Request | None = None  # of those that were begun

    @property
    def engine(self) -> Engine:
        return self._open()[0]

    @property
    def _scheduler(self) -> Scheduler:
        return self._open()[1]

    @property
    def _closed(self) -> bool:
        return self._at_work is None

    def _open(self) -> tuple[Engine, Scheduler]:
        """What is at work. Raises GGUFError once this is closed."""
        self._check_process()
        if self._at_work is None:
            raise GGUFError(CLOSED)
        return self._at_work

    def stream(self, request: Request) -> Stream:
        """The request's tokens; nothing is evaluated before they are asked for.

        Raises GGUFError for a prompt that cannot be.
        """
        self.check(request)
        return Stream(self, request)

    def check(self, request: Request) -> None:
        """Raises GGUFError for a prompt that cannot be, and once this is closed."""
        self._open()
        self._scheduler.check(request)

    def run(self, request: Request, patient: bool = True) -> bool:
        """Evaluates a request to its end. Raises what it ends with, GGUFError once this is closed.

        False if it could not begin at once and is not `patient`: nothing has been evaluated then.
        """
        self.check(request)
        box = self.box(request)
        try:
            while not request.done or box.events:
                event = self.next(box, patient)
                if event is None:
                    return False
                if isinstance(event, Failed):
                    raise event.error
        finally:
            self.drop(request)
        return True

    @contextmanager
    def _between(self) -> Iterator[None]:
        """Between two steps."""
        self._check_outside()
        with self._door:
            self._leader.acquire()
        try:
            yield
        finally:
            self._leader.release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Between two steps, and nothing counts as read before or behind: what is changed here changes texts."""
        with self._between():
            self._open()
            self._scheduler.forget()
            try:
                yield
            finally:
                self._scheduler.forget()

    def forget(self) -> None:
        """Nothing that has been read counts as read any more."""
        with self.alone():
            self.latest = None

    def forget_text(self, tokens: Sequence[int]) -> None:
        """This text does not count as read any more, unless another that begins so does."""
        with self._between():
            self._open()
            self._scheduler.forget_text(tokens)

    def close(self) -> None:
        """Ends the step that is being made, and all requests: whoever waits for one gets GGUFError. Twice is fine."""
        if self._pid != os.getpid():
            self._at_work = self.latest = None
            return
        with self._between():
            with self._changed:
                at_work, self._at_work, self.latest = self._at_work, None, None
                self._changed.notify_all()
            for box in list(self._boxes.values()):
                box.given_up(GGUFError(CLOSED))
            if at_work is not None:
                at_work[0].close()
        self._tell()

    def known(self, tokens: list[int], scales: tuple[float, ...] = ()) -> int:
        """How many tokens of a text, from the first on, need not be evaluated again."""
        with self._between():
            return self._scheduler.known(tokens, scales)

    def remember(self, tokens: Sequence[int]) -> None:
        """This is the latest text, and evaluated. What of it is not in the cache will be when it goes on."""
        request = Request(tokens)
        request.evaluated, request.finish = len(tokens), "read"
        self.latest = request

    @property
    def evaluated(self) -> list[int]:
        """Tokens of the latest text that are evaluated, but for those that nobody has taken yet."""
        request = self.latest
        if request is None:
            return []
        ahead = len(request.produced) - request.taken
        return request.text[: min(request.evaluated, len(request.text) - ahead)]

    def box(self, request: Request) -> Box:
        """Where what comes of a request is put, from now on."""
        box = Box(request)
        self._add(box)
        self.latest = request
        return box

    def push(self, request: Request, sink: Callable[[Event], None]) -> None:
        """A driver evaluates a request, and gives `sink` what comes of it, on its thread and within the step.

        Raises GGUFError once this is closed.
        """
        self._add(Pushed(request, sink=sink))

    def _add(self, box: Box) -> None:
        with self._changed:
            self._open()  # within the lock: one that is added behind `close` would hear nothing
            self._boxes[box.request] = box
            self._new.append(box.request)
        self._tell()

    def drop(self, request: Request) -> None:
        """Nobody wants more of a request."""
        request.cancel()
        self._boxes.pop(request, None)
        self._tell()

    def leave(self, thread: threading.Thread) -> None:
        """Nobody wants what a thread waits for: its requests end before the next step."""
        for box in list(self._boxes.values()):
            if box.thread is thread:
                self.drop(box.request)

    def give_up(self, error: Exception) -> None:
        """A fault of ours: those who wait for a driver's steps are told, and not left waiting."""
        for box in list(self._boxes.values()):
            box.given_up(error)

    def driven_by(self, wake: Callable[[], None]) -> None:
        """A driver calls `drive` whenever it is told, by `wake`, that there may be something to do."""
        self._wake = wake

    def _tell(self) -> None:
        if self._wake is not None:
            self._wake()

    def drive(self) -> bool:
        """Makes a step for all, if there is one to make; False where there is none, or this is closed."""
        with self._between():
            if self._closed:
                return False
            with self._changed:
                self._prepare()
            if self._scheduler.idle:
                return False
            self._step()
            return True

    def next(self, box: Box, patient: bool = True, take: bool = True) -> Event | None:
        """What comes next of a request, left there unless `take`; None if it cannot begin and is not `patient`."""
        self._open()
        self._check_outside()
        with self._changed:
            box.asking, box.thread = True, threading.current_thread()
        try:
            while not box.events:
                self._open()
                if self._boxes.get(box.request) is not box:  # another thread has ended it
                    return Finished(box.request)
                self._lead(box, patient)
                if not patient and not box.request.begun:
                    return None
        finally:
            with self._changed:
                box.asking, box.since = False, time.monotonic()
        event = box.events.popleft() if take else box.events[0]
        box.request.taken += take and isinstance(event, Token)
        return event

    def _check_process(self) -> None:
        """A lock that another thread held at a fork is never released on the other side."""
        if self._pid != os.getpid():
            raise GGUFError("a model cannot be used on both sides of a fork: load it in the process that uses it")

    def _check_outside(self) -> None:
        """Whoever makes a step waits for it to end: what it calls cannot wait for another."""
        self._check_process()
        if self._leading is threading.current_thread():
            raise GGUFError("the model is at work: a hook or sampler that it calls cannot use it")

    def _lead(self, box: Box, patient: bool) -> None:
        """Makes a step, or waits a little for those that others make."""
        if self._leader.acquire(blocking=False):
            try:
                if self._closed:
                    return
                with self._changed:
                    self._prepare()
                if not (box.events or self._closed or self._scheduler.idle):
                    self._step()
                    return
            finally:
                self._leader.release()
        with self._changed:
            if (patient or box.request.begun) and not box.events and not self._closed:
                self._changed.wait(POLL)

    def _prepare(self) -> None:
        """Hands new requests to the scheduler, and places of texts that nobody goes on with to those that wait."""
        self._deliver()
        while self._new:
            self._scheduler.enqueue(self._new[0])
            del self._new[0]
        running = self._scheduler.running
        at_work = set(running)
        for box in list(self._boxes.values()):
            box.request.paused = True  # before the look: whoever takes tokens during it tells the driver to look again
            box.request.paused = box.paused(box.request in at_work)
        if not self._scheduler.crowded:
            return
        asking = {box.thread for box in list(self._boxes.values()) if box.asking}
        late = time.monotonic() - PATIENCE
        for request in running:
            holder = self._boxes.get(request)
            if holder is not None and holder.left(asking, late):
                request.paused = True
                self._scheduler.withdraw(request)

    def _step(self) -> None:
        self._leading = threading.current_thread()
        try:
            self._scheduler.advance()
        finally:
            self._leading = None
        with self._changed:
            self._deliver()
            self._changed.notify_all()

    def _deliver(self) -> None:
        """Gives what has come to whoever asked for it. An interrupt leaves the rest to the next time."""
        events = self._scheduler.events
        while events:
            box = self._boxes.get(events[0].request)
            if box is not None:
                box.put(events[0])
            events.popleft()


class Stream(Iterator[int]):
    """The tokens of a request, each evaluated when it is asked for; at their end `finish` says why they ended.

    "stop": an end token, which is not among them; "length": the limit, or the context is full. `logits` holds the
    float32 (n_vocab,) that the newest token was drawn from.
    """

    def __init__(self, loop: Loop, request: Request) -> None:
        self.request = request
        self.finish: str | None = None
        self.logits: NDArray[np.float32] | None = None
        self._loop = loop
        self._box: Box | None = None
        weakref.finalize(self, loop.drop, request).atexit = False

    @property
    def drafted(self) -> int:
        """How many tokens were guessed."""
        return self.request.drafts.drafted if self.request.drafts is not None else 0

    @property
    def accepted(self) -> int:
        """How many of the guessed tokens came."""
        return self.request.drafts.accepted if self.request.drafts is not None else 0

    def prefill(self) -> None:
        """Evaluates the prompt now rather than with the first token."""
        if self.finish is None:
            self._loop.next(self._live(), take=False)

    def close(self) -> None:
        """Ends here; it need not be called, but others can have its place then."""
        if self.finish is None:
            self.finish = "length"
        self._loop.drop(self.request)

    def _live(self) -> Box:
        if self._box is None:
            self._box = self._loop.box(self.request)
        return self._box

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> int:
        if self.finish is not None:
            raise StopIteration
        event = self._loop.next(self._live())
        if isinstance(event, Token):
            self.logits = event.logits
            return event.token
        self.finish = self.finish or self.request.finish
        self._loop.drop(self.request)
        if isinstance(event, Failed):
            raise event.error
        raise StopIteration
