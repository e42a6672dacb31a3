"""Drafts by functions of the caller, and models that are pickled and copied by their path."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import write_model
from llm_fakes import fake_llama
from test_stateful import TOKENS, written

from ggufpy import GGUFError, Llama
from ggufpy.generate.draft_functions import FunctionDrafter, LlamaDraftModel, LlamaPromptLookupDecoding, drafter_of
from ggufpy.generate.drafters import PromptLookup


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf", {"context_length": 256})


class Counting(LlamaDraftModel):
    """Guesses that each token is one more than the last; remembers what it was asked."""

    def __init__(self, count: int = 5, last: Any = None) -> None:
        self.count, self.last = count, last
        self.asked: list[list[int]] = []

    def __call__(self, input_ids: Any, /, **kwargs: Any) -> Any:
        assert input_ids.dtype == np.intc
        self.asked.append(input_ids.tolist())
        return self.last if self.last is not None else input_ids[-1] + np.arange(1, self.count + 1)


def test_a_function_guesses_and_the_text_is_the_same() -> None:
    expected = written(fake_llama(), [97], 12)
    draft = Counting()
    llm = fake_llama(draft_model=draft)
    stream = llm.generate([97], temp=0.0, limit=12)
    assert list(stream) == expected
    assert stream.accepted == stream.drafted > 4
    assert draft.asked[0] == [97, 98]
    assert all(asked == list(range(97, 97 + len(asked))) for asked in draft.asked)
    assert len(draft.asked) < 8


@pytest.mark.parametrize("empty", [[], np.array([], np.intc), ()])
def test_no_guess_is_an_answer(empty: Any) -> None:
    llm = fake_llama(draft_model=Counting(last=empty))
    stream = llm.generate([97], temp=0.0, limit=5)
    assert list(stream) == [98, 99, 100, 101, 102]
    assert stream.drafted == 0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [(np.array([1.5]), "whole numbers"), ([10**6], "not in the vocabulary"), ([-1], "not in the vocabulary"),
     ("ab", "is 'ab'"), (5, "Counting's draft is 5")],
)  # fmt: skip
def test_guesses_that_are_none_are_named(wrong: Any, why: str) -> None:
    llm = fake_llama(draft_model=Counting(last=wrong))
    with pytest.raises(GGUFError, match=why):
        list(llm.generate([97], temp=0.0, limit=5))
    drafter = FunctionDrafter(lambda ids: None, 9)  # type: ignore[arg-type]
    drafter.begin([1])
    with pytest.raises(GGUFError, match="draft is None"):
        drafter.propose(3)


def test_a_drafter_has_the_whole_text() -> None:
    seen: list[list[int]] = []
    drafter = FunctionDrafter(lambda ids: seen.append(ids.tolist()) or [1, 2, 3], 9)  # type: ignore[arg-type,func-returns-value]
    for tokens in ([4] * 300, [5, 6]):
        drafter.begin(tokens)
        text = [*tokens]
        for token in range(8):
            assert drafter.propose(2) == [1, 2]
            assert seen.pop() == text
            drafter.add(token)
            text.append(token)
    drafter.begin([3])
    for _ in range(600):
        drafter.add(3)
    drafter.propose(1)
    assert seen.pop() == [3] * 601


@pytest.mark.parametrize(
    ("ids", "longest", "count", "expected"),
    [
        ([1, 2, 3, 1, 2, 3, 1, 2, 3], 3, 2, [1, 2]),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 3, 2, []),
        ([7, 1, 2, 9, 9, 1, 2], 2, 10, [9, 9, 1, 2]),
        ([1, 5, 2, 1, 6, 1], 2, 1, [5]),
        ([4, 4], 3, 5, [4]),
        ([1], 3, 5, []),
        ([], 3, 5, []),
    ],
)
def test_what_followed_the_end_before(ids: list[int], longest: int, count: int, expected: list[int]) -> None:
    found = LlamaPromptLookupDecoding.find_candidate_pred_tokens(np.array(ids, np.intc), longest, count)
    assert found.tolist() == expected
    assert LlamaPromptLookupDecoding(longest, count)(np.array(ids, np.intc)).tolist() == expected


def test_prompt_lookup_has_its_own_index() -> None:
    drafter = drafter_of(LlamaPromptLookupDecoding(max_ngram_size=3, num_pred_tokens=4), 300)
    assert isinstance(drafter, PromptLookup)
    drafter.begin([1, 2, 3, 4, 5, 6, 1, 2])
    assert drafter.propose(10) == [3, 4, 5, 6]
    llm = fake_llama(draft_model=LlamaPromptLookupDecoding())
    stream = llm.generate([*range(97, 110), 97, 98], temp=0.0, limit=8)
    assert list(stream) == list(range(99, 107))
    assert stream.accepted > 0

    class Own(LlamaPromptLookupDecoding):
        """Whatever else it does, it is asked."""

    assert isinstance(drafter_of(Own(), 300), FunctionDrafter)
    with pytest.raises(GGUFError, match="max_ngram_size is 0"):
        LlamaPromptLookupDecoding(0)
    with pytest.raises(GGUFError, match="num_pred_tokens is 'a'"):
        LlamaPromptLookupDecoding(2, "a")  # type: ignore[arg-type]


def test_a_real_model_drafts_by_functions(path: Path) -> None:
    repeated = TOKENS[:20] * 3
    with Llama(path, n_threads=1) as plain:
        expected = written(plain, repeated, 12)
    for draft in (LlamaPromptLookupDecoding(2, 4), Counting(last=expected[3:6]), Counting(last=[1, 2])):
        with Llama(path, n_threads=1, draft_model=draft) as llm:
            assert written(llm, repeated, 12) == expected


# -- pickles --


def in_a_child(llm: Llama, tokens: list[int]) -> list[int]:
    with llm:
        return list(llm.generate(tokens, temp=1.0, limit=4))


def test_a_pickle_is_opened_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with Llama(path.name, 64, n_threads=1, seed=5, lookup=4) as llm:
        data = pickle.dumps(llm)
        expected = written(llm, TOKENS[:8], 4, temp=1.0)
    assert len(data) < 1000
    monkeypatch.chdir("/")
    with pickle.loads(data) as other:
        assert (other.n_ctx(), other._seed) == (64, 5)
        assert written(other, TOKENS[:8], 4, temp=1.0) == expected
        after = other._seed
        for again in (copy.copy(other), copy.deepcopy(other)):
            with again:
                assert again is not other
                assert again.engine is not other.engine
                assert (again.n_ctx(), again._seed) == (64, after)


def test_a_child_opens_its_own(path: Path) -> None:
    with Llama(path, n_threads=1, seed=6) as llm:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(in_a_child, (llm, TOKENS[:8]))
        assert found == list(llm.generate(TOKENS[:8], temp=1.0, limit=4))


def test_what_cannot_be_pickled_is_named(path: Path) -> None:
    class Local(Counting):
        """Not of a module's top level."""

    with Llama(path, n_threads=1, draft_model=Local()) as llm:
        with pytest.raises(GGUFError, match=r"cannot be pickled: draft_model is .*Local"):
            pickle.dumps(llm)
        with copy.copy(llm) as other:
            assert other.n_ctx() == llm.n_ctx()
    with pytest.raises(GGUFError, match="can be neither pickled nor copied"):
        pickle.dumps(fake_llama())
