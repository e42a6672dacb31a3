"""Calls that are refused, because another thread has the context or for what they ask: they change nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from llm_fakes import VOCAB, FakeSession, fake_llama

import ggufpy
from ggufpy.generate.ownership import BusyError
from ggufpy.llm import Llama

HELLO = [{"role": "user", "content": "hello"}]
AT_WORK = "at work for another thread"

CALLS: dict[str, Callable[[Llama], object]] = {
    "eval": lambda llm: llm.eval([1]),
    "reset": lambda llm: llm.reset(),
    "logits": lambda llm: llm.logits([1]),
    "generate": lambda llm: next(llm.generate([1], temp=0.0)),
    "call": lambda llm: llm("b", max_tokens=1),
    "create_completion": lambda llm: llm.create_completion("b", max_tokens=1),
    "stream": lambda llm: next(iter(llm("b", max_tokens=1, stream=True))),
    "create_chat_completion": lambda llm: llm.create_chat_completion(HELLO, max_tokens=1),
    "close": lambda llm: llm.close(),
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
    thread.join()
    return raised[0] if raised else None


@contextmanager
def at_work(llm: Llama, out: list[Any]) -> Iterator[None]:
    """A completion of another thread that stands still within its third step; it goes on when the block ends."""
    session: Any = llm.session
    inside, go_on = threading.Event(), threading.Event()
    evaluate = session.eval

    def stop_once(tokens: list[int]) -> None:
        if len(session.log) == 2:
            inside.set()
            assert go_on.wait(30)
        evaluate(tokens)

    session.eval = stop_once
    thread = threading.Thread(target=lambda: out.append(llm("a", max_tokens=20, temperature=0.0)))
    thread.start()
    assert inside.wait(30)
    try:
        yield
    finally:
        go_on.set()
        thread.join()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_second_thread_is_refused_and_the_first_gives_all_its_tokens(call: Callable[[Llama], object]) -> None:
    llm, out = fake_llama(), []
    with at_work(llm, out), pytest.raises(BusyError, match=AT_WORK):
        call(llm)
    assert out[0]["choices"][0]["text"] == "bcdefghijklmnopqrstu"
    assert llm.session.n_past == 21
    llm.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_between_two_tokens_a_call_of_another_thread_is_refused_too(call: Callable[[Llama], object]) -> None:
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    assert [next(generation), next(generation)] == [98, 99]
    held = list(llm.session.held)
    raised = in_thread(lambda: call(llm))
    if call is CALLS["close"]:  # nothing is in use: it may be closed
        assert raised is None
        with pytest.raises(ggufpy.GGUFError, match="this model is closed"):
            next(generation)
        return
    assert isinstance(raised, BusyError)
    assert AT_WORK in str(raised)
    assert llm.session.held == held
    assert next(generation) == 100


def test_the_context_is_free_once_a_generation_is_over() -> None:
    llm = fake_llama()
    for end in (lambda g: list(g), lambda g: g.close()):
        generation = llm.generate([120], temp=0.0)
        next(generation)
        end(generation)
        assert list(generation) == []
        assert in_thread(lambda: llm("b", max_tokens=1)) is None
    stream = iter(llm("a", stream=True))
    next(stream)
    assert isinstance(in_thread(lambda: llm("b", max_tokens=1)), BusyError)
    stream.close()
    assert in_thread(lambda: llm("b", max_tokens=1)) is None
    dropped = llm.generate([97], temp=0.0)
    next(dropped)
    del dropped
    assert in_thread(lambda: llm("b", max_tokens=1)) is None


def test_a_thread_that_is_gone_keeps_nothing() -> None:
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    assert in_thread(lambda: next(generation)) is None
    assert llm("b", max_tokens=1, temperature=0.0)["choices"][0]["text"] == "c"
    with pytest.raises(ggufpy.GGUFError, match="another call took over"):
        next(generation)


def test_a_generation_may_go_on_in_another_thread() -> None:
    llm = fake_llama()
    generation = llm.generate([97], temp=0.0)
    got = [next(generation)]
    assert in_thread(lambda: got.append(next(generation))) is None
    assert [*got, next(generation)] == [98, 99, 100]


def test_within_one_thread_a_new_call_takes_over() -> None:
    llm = fake_llama()
    for call in (CALLS["eval"], CALLS["reset"], CALLS["logits"], CALLS["call"], CALLS["stream"]):
        generation = llm.generate([97], temp=0.0)
        next(generation)
        call(llm)
        with pytest.raises(ggufpy.GGUFError, match="another call took over"):
            next(generation)
        assert in_thread(llm.reset) is None  # what cannot go on keeps nothing


WRONG: dict[str, Callable[[Llama], object]] = {
    "eval what is no token": lambda llm: llm.eval([1, VOCAB]),
    "eval too many": lambda llm: llm.eval([1] * 64),
    "eval None": lambda llm: llm.eval(None),  # type: ignore[arg-type]
    "logits of what is no token": lambda llm: llm.logits([1, -1]),
    "logits of too many": lambda llm: llm.logits([1] * 65),
    "generate from too many": lambda llm: next(llm.generate([1] * 65)),
    "generate from nothing": lambda llm: next(llm.generate([])),
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
    held = list(llm.session.held)
    with pytest.raises((ggufpy.GGUFError, TypeError)):
        call(llm)
    assert llm.session.held == held
    assert next(generation) == 99
    assert llm.sampling().seed == other.sampling().seed


def test_a_smaller_model_that_another_thread_uses_does_not_guess() -> None:
    small = fake_llama()
    big = fake_llama(draft_model=small)
    plain = big("a", max_tokens=12, temperature=0.0)["choices"][0]["text"]
    generation = small.generate([97], temp=0.0)
    next(generation)
    got: list[Any] = []
    assert in_thread(lambda: got.append(big("a", max_tokens=12, temperature=0.0))) is None
    assert got[0]["choices"][0]["text"] == plain == "bcdefghijklm"
    assert next(generation) == 99


def test_closing_is_refused_as_a_whole() -> None:
    llm, out = fake_llama(), []
    session = llm.session
    assert isinstance(session, FakeSession)
    with at_work(llm, out):
        with pytest.raises(BusyError):
            llm.close()
        assert not session.closed
    llm.close()
    llm.close()
    assert session.closed
