"""Calls of several threads on one model: side by side or in turn, each with the text that it has alone."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from llm_fakes import VOCAB, fake_llama, vague

import ggufpy
from ggufpy.generate import boxes, loop
from ggufpy.llm import Llama

HELLO = [{"role": "user", "content": "hello"}]
LATER = "efghijklmnopqrstuvwxyz"

CALLS: dict[str, Callable[[Llama], object]] = {
    "eval": lambda llm: llm.eval([1]),
    "reset": lambda llm: llm.reset(),
    "logits": lambda llm: llm.logits([1]),
    "generate": lambda llm: next(llm.generate([1], temp=0.0)),
    "call": lambda llm: llm("b", max_tokens=1),
    "create_completion": lambda llm: llm.create_completion("b", max_tokens=1),
    "stream": lambda llm: next(iter(llm("b", max_tokens=1, stream=True))),
    "create_chat_completion": lambda llm: llm.create_chat_completion(HELLO, max_tokens=1),
}


def in_thread(work: Callable[[], object]) -> BaseException | None:
    """What `work` raises in another thread."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return raised[0] if raised else None


def text_of(llm: Llama, prompt: str, count: int = 20) -> str:
    text: str = llm(prompt, max_tokens=count, temperature=0.0)["choices"][0]["text"]
    return text


@contextmanager
def at_work(llm: Llama, out: list[Any]) -> Iterator[threading.Event]:
    """A completion of another thread that stands still within its third step, until the event is set."""
    engine: Any = llm.engine
    inside, go_on, steps = threading.Event(), threading.Event(), []

    def stop_once() -> None:
        steps.append(1)
        if len(steps) == 3:
            inside.set()
            assert go_on.wait(30)

    def work() -> None:
        try:
            out.append(text_of(llm, "a"))
        except Exception as error:
            out.append(error)

    engine.before = stop_once
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(30)
    try:
        yield go_on
    finally:
        go_on.set()
        thread.join()


