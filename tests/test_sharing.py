"""How prompts share a step: a short one waits for one step at most, and none for ever."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_fakes import FakeEngine

from ggufpy.runtime import scheduler as scheduling
from ggufpy.runtime.request import Request
from ggufpy.runtime.scheduler import Scheduler
from ggufpy.runtime.sharing import LEAST, OLDEST, Pace, Wish, shares

WISHES = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 300)).map(lambda both: Wish(both[0], max(both[0] - both[1], 1))),
    max_size=64,
)


class Greedy:
    """Takes the best token."""

    def accept(self, token: int) -> None:
        """Nothing depends on it."""

    def sample(self, logits: Any) -> int:
        return int(np.argmax(logits))


class Guessing:
    """A drafter that fills what room there is."""

    drafted = accepted = 0

    def begin(self, tokens: Any) -> None:
        """Any prompt will do."""

    def draft(self, room: int) -> list[int]:
        return [7] * min(room, 100)

    def check(self, token: int) -> bool:
        return False


def text(length: int, first: int = 0) -> list[int]:
    """A prompt that begins as no other with another `first` does."""
    return [first, *(i % 200 for i in range(length - 1))]


def loaded(n_parallel: int = 16, n_batch: int = 512) -> tuple[Any, Scheduler]:
    engine: Any = FakeEngine(n_ctx=100_000, n_batch=n_batch, n_parallel=n_parallel)
    return engine, Scheduler(engine)


def steps_until(scheduler: Scheduler, request: Request) -> int:
    """Steps until its first token."""
    for step in range(1, 1000):
        scheduler.step()
        if request.produced:
            return step
    raise AssertionError("the first token did not come")


@given(WISHES, st.integers(1, 600))
def test_all_room_is_used_and_the_oldest_has_its_part(wishes: list[Wish], room: int) -> None:
    counts = shares(wishes, room)
    assert len(counts) == len(wishes)
    assert all(0 <= count <= wish.most for count, wish in zip(counts, wishes, strict=True))
    assert sum(counts) == min(room, sum(wish.most for wish in wishes))
    assert not wishes or counts[0] >= min(wishes[0].most, room / OLDEST)


@given(WISHES, st.integers(1, 600))
def test_nobody_waits_for_whoever_has_more_left(wishes: list[Wish], room: int) -> None:
    """But for the part of the oldest."""
    counts = shares(wishes, room)
    for i, wish in enumerate(wishes):
        if counts[i] < wish.most:
            assert not any(counts[j] for j, other in enumerate(wishes) if j and other.left > wish.left)


@given(st.lists(st.integers(1, 512).map(lambda left: Wish(left, left)), max_size=64), st.integers(512, 600))
def test_texts_that_cannot_be_cut_are_whole_and_the_oldest_is_read(wishes: list[Wish], room: int) -> None:
    counts = shares(wishes, room, whole=True)
    assert sum(counts) <= room
    assert all(count in (0, wish.left) for count, wish in zip(counts, wishes, strict=True))
    assert not wishes or counts[0]


@pytest.mark.parametrize("before", [1, 3, 15])
def test_a_short_prompt_does_not_wait_for_long_ones(before: int) -> None:
    _, scheduler = loaded()
    longs = [scheduler.submit(Request(text(4000, 200 + i), Greedy(), limit=1)) for i in range(before)]
    scheduler.step()  # the step that runs as the short one comes
    short = scheduler.submit(Request(text(20, 199), Greedy(), limit=1))
    assert steps_until(scheduler, short) == 1
    assert not any(request.produced for request in longs)


def test_several_short_prompts_come_at_once() -> None:
    """As many as fit beside the part of the oldest."""
    _, scheduler = loaded()
    scheduler.submit(Request(text(4000), Greedy(), limit=1))
    scheduler.step()
    shorts = [scheduler.submit(Request(text(25, 100 + i), Greedy(), limit=1)) for i in range(15)]
    scheduler.step()
    assert all(short.produced for short in shorts)


def test_prompts_of_one_length_are_read_in_order_of_arrival() -> None:
    """Side by side the first would be through no sooner than the last."""
    _, scheduler = loaded(n_parallel=4)
    requests = [scheduler.submit(Request(text(512, 200 + i), Greedy(), limit=1)) for i in range(4)]
    assert [steps_until(scheduler, request) for request in requests] == [1, 1, 1, 1]


@pytest.mark.parametrize("before", [0, 2])
def test_a_long_prompt_gets_on_under_an_endless_stream_of_short_ones(before: int) -> None:
    """The bound: all tokens before it and its own, at a quarter of the room."""
    _, scheduler = loaded(n_parallel=16)
    for i in range(before):
        scheduler.submit(Request(text(4000, 200 + i), Greedy(), limit=1))
    long = scheduler.submit(Request(text(4000, 199), Greedy(), limit=1))
    dice = random.Random(1)
    waiting: list[Request] = []
    room = 512 - 16
    steps = 0
    while not long.produced and steps < 200:
        waiting = [request for request in waiting if not request.done]
        while len(waiting) < 13:  # always as many as there are places
            short = Request(text(dice.randint(100, 900), dice.randint(0, 190)), Greedy(), limit=1, reuse="none")
            waiting.append(scheduler.submit(short))
        scheduler.step()
        steps += 1
    assert 8 < steps <= OLDEST * 4000 * (before + 1) / room


def test_drafts_take_no_room_from_prompts() -> None:
    engine, scheduler = loaded(n_parallel=8, n_batch=64)
    writing = [scheduler.submit(Request(text(5, 200 + i), Greedy(), limit=50, drafts=Guessing())) for i in range(4)]
    scheduler.step()
    scheduler.step()
    assert sum(count for _, count, _ in engine.steps[-1]) == 64  # drafts fill a step that has no prompt
    prompt = scheduler.submit(Request(text(120), Greedy(), limit=1))
    assert steps_until(scheduler, prompt) == 2
    assert [sorted(count for _, count, _ in step) for step in engine.steps[-2:]] == [[1] * 4 + [60]] * 2
    assert len({len(request.produced) for request in writing}) == 1


def test_every_text_is_written_in_every_step() -> None:
    """Also where a step has no more rows than there are places."""
    _, scheduler = loaded(n_parallel=8, n_batch=8)
    writing = [scheduler.submit(Request(text(3, 200 + i), Greedy(), limit=90)) for i in range(5)]
    while not all(request.produced for request in writing):
        scheduler.step()
    long = scheduler.submit(Request(text(30, 100), Greedy(), limit=1))
    before = [len(request.produced) for request in writing]
    assert steps_until(scheduler, long) == 10
    assert [len(request.produced) for request in writing] == [count + 10 for count in before]


def test_a_prompt_keeps_texts_that_are_written_waiting_for_a_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 10 ms a row and 0.2 s for all else half a second is 30 rows. While nobody writes a step has what it can."""
    engine, _ = loaded(n_parallel=4)
    engine.prompt_seconds = 0.5
    scheduler, now = Scheduler(engine), [0.0]
    monkeypatch.setattr(scheduling, "monotonic", lambda: now[0])
    plain = engine.step

    def step(chunks: Any, out: Any = None) -> Any:
        now[0] += 0.2 + 0.01 * sum(len(chunk.tokens) for chunk in chunks)
        return plain(chunks, out)

    engine.step = step
    writing = scheduler.submit(Request(text(600, 200), Greedy(), limit=90))
    assert steps_until(scheduler, writing) == 2
    long = scheduler.submit(Request(text(2000, 201), Greedy(), limit=1))
    begun, times, sizes = len(writing.produced), [], []
    while not long.produced:
        before = now[0]
        scheduler.step()
        times.append(now[0] - before)
        sizes.append(sum(count for _, count, _ in engine.steps[-1]) - 1)
    assert len(writing.produced) == begun + len(times)
    assert max(times[5:]) < 0.55
    assert set(sizes[10:-1]) <= {28, 29, 30}
    while not writing.done:
        scheduler.step()
    alone = scheduler.submit(Request(text(1000, 202), Greedy(), limit=1))
    assert steps_until(scheduler, alone) == 2


def test_a_pace_recovers_from_a_step_that_stood_still() -> None:
    pace = Pace(1.0)
    assert pace.rows is None
    pace.note(LEAST - 1, 9.0)
    assert pace.rows is None
    pace.note(100, 1.0)
    assert pace.rows == 100
    pace.note(100, 3600.0)
    assert pace.rows == LEAST
    for _ in range(20):
        pace.note(LEAST, 0.01 * LEAST)
    assert 95 <= (pace.rows or 0) <= 100
    unbounded = Pace(0.0)
    unbounded.note(100, 3600.0)
    assert unbounded.rows is None
