"""Drafts change nothing but the work done: the same tokens and logits, whatever guesses, in whatever context."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from llm_fakes import BOS, EOS, VOCAB, FakeSequence, fake_llama, parts, vague

import ggufpy
from ggufpy.generate.drafters import MOST_MISSES, DraftModel, PromptLookup, Speculation
from ggufpy.generate.loading import LoadOptions
from ggufpy.generate.loop import Stream
from ggufpy.generate.sampling import Sampler, Sampling
from ggufpy.llm import Llama
from ggufpy.runtime.request import Request


def ids(text: str) -> list[int]:
    return list(text.encode())


def cycle(held: Sequence[int]) -> np.ndarray:
    """After each letter the next of "abcde", but now and then, by position, a "j"."""
    row = np.zeros(VOCAB, np.float32)
    row[ord("j") if len(held) % 17 == 4 else 97 + (held[-1] - 96) % 5] = 12.0
    return row


class Scripted:
    """A drafter that proposes what it is given, and remembers what it was asked and told."""

    def __init__(self, *drafts: list[int]) -> None:
        self.drafts = list(drafts)
        self.asked: list[int] = []
        self.text: list[int] = []

    def begin(self, tokens: Sequence[int]) -> None:
        self.text = list(tokens)

    def add(self, token: int) -> None:
        self.text.append(token)

    def propose(self, most: int) -> list[int]:
        self.asked.append(most)
        return self.drafts.pop(0)[:most] if self.drafts else []


def generation(llm: Llama, text: str, drafter: Any, temp: float = 0.0) -> Stream:
    sampler, ends = Sampler(Sampling(temp=temp, seed=1), VOCAB), frozenset({EOS})
    drafts = Speculation(drafter, ends)
    return llm.loop.stream(Request(ids(text), sampler, ends=ends, drafts=drafts, reuse="any"))


# -- prompt lookup --


def looked_up(text: list[int], most: int, longest: int, shortest: int) -> list[int]:
    """What PromptLookup should propose, by looking everywhere."""
    for size in range(min(longest, len(text) - 1), shortest - 1, -1):
        for at in range(len(text) - 1, size - 1, -1):
            if text[at - size : at] == text[-size:]:
                out = list(text)
                for i in range(most):
                    out.append(out[at + i])
                return out[len(text) :]
    return []


@pytest.mark.parametrize(("longest", "shortest"), [(4, 2), (3, 3), (1, 1), (5, 1)])
def test_prompt_lookup_finds_the_latest_occurrence_of_the_longest_ngram(longest: int, shortest: int) -> None:
    random = np.random.default_rng(longest)
    found = 0
    for letters in (2, 4, 12):
        text = random.integers(0, letters, 150).tolist()
        start = int(random.integers(1, 60))
        drafter = PromptLookup(6, longest, shortest)
        drafter.begin(text[:start])
        for i in range(start, len(text)):
            for most in (2, 9):
                expected = looked_up(text[:i], min(most, 6), longest, shortest)
                assert drafter.propose(most) == expected
            found += bool(expected)
            drafter.add(text[i])
    assert found > 100


def test_prompt_lookup_goes_on_with_a_text_and_forgets_another() -> None:
    drafter = PromptLookup(3, shortest=2)
    drafter.begin(ids("one two three one t"))
    assert drafter.propose(9) == ids("wo ")
    drafter.begin(ids("one two three one trees, no w"))  # what a chat sends next: only the new part is indexed
    assert drafter.propose(9) == []
    drafter.add(ord("e"))
    assert drafter.propose(9) == []
    drafter.begin(ids("xyz, one t"))
    assert drafter.propose(9) == []
    drafter.begin(ids("aaa"))
    assert drafter.propose(9) == ids("aaa")  # a repetition goes on


def test_a_zero_token_is_a_token() -> None:
    drafter = PromptLookup(2, 3, 1)
    drafter.begin([0])
    assert drafter.propose(2) == []
    drafter.add(0)
    assert drafter.propose(2) == [0, 0]


@pytest.mark.parametrize("wrong", [(0,), (4, 1, 2), (4, 3, 0)])
def test_prompt_lookup_refuses_nonsense(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ggufpy.GGUFError, match="prompt lookup cannot"):
        PromptLookup(*wrong)


# -- the same text --

SAMPLINGS: list[dict[str, Any]] = [
    {"temp": 0.0},
    {"temp": 0.9, "seed": 3},
    {"temp": 0.3, "seed": 5, "top_k": 3},
    {"temp": 0.5, "seed": 8, "repeat_penalty": 1.3, "frequency_penalty": 0.2, "repeat_last_n": 6},
]


def story(llm: Llama, text: str, count: int, **options: Any) -> tuple[list[int], list[Any], str | None]:
    """Tokens, the logits behind them, and why they ended."""
    made = llm.generate(ids(text), **options)
    tokens, logits = [], []
    for token in itertools.islice(made, count):
        tokens.append(token)
        logits.append(made.logits)
    return tokens, logits, made.finish


@pytest.mark.parametrize("rows", [vague, cycle])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("n_ctx", [40, 200])
@pytest.mark.parametrize("drafter", ["lookup", "same model", "other model", "small context"])
def test_drafts_change_nothing(rows: Any, sampling: dict[str, Any], n_ctx: int, drafter: str) -> None:
    plain = story(fake_llama(rows=rows, n_ctx=n_ctx), "abcab", 120, **sampling)
    drafts: dict[str, Any] = {
        "lookup": {"lookup": 7},
        "same model": {"draft_model": fake_llama(rows=lambda held: 9 * rows(held), n_ctx=n_ctx), "draft_max": 5},
        "other model": {"draft_model": fake_llama(rows=lambda held: 9 * vague(held[-1:]), n_ctx=n_ctx)},
        "small context": {"draft_model": fake_llama(rows=cycle, n_ctx=24)},
    }
    llm = fake_llama(rows=rows, n_ctx=n_ctx, **drafts[drafter])
    drafted = story(llm, "abcab", 120, **sampling)
    assert drafted[0] == plain[0]
    assert np.array_equal(drafted[1], plain[1])
    assert drafted[2] == plain[2]
    assert plain[2] == ("length" if n_ctx == 40 else None)
    assert 2 <= max(map(len, llm.engine.drafts)) <= 17
    if drafter == "same model" and sampling["temp"] == 0:
        assert len(llm.engine.log) < 0.6 * len(plain[0])


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("keep", [0, 3, -1])
def test_drafts_change_nothing_where_the_context_shifts(sampling: dict[str, Any], keep: int) -> None:
    options = {**sampling, "context_shift": True, "keep": keep}
    plain = fake_llama(rows=vague, n_ctx=24)
    expected = story(plain, "abcab", 150, **options)
    assert len(expected[0]) == 150
    assert len(plain.engine.shifts) > 5
    for drafts in ({"lookup": 6}, {"draft_model": fake_llama(rows=vague, n_ctx=24)}):
        llm = fake_llama(rows=vague, n_ctx=24, **drafts)
        assert story(llm, "abcab", 150, **options)[0] == expected[0]
        assert llm.engine.shifts == plain.engine.shifts
        assert llm.engine.drafts


def test_completions_take_drafts() -> None:
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0.7, "seed": 4, "logprobs": 2, "stop": ["hh"]}
    plain = fake_llama(rows=vague)("abab", **options)["choices"]
    assert fake_llama(rows=vague, lookup=8)("abab", **options)["choices"] == plain
    words = {**options, "stream": True}
    streamed = fake_llama(rows=vague, lookup=8)("abab", **words)
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == plain[0]["text"]


# -- verification --


def test_a_draft_is_checked_in_one_exact_step() -> None:
    llm = fake_llama()
    drafter = Scripted(ids("cdXY"), ids("f"), ids("z"))
    made = generation(llm, "a", drafter)
    assert next(made) == ord("b")
    assert [next(made) for _ in range(3)] == ids("cde")  # two guesses that came, and what came in place of the third
    engine = llm.engine
    assert engine.log == [ids("a"), ids("bcdXY")]
    assert (engine.held, llm.n_tokens) == (ids("abcd"), 4)  # wrong guesses are gone
    assert [next(made), next(made)] == ids("fg")
    assert engine.drafts == [ids("bcdXY"), ids("ef")]
    assert (made.drafted, made.accepted) == (5, 3)
    assert drafter.text == ids("abcdefg")
    assert [next(made), next(made)] == ids("hi")
    assert engine.drafts[2:] == [ids("gz")]
    assert engine.log[-1] == ids("h")  # nothing drafted: a plain step


def test_the_end_is_found_within_a_draft() -> None:
    llm = fake_llama()
    made = generation(llm, "w", Scripted(ids("yzab")))
    assert list(made) == ids("xyz")
    assert (made.finish, llm.engine.held) == ("stop", ids("wxyz"))
    llm.reset()
    drafter = Scripted([*ids("yz"), EOS, *ids("ab")])
    assert list(generation(llm, "w", drafter)) == ids("xyz")
    assert llm.engine.drafts[-1] == ids("xyz")  # nothing is evaluated from the end on


def test_no_more_is_drafted_than_is_wanted() -> None:
    llm = fake_llama()
    made = llm.generate(ids("a"), temp=0.0, limit=4)
    made.request.drafts = Speculation(Scripted(ids("cdefgh"), ids("cdefgh")))
    assert list(made) == ids("bcde")
    assert (made.finish, llm.engine.drafts) == ("length", [ids("bcd")])


def test_a_draft_fits_into_the_context() -> None:
    llm = fake_llama(n_ctx=6)
    drafter = Scripted(*[ids("XXXXX")] * 9)
    made = generation(llm, "abc", drafter)
    assert list(made) == ids("defg")
    assert made.finish == "length"
    assert drafter.asked[0] == 2  # room for three, one of them the newest token
    assert all(len(tokens) <= 6 for tokens in llm.engine.drafts)


def test_an_interrupt_within_a_draft_leaves_the_text() -> None:
    llm = fake_llama()
    made = generation(llm, "a", Scripted(ids("cde"), ids("cde"), ids("cde")))
    assert next(made) == ord("b")
    llm.engine.fail_after = 3
    with pytest.raises(KeyboardInterrupt):
        next(made)
    assert llm.engine.held == ids("a")
    llm.engine.fail_after = None
    assert [next(made) for _ in range(4)] == ids("cdef")
    assert llm.engine.held == ids("abcde")


def test_an_interrupted_prompt_is_begun_again() -> None:
    llm = fake_llama(n_batch=3)
    llm.engine.fail_after = 3
    made = llm.generate(ids("abcdef"), temp=0.0)
    with pytest.raises(KeyboardInterrupt):
        next(made)
    llm.engine.fail_after = None
    assert next(made) == ord("g")
    assert llm.engine.held == ids("abcdef")


# -- how much is drafted --


def drafted(hits: Sequence[int], size: int = 16) -> list[int]:
    """Lengths of drafts, 0 for steps without one, if so many tokens of each draft are accepted."""
    drafter = Scripted()
    drafter.propose = lambda most: [7] * min(most, size)  # type: ignore[method-assign]
    speculation, lengths = Speculation(drafter), []
    for right in hits:
        while not (draft := speculation.draft(1000)):
            lengths.append(0)
            speculation.check(1)
        lengths.append(len(draft))
        for _ in range(min(right, len(draft))):
            assert speculation.check(7)
        assert not speculation.check(1)
    return lengths


def test_drafts_grow_with_what_is_accepted() -> None:
    assert drafted([99] * 5) == [4, 8, 16, 16, 16]
    assert drafted([99, 99, 5, 2, 99, 1, 99]) == [4, 8, 16, 6, 3, 6, 2]
    assert drafted([99, 99, 99], size=3) == [3, 3, 3]


def test_refused_drafts_become_rare() -> None:
    lengths = drafted([0] * 12)
    assert lengths[:8] == [4, 1, 0, 1, 0, 0, 0, 1]
    pauses = [len(list(group)) for zero, group in itertools.groupby(lengths, lambda n: n == 0) if zero]
    assert pauses == [1, 3, 7, 15] + [2 ** (MOST_MISSES - 1) - 1] * 6
    back = drafted([0] * 6 + [99] * 6)
    assert back[-6:] == [1, 2, 4, 8, 16, 16]


def test_a_useless_drafter_costs_little() -> None:
    drafter = Scripted(*[ids("!!!!")] * 400)
    llm = fake_llama(n_ctx=1000, rows=vague)
    made = generation(llm, "abc", drafter)
    assert len(list(itertools.islice(made, 400))) == 400
    assert made.accepted == 0
    assert made.drafted < 25


def test_no_drafter_drafts_nothing() -> None:
    speculation = Speculation(None)
    speculation.begin([1])
    assert speculation.draft(9) == []
    assert not speculation.check(1)


# -- draft models --


def test_a_draft_model_keeps_in_step() -> None:
    small = fake_llama(rows=lambda held: 9 * cycle(held))
    llm = fake_llama(rows=cycle, draft_model=small, draft_max=4)
    made = llm.generate(ids("abc"), temp=0.0)
    made.prefill()
    assert small.engine.log[0] == ids("abc")  # the prompt goes with the prompt
    text = [next(made) for _ in range(30)]
    assert made.accepted >= made.drafted - 4
    # every token is evaluated once: no text is read again
    assert sum(map(len, small.engine.log)) <= 3 + len(text) + 4
    small.eval(ids("x"))  # someone else uses it in between
    text += [next(made) for _ in range(10)]
    assert text == story(fake_llama(rows=cycle), "abc", 40, temp=0.0)[0]
    again = story(llm, "abcd", 5, temp=0.0)  # another text
    assert again[0] == story(fake_llama(rows=cycle), "abcd", 5, temp=0.0)[0]


def test_a_draft_model_with_a_short_context_leaves_out_the_middle() -> None:
    small = fake_llama(rows=lambda held: 9 * vague(held), n_ctx=16)
    llm = fake_llama(rows=vague, n_ctx=300, draft_model=small)
    made = llm.generate(ids("abcab" * 5), temp=0.0)
    made.prefill()
    assert small.engine.log[0] == ids("a" + ("abcab" * 5)[-8:])
    assert len(list(itertools.islice(made, 200))) == 200
    assert made.accepted > 0.9 * made.drafted > 50
    # every 8 tokens or so the text loses half of what it has, and 8 are read again
    assert sum(map(len, small.engine.log)) < 9 + 2.5 * 200


def test_a_draft_model_that_is_unsure_drafts_nothing() -> None:
    small = fake_llama(rows=lambda held: np.zeros(VOCAB, np.float32))
    llm = fake_llama(draft_model=small)
    made = llm.generate(ids("w"), temp=0.0)
    assert list(made) == ids("xyz")
    assert made.drafted == 0
    llm = fake_llama(draft_model=fake_llama(rows=lambda held: np.full(VOCAB, np.nan, np.float32)))
    assert list(llm.generate(ids("w"), temp=0.0)) == ids("xyz")
    llm = fake_llama(draft_model=fake_llama(n_ctx=1))
    assert list(llm.generate(ids("uvw"), temp=0.0)) == ids("xyz")


def test_padding_is_allowed_and_never_drafted() -> None:
    names = [str(i) for i in range(VOCAB)]
    small = parts(texts=names[:-3])
    small.engine.n_vocab = VOCAB - 3  # without 255, BOS and EOS
    draft = Llama.from_parts(small)
    llm = fake_llama(draft_model=draft)
    assert list(llm.generate([BOS, *ids("w")], temp=0.0)) == ids("xyz")
    assert draft.engine.log == []  # a token that it does not know
    padded = fake_llama(texts=[*names, *["pad"] * 9], rows=lambda held: np.eye(1, VOCAB + 9, VOCAB + 5)[0] * 20)
    padded.engine.n_vocab = VOCAB + 9
    llm = fake_llama(draft_model=padded)
    made = llm.generate(ids("w"), temp=0.0)
    assert list(made) == ids("xyz")
    assert made.drafted == 0


def test_a_draft_model_needs_the_same_vocabulary() -> None:
    names = [str(i) for i in range(VOCAB)]
    with pytest.raises(ggufpy.GGUFError, match=r"token 3 is 'other' in one and '3' in the other\)$"):
        fake_llama(draft_model=fake_llama(texts=[*names[:3], "other", *names[4:]]))
    with pytest.raises(ggufpy.GGUFError, match="one has 400 tokens, the other 258"):
        fake_llama(draft_model=fake_llama(texts=[str(i) for i in range(400)]))
    llm = fake_llama()
    with pytest.raises(ggufpy.GGUFError, match="cannot draft for itself"):
        DraftModel(llm, llm)
    with pytest.raises(ggufpy.GGUFError, match="draft_max must be at least 1"):
        DraftModel(fake_llama(), llm, 0)
    closed = fake_llama()
    closed.close()
    target = parts()
    with pytest.raises(ggufpy.GGUFError, match="closed"):
        Llama.from_parts(target, options=LoadOptions(draft_model=closed))
    assert target.engine.closed


def test_a_draft_model_of_the_callers_stays_open() -> None:
    small = fake_llama()
    with fake_llama(draft_model=small) as llm:
        assert list(llm.generate(ids("w"), temp=0.0)) == ids("xyz")
    assert not small.engine.closed


# -- shifting --


def test_a_full_context_shifts_and_goes_on() -> None:
    llm = fake_llama(n_ctx=8)
    made = llm.generate(ids("abc"), temp=0.0, context_shift=True, keep=2)
    assert list(made) == ids("defghijklmnopqrstuvwxyz")
    assert made.finish == "stop"
    assert set(llm.engine.shifts) == {(2, 3)}
    assert llm.engine.held[:2] == ids("ab")
    whole = llm.generate(ids("abcdefgh"), temp=0.0, context_shift=True, keep=-1)
    assert list(whole) == ids("i")  # everything is kept: the context ends as without shifting
    assert whole.finish == "length"


def test_what_a_shift_left_is_not_taken_for_a_fresh_text() -> None:
    llm = fake_llama(n_ctx=8, rows=vague)
    first = llm.generate(ids("abcdef"), temp=0.0, context_shift=True, keep=1)
    for _ in range(6):
        next(first)
    assert llm.engine.shifts
    held = list(llm.engine.held)
    llm.engine.log.clear()
    next(llm.generate(held, temp=0.0))
    assert llm.engine.log == [held[1:]]  # only what nothing was forgotten before
    llm.engine.log.clear()
    next(llm.generate([*held, ord("a")], temp=0.0))
    assert llm.engine.log == [ids("a")]  # fresh again


def test_a_shift_that_is_interrupted_leaves_a_text_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = fake_llama(n_ctx=4)
    made = llm.generate(ids("abc"), temp=0.0, context_shift=True)
    assert [next(made), next(made)] == ids("de")
    shift = FakeSequence.shift

    def fail(self: FakeSequence, keep: int, drop: int) -> None:
        del self.held[keep:]
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeSequence, "shift", fail)
    with pytest.raises(KeyboardInterrupt):
        next(made)
    monkeypatch.setattr(FakeSequence, "shift", shift)
    assert [next(made), next(made), next(made)] == ids("fgh")
    assert next(llm.generate(ids("abc"), temp=0.0)) == ord("d")