@pytest.mark.parametrize("n_parallel", [1, 2])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_waits_for_the_step_of_another_thread_and_both_have_their_text(
    call: Callable[[Llama], object], n_parallel: int
) -> None:
    llm, out = fake_llama(n_parallel=n_parallel), []
    other = threading.Thread(target=lambda: out.append(call(llm)))
    with at_work(llm, out) as go_on:
        other.start()
        other.join(0.2)
        assert not out
        go_on.set()
    other.join(30)
    assert "bcdefghijklmnopqrstu" in [one for one in out if isinstance(one, str)]
    assert len(out) == 2
    llm.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_between_two_tokens_other_calls_have_their_turn(
    call: Callable[[Llama], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that stands still for a while gives its place away, and goes on as if nothing had been."""
    monkeypatch.setattr(loop, "PATIENCE", 0.01)
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    assert [next(generation), next(generation), next(generation)] == [98, 99, 100]
    assert in_thread(lambda: call(llm)) is None
    assert "".join(map(chr, generation)) == LATER
    generation = llm.generate([97], temp=0.0)
    assert [next(generation), next(generation), next(generation)] == [98, 99, 100]
    call(llm)  # within the thread there is nothing to wait for
    assert "".join(map(chr, generation)) == LATER


def test_a_text_that_goes_on_keeps_its_place() -> None:
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    next(generation)
    out: list[str] = []
    other = threading.Thread(target=lambda: out.append(text_of(llm, "q", 3)))
    other.start()
    assert "".join(map(chr, generation)) == "cdefghijklmnopqrstuvwxyz"
    other.join(30)
    assert out == ["rst"]
    assert [len(step) for step in llm.engine.steps] == [1] * len(llm.engine.steps)
    assert sum(map(len, llm.engine.log)) == 26 + 4  # no text is read twice


def test_threads_are_evaluated_together() -> None:
    llm = fake_llama(rows=vague, n_parallel=4)
    prompts = ["one", "two", "three", "four", "five", "six"]
    alone = {prompt: text_of(fake_llama(rows=vague), prompt, 30) for prompt in prompts}
    found: dict[str, str] = {}
    all_there = threading.Event()

    def wait_for_all() -> None:
        while len(llm.loop._boxes) < len(prompts) and not all_there.wait(0.01):
            pass
        all_there.set()

    llm.engine.before = wait_for_all  # type: ignore[attr-defined]

    def work(prompt: str) -> None:
        found[prompt] = text_of(llm, prompt, 30)

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == alone
    assert max(len(step) for step in llm.engine.steps) == 4


def test_what_fails_ends_its_own_call_alone() -> None:
    llm, out = fake_llama(n_parallel=2), []

    def fail(logits: Any) -> int:
        raise RuntimeError("no")

    with at_work(llm, out) as go_on:
        bad = llm.generate([100], temp=0.0)
        assert bad.request.sampler is not None
        bad.request.sampler.sample = fail  # type: ignore[method-assign]
        raised: list[BaseException | None] = []
        other = threading.Thread(target=lambda: raised.append(in_thread(lambda: next(bad))))
        other.start()
        go_on.set()
        other.join(30)
    assert out == ["bcdefghijklmnopqrstu"]
    assert isinstance(raised[0], RuntimeError)
    assert (bad.finish, list(bad)) == ("error", [])
    assert text_of(llm, "a", 3) == "bcd"


def test_a_step_that_fails_is_made_for_each_alone() -> None:
    llm = fake_llama(n_parallel=2)
    engine: Any = llm.engine
    plain = engine._evaluate

    def evaluate(chunk: Any) -> Any:
        if 100 in chunk.tokens:
            raise ggufpy.GGUFError("not this one")
        return plain(chunk)

    engine._evaluate = evaluate
    out: list[str] = []
    with at_work(llm, out) as go_on:
        raised: list[BaseException | None] = []
        other = threading.Thread(target=lambda: raised.append(in_thread(lambda: text_of(llm, "dd"))))
        other.start()
        go_on.set()
        other.join(30)
    assert isinstance(raised[0], ggufpy.GGUFError)
    assert out == [] or isinstance(out[0], ggufpy.GGUFError)  # its own text comes to a "d" too
    assert text_of(llm, "e", 3) == "fgh"


def test_places_are_free_once_a_text_is_over() -> None:
    llm = fake_llama()
    for end in (lambda g: list(g), lambda g: g.close()):
        generation = llm.generate([120], temp=0.0)
        next(generation)
        end(generation)
        assert list(generation) == []
        assert in_thread(lambda: llm("b", max_tokens=1)) is None
    stream = iter(llm("a", stream=True))
    next(stream)
    stream.close()
    assert in_thread(lambda: llm("b", max_tokens=1)) is None
    dropped = llm.generate([97], temp=0.0)
    next(dropped)
    del dropped
    gc.collect()
    assert in_thread(lambda: llm("b", max_tokens=1)) is None
    assert not llm.loop._boxes


def test_a_text_that_another_thread_closes_ends() -> None:
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    inside, go_on = threading.Event(), threading.Event()

    def stand_still() -> None:
        inside.set()
        assert go_on.wait(30)

    llm.engine.before = stand_still  # type: ignore[attr-defined]
    found: list[list[int]] = []
    taking = threading.Thread(target=lambda: found.append(list(generation)))
    taking.start()
    assert inside.wait(30)
    generation.close()
    go_on.set()
    taking.join(30)
    assert not taking.is_alive()
    assert len(found) == 1


def test_a_thread_that_is_gone_keeps_nothing() -> None:
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    assert in_thread(lambda: next(generation)) is None
    assert text_of(llm, "b", 1) == "c"
    assert next(generation) == 99


def test_a_generation_may_go_on_in_another_thread() -> None:
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    got = [next(generation)]
    assert in_thread(lambda: got.append(next(generation))) is None
    assert [*got, next(generation)] == [98, 99, 100]


def test_nobody_runs_far_ahead_of_whoever_takes_the_tokens() -> None:
    llm = fake_llama(n_parallel=2)
    slow = llm.generate([97], temp=0.0)
    next(slow)
    assert len(text_of(llm, "a", 20)) == 20
    assert llm.loop._boxes[slow.request].events.maxlen is None
    assert len(slow.request.produced) == 1 + boxes.AHEAD
    assert "".join(map(chr, slow)) == "cdefghijklmnopqrstuvwxyz"


WRONG: dict[str, Callable[[Llama], object]] = {
    "eval what is no token": lambda llm: llm.eval([1, VOCAB]),
    "eval too many": lambda llm: llm.eval([1] * 64),
    "eval None": lambda llm: llm.eval(None),  # type: ignore[arg-type]
    "logits of what is no token": lambda llm: llm.logits([1, -1]),
    "logits of too many": lambda llm: llm.logits([1] * 65),
    "generate from too many": lambda llm: next(llm.generate([1] * 65)),
    "generate from nothing": lambda llm: next(llm.generate([])),
    "generate from nothing, shifting": lambda llm: next(llm.generate([], context_shift=True)),
    "a limit of none": lambda llm: next(llm.generate([1], limit=0)),
    "generate from what is no token": lambda llm: next(llm.generate([VOCAB])),
    "a prompt too long": lambda llm: llm("b" * 64),
    "a stream too long": lambda llm: llm("b" * 64, stream=True),
    "a prompt that is none": lambda llm: llm(5),  # type: ignore[arg-type]
    "an option": lambda llm: llm("b", temperature="hot"),
    "an unknown option": lambda llm: llm("b", hot=1),
    "a bias": lambda llm: llm("b", logit_bias={VOCAB: 1.0}),
    "a limit": lambda llm: llm("b", max_tokens="5"),  # type: ignore[arg-type]
    "a stop": lambda llm: llm("b", stop=[""]),
    "a model name": lambda llm: llm("b", model=5),
    "messages": lambda llm: llm.create_chat_completion([{"role": "user", "content": "b" * 64}]),
    "too many alternatives": lambda llm: llm.create_chat_completion(HELLO, logprobs=True, top_logprobs=VOCAB + 1),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_call_leaves_a_generation_and_the_seeds_as_they_were(call: Callable[[Llama], object]) -> None:
    llm, other = fake_llama(seed=7), fake_llama(seed=7)
    generation = llm.generate([97], temp=0.0, seed=1)
    assert next(generation) == 98
    held = list(llm.engine.held)
    with pytest.raises((ggufpy.GGUFError, TypeError)):
        call(llm)
    assert llm.engine.held == held
    assert next(generation) == 99
    assert llm.sampling().seed == other.sampling().seed


def test_tokens_that_nobody_has_taken_are_not_counted() -> None:
    llm = fake_llama(n_parallel=2)
    other, generation = llm.generate([65], temp=0.0), llm.generate([97], temp=0.0)
    assert [next(other), next(generation)] == [66, 98]
    assert [next(other) for _ in range(5)] == [67, 68, 69, 70, 71]  # the other text is ahead of its taker by now
    assert len(generation.request.produced) > 1
    assert llm.n_tokens == 2
    llm.eval([110])
    assert llm.n_tokens == 3
    assert llm.engine.log[-1] == [110]
    assert "".join(map(chr, generation)) == "cdefghijklmnopqrstuvwxyz"


def test_an_interrupt_between_a_step_and_its_tokens_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    assert next(generation) == 98
    plain = llm.loop._scheduler.advance

    def advance() -> None:
        plain()
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(llm.loop._scheduler, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        next(generation)
    assert "".join(map(chr, generation)) == "cdefghijklmnopqrstuvwxyz"


def test_a_text_that_is_closed_while_its_tokens_are_given_out_disturbs_nobody() -> None:
    llm = fake_llama(n_parallel=2)
    going, closing = llm.generate([97], temp=0.0), llm.generate([65], temp=0.0)
    assert [next(going), next(closing)] == [98, 66]
    llm.engine.before = closing.close  # type: ignore[attr-defined]
    assert "".join(map(chr, going)) == "cdefghijklmnopqrstuvwxyz"
    assert list(closing) == []


def test_a_smaller_model_that_another_thread_uses_does_not_guess() -> None:
    small = fake_llama()
    big = fake_llama(draft_model=small)
    plain = text_of(big, "a", 12)
    generation = small.generate([97], temp=0.0)
    next(generation)
    got: list[Any] = []
    assert in_thread(lambda: got.append(text_of(big, "a", 12))) is None
    assert got[0] == plain == "bcdefghijklm"
    assert next(generation) == 99


def test_closing_ends_what_runs_with_an_error() -> None:
    llm, out = fake_llama(), []
    engine = llm.engine
    generation = llm.generate([97], temp=0.0)
    next(generation)
    with at_work(llm, out) as go_on:
        closing = threading.Thread(target=llm.close)
        closing.start()
        closing.join(0.1)
        assert not engine.closed  # within a step
        go_on.set()
        closing.join(30)
    llm.close()
    assert engine.closed
    assert isinstance(out[0], ggufpy.GGUFError)
    assert "this model is closed" in str(out[0])
    with pytest.raises(ggufpy.GGUFError, match="this model is closed"):
        next(generation)
