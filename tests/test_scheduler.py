"""The scheduler: each request has the tokens that it has alone, whatever else runs, ends, fails or is withdrawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from engine import Text, load, synthetic
from llm_fakes import FakeEngine

from ggufpy import format as gguf
from ggufpy.errors import GGUFError
from ggufpy.generate.drafters import PromptLookup, Speculation
from ggufpy.runtime import EngineOptions
from ggufpy.runtime.request import Event, Failed, Finished, Request, Token
from ggufpy.runtime.scheduler import Scheduler
from ggufpy.simd.isa import Level

pytestmark = pytest.mark.usefixtures("level")

N_CTX = 300
RNG = np.random.default_rng(4)
TEXTS = [RNG.integers(0, 320, n).tolist() for n in (290, 131, 40, 7)]
PROMPTS = [
    TEXTS[0][:100], [*TEXTS[0][:100], 1, 2, 3], TEXTS[0][:60], TEXTS[1], TEXTS[2], TEXTS[3], TEXTS[3], [9], TEXTS[0],
]  # fmt: skip


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, level: Level) -> Iterator[Text]:
    shapes, path = synthetic(), tmp_path_factory.mktemp("models") / "m.gguf"
    shapes.write_model(path, shapes.Shape(2, 256, 256, 4, 2, 320, 400), "Q4_0")
    with gguf.open(path) as file:
        options = EngineOptions(n_threads=2, n_ctx=N_CTX, n_batch=64, n_parallel=4)
        with load(file, options) as session:
            assert session.engine.isa == level.name
            yield session


class Greedy:
    """Takes the best token."""

    def accept(self, token: int) -> None:
        """Nothing depends on it."""

    def sample(self, logits: Any) -> int:
        return int(np.argmax(logits))


def greedy(prompt: list[int], most: int, **how: Any) -> Request:
    """A request for the `most` best tokens; of none, for its prompt to be read."""
    return Request(prompt, Greedy() if most else None, limit=most, **how)


def by_itself(session: Text, prompt: list[int], most: int) -> list[int]:
    session.truncate(0)
    session.eval(prompt)
    found: list[int] = []
    while len(found) < most:
        found.append(int(np.argmax(session.last_logits())))
        if session.n_past == session.engine.n_ctx:
            break
        session.eval(found[-1:])
    session.truncate(0)
    return found


def run(scheduler: Scheduler) -> list[Event]:
    """Everything that comes until there is nothing to do."""
    events: list[Event] = []
    while not scheduler.idle:
        events += scheduler.step()
    return events


@pytest.mark.parametrize("seed", range(6))
def test_requests_have_the_tokens_that_they_have_alone(session: Text, seed: int) -> None:
    """They are submitted while others run, cancelled, withdrawn and paused; some have drafts."""
    scheduler, dice = Scheduler(session.engine), random.Random(seed)
    order = dice.sample(range(len(PROMPTS)), len(PROMPTS))
    lengths = {i: dice.randint(0, 20) for i in order}
    requests: dict[int, Request] = {}
    events: list[Event] = []
    while len(requests) < len(order) or not scheduler.idle:
        for i in order[len(requests) :][: dice.randint(0, 3)]:
            drafts = Speculation(PromptLookup(4, 2, 1)) if dice.random() < 0.5 else None
            requests[i] = scheduler.submit(greedy(PROMPTS[i], lengths[i], drafts=drafts))
        for request in requests.values():
            request.paused = False
        events += scheduler.step()
        if requests and dice.random() < 0.1:
            requests[dice.choice(sorted(requests))].cancel()
        if scheduler.running and dice.random() < 0.3:
            scheduler.withdraw(dice.choice(scheduler.running))
        if requests and dice.random() < 0.3:
            requests[dice.choice(sorted(requests))].paused = True
            events += scheduler.step()
            requests[dice.choice(sorted(requests))].paused = False
    scheduler.forget()
    for i, request in requests.items():
        own = [event for event in events if event.request is request]
        assert [event.token for event in own if isinstance(event, Token)] == request.produced
        assert isinstance(own[-1], Finished)
        wanted = by_itself(session, PROMPTS[i], lengths[i])
        if request.finish == "cancelled":
            assert request.produced == wanted[: len(request.produced)]
        else:
            assert request.produced == wanted
            assert request.finish == ("length" if lengths[i] else "read")
    assert session.engine.free_pages == 12


def test_what_was_read_is_not_read_again(session: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, scheduler = session.engine, Scheduler(session.engine)
    read = []
    plain = engine.step

    def step(chunks: Any, out: Any = None) -> Any:
        read.append(sum(len(chunk.tokens) for chunk in chunks))
        return plain(chunks, out)

    monkeypatch.setattr(engine, "step", step)
    for prompt, tokens in ((PROMPTS[0], 100), (PROMPTS[1], 3), (PROMPTS[0], 1), ([7, *PROMPTS[0]], 101)):
        read.clear()
        scheduler.submit(greedy(prompt, 2))
        run(scheduler)
        assert sum(read) == tokens + 1  # and the first token that it produced
    first = scheduler.submit(greedy(PROMPTS[3], 9, reuse="none"))
    run(scheduler)
    chat = [*PROMPTS[3], *first.produced]
    for reuse in ("any", "alike"):  # a chat goes on: its answer is read again only where a prompt is read otherwise
        read.clear()
        scheduler.submit(Request(chat, reuse=reuse))  # type: ignore[arg-type]
        run(scheduler)
        assert sum(read) == (9 if reuse == "alike" and engine.reads_in_bulk(len(chat)) else 1)
    scheduler.forget()


def test_a_sampler_that_fails_ends_its_request_alone(session: Text) -> None:
    scheduler = Scheduler(session.engine)

    class Failing(Greedy):
        def __init__(self, answer: Callable[[], int]) -> None:
            self.answer = answer

        def sample(self, logits: Any) -> int:
            return self.answer()

    def fail() -> int:
        raise RuntimeError("no")

    bad, strange = (scheduler.submit(Request([1, 2], Failing(answer))) for answer in (fail, lambda: 320))
    good = scheduler.submit(greedy([1, 2], 3))
    failed = {event.request: event.error for event in run(scheduler) if isinstance(event, Failed)}
    assert (bad.finish, strange.finish, good.finish) == ("error", "error", "length")
    assert isinstance(failed[bad], RuntimeError)
    assert isinstance(failed[strange], GGUFError)
    assert len(good.produced) == 3
    scheduler.forget()


def test_requests_that_cannot_be(session: Text) -> None:
    scheduler = Scheduler(session.engine)
    for prompt, message in (([], "empty"), ([320], "vocabulary"), ([1] * (N_CTX + 1), "shorten")):
        with pytest.raises(GGUFError, match=message):
            scheduler.submit(greedy(prompt, 1))
    assert scheduler.idle
    assert scheduler.step() == []


# -- around a fake engine ----------------------------------------------------------------------------------


def fake(**options: Any) -> tuple[Any, Scheduler]:
    engine: Any = FakeEngine(**options)
    return engine, Scheduler(engine)


def test_logits_of_a_prompt_are_taken_as_it_is_read() -> None:
    _, scheduler = fake(n_batch=4)
    rows: list[tuple[int, list[int]]] = []
    scheduler.submit(Request(list(range(10)), take=lambda at, logits: rows.append((at, logits.argmax(1).tolist()))))
    (end,) = run(scheduler)
    assert end.request.finish == "read"
    assert rows == [(0, [1, 2, 3, 4]), (4, [5, 6, 7, 8]), (8, [9, 10])]


def test_what_is_decoded_comes_before_prompts() -> None:
    engine, scheduler = fake(n_batch=4, n_parallel=2)
    first = scheduler.submit(greedy([1], 5))
    scheduler.step()
    scheduler.submit(greedy(list(range(10, 20)), 1))
    run(scheduler)
    assert first.produced == [2, 3, 4, 5, 6]
    assert [[count for _, count, _ in step] for step in engine.steps[:4]] == [[1], [1, 3], [1, 3], [1, 3]]


def test_the_place_of_an_ended_text_is_taken_over_or_forked() -> None:
    engine, scheduler = fake(n_parallel=2)
    for prompt in ([1, 2, 3], [1, 2, 3, 4, 5, 9]):  # goes on where the first ended
        scheduler.submit(greedy(prompt, 3))
        run(scheduler)
    assert engine.log == [[1, 2, 3], [4], [5], [9], [10], [11]]
    assert len(engine.sequences) == 1
    scheduler.submit(greedy([1, 2, 7], 1))  # what follows may still be wanted: a fork
    run(scheduler)
    assert engine.log[-1] == [7]
    assert [s.held for s in engine.sequences] == [[1, 2, 3, 4, 5, 9, 10, 11], [1, 2, 7]]
    scheduler.submit(greedy([50, 51], 1))  # nothing in common: whoever was used longest ago goes
    run(scheduler)
    assert [s.held for s in engine.sequences if not s.closed] == [[1, 2, 7], [50, 51]]


def test_an_interrupt_loses_no_token_of_another() -> None:
    _, scheduler = fake(n_parallel=2)

    class Interrupted(Greedy):
        def __init__(self) -> None:
            self.calls = 0

        def sample(self, logits: Any) -> int:
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().sample(logits)

    other, mine = scheduler.submit(greedy([1], 6)), scheduler.submit(Request([31], Interrupted(), limit=6))
    events: list[Event] = []

    def steps() -> None:
        while not scheduler.idle:
            events.extend(scheduler.step())

    with pytest.raises(KeyboardInterrupt):
        steps()
    steps()
    for request, wanted in ((other, [2, 3, 4, 5, 6, 7]), (mine, [32, 33, 34, 35, 36, 37])):
        assert [e.token for e in events if isinstance(e, Token) and e.request is request] == wanted


class Telling:
    """A drafter and sampler that fail or are interrupted as they hear of the prompt, `times` times."""

    drafted = accepted = 0

    def __init__(self, error: BaseException, times: int) -> None:
        self.error, self.left, self.heard = error, times, list[int]()

    def _raise(self) -> None:
        if self.left:
            self.left -= 1
            raise self.error

    def begin(self, tokens: Any) -> None:
        self._raise()

    def draft(self, room: int) -> list[int]:
        return []

    def check(self, token: int) -> bool:
        return False

    def accept(self, token: int) -> None:
        if token == 3:
            self._raise()
        self.heard.append(token)

    def sample(self, logits: Any) -> int:
        return int(logits.argmax())


@pytest.mark.parametrize("part", ["sampler", "drafts"])
def test_an_interrupt_as_a_request_begins_leaves_it_waiting(part: str) -> None:
    _, scheduler = fake(n_parallel=2)
    telling = Telling(KeyboardInterrupt(), 1)
    request = Request([1, 2, 3, 4], Greedy(), limit=3)
    setattr(request, part, telling)
    scheduler.submit(request)
    with pytest.raises(KeyboardInterrupt):
        scheduler.step()
    run(scheduler)
    assert (request.produced, request.finish) == ([5, 6, 7], "length")
    assert telling.heard == ([1, 2, 3, 4, 5, 6, 7] if part == "sampler" else [])


def test_what_a_request_that_cannot_begin_has_taken_is_there_for_others() -> None:
    engine, scheduler = fake(n_parallel=2)
    for i in range(5):
        scheduler.submit(greedy([1, 2, 3, 4 + i], 2))
        run(scheduler)
        bad = Request([1, 2, 3, 4 + i, 9], Greedy(), drafts=Telling(RuntimeError("no"), 1), reuse="any")
        scheduler.submit(bad)
        assert [event.error.args for event in run(scheduler) if isinstance(event, Failed)] == [("no",)]
    assert set(scheduler._beginnings._known) >= set(scheduler._kept)
    scheduler.forget()
    assert [s.held for s in engine.sequences if not s.closed] == []


@pytest.mark.parametrize("n_parallel", [1, 2])
@pytest.mark.parametrize("count", [3, 7, 8, 11, 15, 22])
def test_a_shifted_text_that_is_withdrawn_goes_on(n_parallel: int, count: int) -> None:
    """Also when its context is full: it is read again as far as there is room, and then shifted."""
    _, scheduler = fake(n_ctx=8, n_parallel=n_parallel)
    request = scheduler.submit(greedy([1, 2, 3], 40, keep=1))
    while len(request.produced) < count:
        scheduler.step()
    scheduler.withdraw(request)
    for i in range(n_parallel):
        scheduler.submit(greedy([100 + i], 2))
    run(scheduler)
    assert (request.finish, request.produced) == ("length", list(range(4, 44)))


def test_what_is_decoded_behind_a_shift_is_not_read_in_bulk() -> None:
    engine, scheduler = fake(n_ctx=64)
    engine.reads_in_bulk = lambda count: count >= 17
    kinds: list[tuple[int, bool]] = []
    plain = engine.step

    def step(chunks: Any, out: Any = None) -> Any:
        kinds.extend((len(chunk.tokens), chunk.bulk) for chunk in chunks)
        return plain(chunks, out)

    engine.step = step
    request = scheduler.submit(greedy(list(range(60)), 40, keep=1))
    while len(request.produced) < 20:
        scheduler.step()
    scheduler.withdraw(request)  # and read again: what is left of the prompt's beginning in bulk, at most
    run(scheduler)
    assert kinds[0] == (60, True)
    assert not any(bulk for count, bulk in kinds if count == 1 and bulk)
    assert [kind for kind in kinds[1:] if kind[1]] in ([], [(1, True)])


def test_what_is_forgotten_is_not_taken_from_a_text_that_runs_either() -> None:
    engine, scheduler = fake(n_parallel=2)
    first = scheduler.submit(greedy([1, 2, 3], 9))
    scheduler.step()
    scheduler.forget()
    scheduler.submit(greedy([1, 2, 3, 9], 1, reuse="any"))
    run(scheduler)
    assert [1, 2, 3, 9] in engine.log
    assert first.produced == list(range(4, 13))


def test_events_that_were_not_told_are_told_after_an_interrupt() -> None:
    _, scheduler = fake()
    scheduler.submit(greedy([1], 2))
    scheduler.advance()
    scheduler.advance()
    assert [type(event) for event in scheduler.events] == [Token, Token, Finished]
    assert [type(event) for event in scheduler.step()] == [Token, Token, Finished]
    assert scheduler.idle


def test_logits_are_told_to_whoever_wants_them() -> None:
    """What the engine lends is overwritten by its next step."""
    _, scheduler = fake(n_parallel=2)
    requests = [scheduler.submit(greedy([1], 4)), scheduler.submit(greedy([31], 4, told=False))]
    events = [event for event in run(scheduler) if isinstance(event, Token)]
    told = [event for event in events if event.request is requests[0]]
    assert [int(event.logits.argmax()) for event in told if event.logits is not None] == [2, 3, 4, 5]
    assert [event.logits for event in events if event.request is requests[1]] == [None] * 4
