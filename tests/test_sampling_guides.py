"""What beside options decides about a text: a grammar's mask, functions of the caller."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling import Guides, Sampler, Sampling

PLAIN = Sampling(temp=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.06, 0.04])).astype(np.float32)

# -- the hook of a grammar --


class Allowing:
    """A grammar whose masks come one after the other, the last again and again; what was drawn is in `heard`."""

    def __init__(self, *masks: np.ndarray[Any, Any]) -> None:
        self._masks, self.heard = list(masks), list[int]()

    def mask(self) -> np.ndarray[Any, Any]:
        return self._masks.pop(0) if len(self._masks) > 1 else self._masks[0]

    def accept(self, token: int) -> None:
        self.heard.append(token)


def words(n_vocab: int, *tokens: int) -> np.ndarray[Any, Any]:
    """A mask that allows `tokens`."""
    mask = np.zeros(-(-n_vocab // 32), np.uint32)
    for token in tokens:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


def by(*masks: np.ndarray[Any, Any]) -> Guides:
    return Guides(Allowing(*masks))


@pytest.mark.parametrize("change", [{}, {"temp": 0.0}, {"top_k": 3}, {"logit_bias": {2: 5.0}, "repeat_penalty": 1.2}])
def test_a_mask_leaves_what_a_grammar_allows(change: dict[str, Any]) -> None:
    logits = np.arange(70, 0, -1).astype(np.float32) / 50
    sampler = Sampler(replace(PLAIN, **change), 70, 69, by(words(70, 31, 33, 64, 69)))
    sampler.accept(33)
    found = {sampler.sample(logits) for _ in range(100)}
    assert found <= {31, 33, 64}  # 69 is padding
    assert found == ({31} if change == {"temp": 0.0} else {31, 33, 64})
    assert logits[0] == np.float32(1.4)


def test_a_mask_is_asked_for_every_token() -> None:
    sampler = Sampler(Sampling(temp=0.0), 5, guides=by(words(5, 1), words(5, 3), words(5, 2, 1)))
    assert [sampler.sample(LOGITS) for _ in range(3)] == [1, 3, 1]


def test_masks_that_cannot_be() -> None:
    with pytest.raises(GGUFError, match="the grammar allows no token"):
        Sampler(PLAIN, 5, guides=by(words(5))).sample(LOGITS)
    for wrong in (np.zeros(2, np.uint32), np.zeros(1, np.uint8), np.zeros((1, 1), np.uint32)):
        with pytest.raises(GGUFError, match=r"must be uint32 \(1,\)"):
            Sampler(PLAIN, 5, guides=by(wrong)).sample(LOGITS)


def test_a_grammar_hears_of_drawn_tokens_only() -> None:
    grammar = Allowing(words(5, 1, 2))
    sampler = Sampler(Sampling(temp=0.0), 5, guides=Guides(grammar))
    for token in (3, 4):  # the prompt
        sampler.accept(token)
    sampler.accept(sampler.sample(LOGITS))
    assert grammar.heard == [1]


# -- functions of the caller --


def test_processors_see_the_text_and_change_the_logits() -> None:
    seen: list[list[int]] = []

    def first(ids: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(ids.tolist())
        logits[4] += 100  # a copy: the caller's logits stay
        return logits

    def second(ids: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.where(logits > 90, -logits, logits)

    logits = LOGITS.copy()
    sampler = Sampler(Sampling(temp=0.0), 5, guides=Guides(processors=(first, second)))
    sampler.accept(3)
    best = sampler.sample(logits)
    sampler.accept(best)
    assert sampler.sample(logits) == best == int(LOGITS[:4].argmax())
    assert seen == [[3], [3, best]]
    assert np.array_equal(logits, LOGITS)
    with pytest.raises(GGUFError, match=r"a logits processor gave the shape \(3,\)"):
        Sampler(PLAIN, 5, guides=Guides(processors=(lambda ids, logits: logits[:3],))).sample(LOGITS)


@pytest.mark.parametrize("forbidden", [1, 30, 33, 60, 69])
def test_masks_of_few_and_of_many_tokens_leave_the_others(forbidden: int) -> None:
    logits = np.random.default_rng(forbidden).normal(size=70).astype(np.float32)
    tokens = np.random.default_rng(forbidden).permutation(70)[forbidden:]
    sampler = Sampler(PLAIN, 70, guides=by(words(70, *tokens.tolist())))
    left = sampler.adjusted(logits)
    assert np.flatnonzero(left > -np.inf).tolist() == sorted(tokens)
    assert np.array_equal(left[tokens], logits[tokens])


def test_ids_that_processors_keep_stay_as_they_were() -> None:
    kept: list[np.ndarray[Any, Any]] = []

    def keep(ids: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        kept.append(ids)
        return logits

    sampler = Sampler(PLAIN, 5, guides=Guides(processors=(keep,)))
    text = [i % 5 for i in range(600)]
    for token in text:
        sampler.accept(token)
        sampler.adjusted(LOGITS)
    assert all(ids.tolist() == text[: len(ids)] for ids in kept)
    assert len(kept[-1]) == 600
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0] = 3


def test_a_processor_keeps_the_logits_that_it_gave() -> None:
    """What it gives back may be its own array: steps change a copy."""
    own = LOGITS.copy()
    sampler = Sampler(replace(PLAIN, presence_penalty=3.0), 5, guides=Guides(processors=(lambda ids, logits: own,)))
    sampler.accept(2)
    assert sampler.adjusted(LOGITS)[2] == LOGITS[2] - 3
    assert np.array_equal(own, LOGITS)
