"""Sampling: every option by what it leaves of a distribution, ties, seeds, and values that cannot be."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling import Sampler, Sampling

PLAIN = Sampling(temp=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
P = np.array([0.5, 0.25, 0.15, 0.06, 0.04])
LOGITS = np.log(P).astype(np.float32)


def drawn(sampling: Sampling, logits: np.ndarray[Any, Any] = LOGITS, n: int = 400) -> list[int]:
    sampler = Sampler(sampling, len(logits))
    return [sampler.sample(logits) for _ in range(n)]


def shares(
    sampling: Sampling, logits: np.ndarray[Any, Any] = LOGITS, n: int = 12_000
) -> np.ndarray[Any, Any]:
    return np.bincount(drawn(sampling, logits, n), minlength=len(logits)) / n


def test_defaults_are_those_of_llama_cpp() -> None:
    s = Sampling()
    assert (s.temp, s.top_k, s.top_p, s.min_p, s.typical) == (0.8, 40, 0.95, 0.05, 1.0)
    assert (s.repeat_penalty, s.repeat_last_n, s.presence_penalty, s.frequency_penalty) == (1.0, 64, 0.0, 0.0)
    assert (s.logit_bias, s.seed) == ((), None)
    with pytest.raises(FrozenInstanceError):
        s.temp = 1.0  # type: ignore[misc]
    assert hash(s) == hash(Sampling())


@pytest.mark.parametrize("change", [{"temp": 0.0}, {"temp": -1.0}, {"top_k": 1}])
def test_greedy_takes_the_first_of_equals(change: dict[str, Any]) -> None:
    logits = np.array([1, 7, 3, 7, 7], np.float32)
    assert set(drawn(replace(PLAIN, **change), logits, 20)) == {1}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=300), st.integers(0, 5))
def test_top_k_1_is_greedy(values: list[int], seed: int) -> None:
    logits = np.array(values, np.float32)
    greedy = Sampler(Sampling(temp=0.0), len(values)).sample(logits)
    assert greedy == values.index(max(values))
    assert Sampler(Sampling(top_k=1, seed=seed), len(values)).sample(logits) == greedy
    assert Sampler(Sampling(temp=1e-300, seed=seed), len(values)).sample(logits) in np.flatnonzero(
        logits == logits.max()
    )


def test_draws_follow_the_distribution() -> None:
    assert np.abs(shares(PLAIN) - P).max() < 0.02
    squared = P**2 / (P**2).sum()
    assert np.abs(shares(replace(PLAIN, temp=0.5)) - squared).max() < 0.02
    assert np.abs(shares(replace(PLAIN, top_k=2))[:2] - P[:2] / 0.75).max() < 0.02


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_k": -1}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.76}, {0, 1, 2}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.29}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"min_p": 0.1, "top_p": 0.7}, {0, 1}),
        ({"min_p": 0.1, "top_p": 0.93}, {0, 1, 2, 3}),
        ({"typical": 0.2}, {1}),  # closest to the entropy of 1.27 is a surprise of 1.39
        ({"typical": 0.7}, {0, 1}),
        ({"top_k": 2, "top_p": 0.6}, {0}),  # 0.5 of the 0.75 left is enough
        ({"logit_bias": ((0, -math.inf),)}, {1, 2, 3, 4}),
        ({"logit_bias": {3: 100.0}}, {3}),
    ],
)
def test_what_is_left_to_draw_from(change: dict[str, Any], left: set[int]) -> None:
    assert set(drawn(replace(PLAIN, **change))) == left


def test_equal_logits_at_the_border_of_top_k_go_by_id() -> None:
    logits = np.array([0, 5, 3, 3, 3, 3], np.float32)
    assert set(drawn(replace(PLAIN, top_k=3), logits)) == {1, 2, 3}


@pytest.mark.parametrize("k", [1, 2, 40, 64, 500, 9_000])
def test_top_k_of_a_large_vocabulary_is_that_of_a_full_sort(k: int) -> None:
    from ggufpy.generate.sampling import _top_k

    logits = np.random.default_rng(5).normal(size=10_007).astype(np.float32).round(2)
    logits[::7] = -np.inf
    wanted = np.argsort(-logits, kind="stable")[:k]
    assert np.array_equal(_top_k(logits, k), wanted[logits[wanted] > -np.inf])


def test_min_p_without_top_k_is_that_of_a_full_sort() -> None:
    logits = (np.random.default_rng(6).normal(size=5_000) * 2).astype(np.float32)
    quick = replace(PLAIN, min_p=0.05, top_p=0.4)
    assert drawn(quick, logits, 50) == drawn(replace(quick, top_k=4_999), logits, 50)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"repeat_penalty": 2.0}, [1.0, -2.0, 3.0, 4.0]),
        ({"presence_penalty": 0.5}, [1.5, -1.5, 3.0, 4.0]),
        ({"frequency_penalty": 0.5}, [1.0, -1.5, 3.0, 4.0]),
        ({"frequency_penalty": 0.5, "repeat_last_n": 2}, [1.5, -1.5, 3.0, 4.0]),
        ({"frequency_penalty": 0.5, "repeat_last_n": 1}, [2.0, -1.5, 3.0, 4.0]),
        ({"frequency_penalty": 0.5, "repeat_last_n": 0}, [2.0, -1.0, 3.0, 4.0]),
        ({"frequency_penalty": 0.5, "repeat_last_n": -1}, [1.0, -1.5, 3.0, 4.0]),
        ({"repeat_penalty": 2.0, "presence_penalty": 0.5, "frequency_penalty": 0.25}, [0.0, -2.75, 3.0, 4.0]),
    ],
)
def test_penalties(change: dict[str, Any], wanted: list[float]) -> None:
    logits = np.array([2, -1, 3, 4], np.float32)
    sampler = Sampler(Sampling(**change), 4)
    for token in (0, 0, 1):
        sampler.accept(token)
    assert sampler._adjusted(logits).tolist() == wanted
    assert logits.tolist() == [2, -1, 3, 4]


def test_penalties_see_recent_tokens_only() -> None:
    sampler = Sampler(Sampling(temp=0.0, presence_penalty=10.0, repeat_last_n=3), 5)
    logits = np.array([5, 4, 3, 2, 1], np.float32)
    found = []
    for _ in range(8):
        found.append(sampler.sample(logits))
        sampler.accept(found[-1])
    assert found == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_same_seed_gives_the_same_tokens() -> None:
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)
    first = drawn(Sampling(seed=7), logits, 50)
    assert drawn(Sampling(seed=7), logits, 50) == first
    assert drawn(Sampling(seed=8), logits, 50) != first
    assert drawn(Sampling(), logits, 50) != drawn(Sampling(), logits, 50)
    assert drawn(Sampling(seed=-1), logits, 50) != drawn(Sampling(seed=-1), logits, 50)
    assert drawn(Sampling(seed=(1 << 64) - 1), logits, 2)


def test_options_by_name() -> None:
    assert Sampling.from_options(temperature=0.5, typical_p=0.9, top_k=None) == Sampling(
        temp=0.5, typical=0.9
    )
    assert Sampling.from_options(logit_bias={"5": 1}).logit_bias == ((5, 1.0),)
    with pytest.raises(TypeError, match="unknown sampling option 'heat'"):
        Sampling.from_options(heat=1)
    with pytest.raises(TypeError, match="'temp' is given twice"):
        Sampling.from_options(temp=1.0, temperature=1.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temp", math.nan),
        ("temp", math.inf),
        ("temp", "hot"),
        ("temp", True),
        ("top_k", 1.5),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("min_p", math.nan),
        ("typical", 2),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", -1),
        ("repeat_last_n", -2),
        ("presence_penalty", math.inf),
        ("frequency_penalty", None),
        ("logit_bias", 5),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", ((1, 2, 3),)),
        ("seed", -2),
        ("seed", 1 << 64),
        ("seed", 1.5),
    ],
)
def test_values_that_cannot_be_are_named(option: str, value: Any) -> None:
    with pytest.raises(GGUFError, match=option) as caught:
        Sampling(**{option: value})
    assert "\n" not in str(caught.value)


def test_logits_that_cannot_be() -> None:
    for bad, message in ((math.nan, "NaN"), (math.inf, "infinite")):
        logits = LOGITS.copy()
        logits[3] = bad
        for sampling in (PLAIN, Sampling(temp=0.0)):
            with pytest.raises(GGUFError, match=message):
                Sampler(sampling, 5).sample(logits)
    with pytest.raises(GGUFError, match="every token is forbidden"):
        Sampler(PLAIN, 5).sample(np.full(5, -np.inf, np.float32))
    with pytest.raises(GGUFError, match=r"shape \(4,\), and must have \(5,\)"):
        Sampler(PLAIN, 5).sample(LOGITS[:4])
    with pytest.raises(GGUFError, match="token 5 is not in the vocabulary of 5"):
        Sampler(PLAIN, 5).accept(5)
    with pytest.raises(GGUFError, match="logit_bias: token 9"):
        Sampler(Sampling(logit_bias={9: 1.0}), 5)


@pytest.mark.parametrize(
    "change", [{"temp": 0.0}, {"top_k": 1}, {"top_k": 0}, {"top_k": 3}, {"typical": 0.9}, {"logit_bias": {6: 9.0}}]
)
def test_rows_without_a_token_are_never_drawn(change: dict[str, Any]) -> None:
    """The last two of seven logits are padding, whatever they hold, and may stand in a prompt that is given as ids."""
    logits = np.array([1, 3, 2, 0, 1, 50, np.nan], np.float32)
    sampling = Sampling(**{"temp": 2.0, "top_p": 1.0, "min_p": 0.0, "presence_penalty": 0.5, "seed": 1, **change})
    sampler = Sampler(sampling, 7, 5)
    sampler.accept(6)
    drawn = {sampler.sample(logits) for _ in range(200)}
    assert drawn <= set(range(5))
    assert 1 in drawn
    assert drawn == {1} if sampling.greedy else len(drawn) > 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=200),
    st.floats(0.01, 5), st.integers(0, 50), *[st.floats(0, 1)] * 3, st.integers(0, 99),
)  # fmt: skip
def test_any_options_draw_a_token(
    values: list[float], temp: float, k: int, p: float, m: float, t: float, seed: int
) -> None:
    logits = np.array(values, np.float32)
    sampling = Sampling(temp=temp, top_k=k, top_p=p, min_p=m, typical=t, seed=seed, repeat_penalty=1.3)
    sampler = Sampler(sampling, len(values))
    for _ in range(3):
        token = sampler.sample(logits)
        assert 0 <= token < len(values)
        sampler.accept(token)
