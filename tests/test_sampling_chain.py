"""The order of samplers: names, letters, any permutation against plain NumPy, and what a seed promises."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_fakes import fake_llama, vague
from sampling_reference import Plain, Words

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling import Guides, Sampler, Sampling
from ggufpy.generate.sampling.candidates import Candidates
from ggufpy.generate.sampling.steps import named, wanted

USUAL = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
PIECES = [b"a", b"b", b"#", b"##", b"ab", b"\n", b":", b"a:", b"<end>", *(b"w%d" % i for i in range(2000))]
BREAKERS: list[tuple[str, ...]] = [(), ("\n", ":"), ("###",), ("ab", "b#")]


def sampled(sampling: Sampling, logits: np.ndarray[Any, Any], count: int = 50) -> list[int]:
    sampler = Sampler(sampling, len(logits))
    return [sampler.sample(logits) for _ in range(count)]


# -- how an order is written --


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("edskypmxt", USUAL),
        ("penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature", USUAL),
        (USUAL, USUAL),
        (["temperature", "top_k"], ("temperature", "top_k")),
        ("TEMP; Top-K ;nucleus;typ;minp", ("temperature", "top_k", "top_p", "typ_p", "min_p")),
        ("top-n-sigma;topnsigma;adaptive-p", ("top_n_sigma", "top_n_sigma", "adaptive_p")),
        ("infill;typical;typ-p", ("infill", "typ_p", "typ_p")),
        ("temp", ("temperature",)),  # a name, not letters
        ("dry", ("dry",)),
        ("kk", ("top_k", "top_k")),
        ("ia", ("infill", "adaptive_p")),
        ("", ()),
        ([], ()),
        (";", ()),
    ],
)  # fmt: skip
def test_orders_as_llama_cpp_writes_them(written: Any, names: tuple[str, ...]) -> None:
    assert Sampling(samplers=written).samplers == names
    assert Sampling.from_options(samplers=written) == Sampling(samplers=names)


@pytest.mark.parametrize("wrong", ["top_k;heat", ["heat"], "kz", "top_k,top_p", ["top_k"] * 33, "k" * 33])
def test_an_unknown_sampler_is_refused_with_those_that_there_are(wrong: Any) -> None:
    with pytest.raises(GGUFError) as caught:
        Sampling(samplers=wrong)
    assert "\n" not in str(caught.value)
    if len(wrong) < 33:
        assert all(name in str(caught.value) for name in named())


def test_the_usual_order_is_that_of_llama_cpp() -> None:
    assert Sampling().samplers == USUAL
    assert [step.__name__ for step in wanted(Sampling())] == ["TopK", "TopP", "MinP", "Temperature", "Draw"]
    assert [step.__name__ for step in wanted(Sampling(mirostat=2, logit_bias={1: 1.0}, top_k=3))] == [
        "LogitBias", "Temperature", "Mirostat",
    ]  # fmt: skip
    adaptive = Sampling(samplers="adaptive_p;min_p", adaptive_target=0.1)
    assert [step.__name__ for step in wanted(adaptive)] == ["MinP", "AdaptiveP"]


# -- what an order does --


def test_a_sampler_that_is_not_named_does_not_run() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.06, 0.04])).astype(np.float32)
    strict = {"top_k": 1, "temp": 0.0, "min_p": 1.0, "top_p": 0.0, "seed": 3}
    assert set(sampled(Sampling(**strict), logits)) == {0}
    assert set(sampled(Sampling(**strict, samplers=()), logits, 300)) == {0, 1, 2, 3, 4}
    assert set(sampled(Sampling(**strict, samplers="dry;xtc"), logits, 300)) == {0, 1, 2, 3, 4}
    biased = Sampling(**strict, samplers=(), logit_bias={0: -math.inf})  # biases are ahead of any order
    assert set(sampled(biased, logits, 300)) == {1, 2, 3, 4}


def test_the_order_counts() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.06, 0.04])).astype(np.float32)
    both = {"temp": 3.0, "top_p": 0.6, "top_k": 0, "min_p": 0.0, "seed": 3}
    assert set(sampled(Sampling(**both, samplers="top_p;temperature"), logits)) == {0, 1}
    assert set(sampled(Sampling(**both, samplers="temperature;top_p"), logits, 300)) == {0, 1, 2}
    cut = {"top_k": 2, "repeat_penalty": 9.0, "seed": 3}
    for order, left in (("top_k;penalties", {0, 1}), ("penalties;top_k", {2, 3})):
        sampler = Sampler(Sampling(**cut, samplers=order), 5)
        for token in (0, 1, 4):
            sampler.accept(token)
        assert {sampler.sample(logits) for _ in range(300)} <= left


def test_the_likeliest_is_that_of_what_is_left_by_then() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.06, 0.04])).astype(np.float32)
    passed = {"xtc_probability": 1.0, "xtc_threshold": 0.1, "seed": 1}
    assert set(sampled(Sampling(temp=0.0, **passed), logits)) == {2}
    assert set(sampled(Sampling(temp=0.0, **passed, samplers="temperature;xtc"), logits)) == {0}
    sampler = Sampler(Sampling(temp=0.0, presence_penalty=9.0, samplers="min_p;penalties;temperature"), 5)
    sampler.accept(0)
    assert sampler.sample(logits) == 1


OPTIONS = st.fixed_dictionaries(
    {
        "samplers": st.lists(st.sampled_from(sorted(set(named()) - {"adaptive_p"})), max_size=12),
        "temp": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "dynatemp_range": st.sampled_from([0.0, 0.0, 0.4, 1.5]),
        "dynatemp_exponent": st.sampled_from([1.0, 0.5, 2.0]),
        "top_k": st.sampled_from([0, 1, 3, 40]),
        "top_p": st.sampled_from([0.0, 0.5, 0.95, 1.0]),
        "min_p": st.sampled_from([0.0, 0.05, 0.4]),
        "min_keep": st.sampled_from([0, 0, 1, 4]),
        "typical": st.sampled_from([1.0, 0.3, 0.9]),
        "repeat_penalty": st.sampled_from([1.0, 1.3, 0.8]),
        "repeat_last_n": st.sampled_from([-1, 0, 3, 64]),
        "presence_penalty": st.sampled_from([0.0, 0.5]),
        "frequency_penalty": st.sampled_from([0.0, 0.3, -0.2]),
        "dry_multiplier": st.sampled_from([0.0, 0.8, 3.0]),
        "dry_base": st.sampled_from([1.0, 1.75, 4.0]),
        "dry_allowed_length": st.sampled_from([0, 1, 2]),
        "dry_penalty_last_n": st.sampled_from([-1, 0, 6, 64]),
        "dry_sequence_breakers": st.sampled_from(BREAKERS),
        "top_n_sigma": st.sampled_from([-1.0, 0.5, 1.5, 3.1]),
        "xtc_probability": st.sampled_from([0.0, 0.5, 1.0]),
        "xtc_threshold": st.sampled_from([0.0, 0.1, 0.4]),
        "logit_bias": st.sampled_from([(), ((0, 1.5),), ((1, -math.inf), (0, -0.25))]),
        "mirostat": st.sampled_from([0] * 6 + [1, 2]),
        "mirostat_tau": st.sampled_from([0.0, 1.0, 5.0]),
    }
)
TARGETS = st.sampled_from([None, None, -0.5, 0.0, 0.2, 1.0])


@settings(max_examples=200, deadline=None)
@given(OPTIONS, TARGETS, st.sampled_from([1, 2, 9, 300]), st.sampled_from([0.5, 2.0, 6.0]), st.integers(0, 1 << 32))
def test_any_order_draws_what_plain_numpy_draws(
    options: dict[str, Any], target: float | None, size: int, spread: float, seed: int
) -> None:
    if target is not None:
        options = {**options, "adaptive_target": target, "samplers": [*options["samplers"], "adaptive_p"]}
    if size == 1:
        options = {**options, "logit_bias": ()}
    words = Words(PIECES[:size], (8,) if size > 8 else ())
    sampling = Sampling(seed=seed, **options)
    sampler, plain = Sampler(sampling, size, guides=Guides(vocabulary=words)), Plain(sampling, words)
    rng = np.random.default_rng(seed)
    for token in rng.integers(0, min(size, 7), 20).tolist():
        sampler.accept(token)
        plain.accept(token)
    for turn in range(4):
        logits = (rng.normal(size=size) * spread).astype(np.float32).round(1 + turn)
        logits[rng.integers(1, size, turn if size > 2 else 0)] = -np.inf
        token = sampler.sample(logits)
        assert token == plain.draw(logits)
        sampler.accept(token)
        plain.accept(token)


@pytest.mark.parametrize(
    "order", ["temperature;min_p", "top_n_sigma;temperature;top_p;min_p", "penalties;top_p;top_k;min_p"]
)
def test_a_sort_that_stops_early_leaves_the_same(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where min-p comes after what looks at the likeliest alone, tokens far below are not sorted."""
    logits = (np.random.default_rng(6).normal(size=5_000) * 2).astype(np.float32)
    sampling = Sampling(samplers=order, top_k=300, temp=0.7, top_p=0.8, top_n_sigma=4.0, presence_penalty=0.1, seed=2)
    quick = Sampler(sampling, 5_000)
    assert quick._floor == math.log(0.05)
    found = [quick.sample(logits) for _ in range(50)]
    monkeypatch.setattr("ggufpy.generate.sampling.sampler._floor", lambda steps: None)
    assert sampled(sampling, logits) == found


EXTREMES = st.fixed_dictionaries(
    {
        "samplers": st.permutations(sorted(set(named()) - {"adaptive_p", "infill"})),
        "temp": st.sampled_from([1e-300, 1e-30, 1.0, 1e300]),
        "dynatemp_range": st.sampled_from([0.0, 1e-300, 1e300]),
        "dynatemp_exponent": st.sampled_from([0.0, 1e-300, 1e300]),
        "repeat_penalty": st.sampled_from([1e-9, 1.0, 1e9]),
        "presence_penalty": st.sampled_from([-1e9, 0.0, 1e9]),
        "frequency_penalty": st.sampled_from([-1e9, 0.0, 1e9]),
        "dry_multiplier": st.sampled_from([0.0, 1e-300, 1e9]),
        "dry_base": st.sampled_from([1.0, 1.0000001, 1e300]),
        "dry_allowed_length": st.sampled_from([0, 10**9]),
        "dry_penalty_last_n": st.sampled_from([-1, 10**12]),
        "top_n_sigma": st.sampled_from([1e-300, 1e300]),
        "min_p": st.sampled_from([0.0, 1e-300, 1.0]),
        "min_keep": st.sampled_from([0, 10**12]),
        "top_k": st.sampled_from([0, 10**12]),
        "mirostat": st.sampled_from([0, 0, 1, 2]),
        "mirostat_tau": st.sampled_from([0.0, 1e-300, 1e6]),
        "mirostat_eta": st.sampled_from([0.0, 1.0, 1e6]),
    }
)


@settings(max_examples=150, deadline=None)
@given(EXTREMES, st.sampled_from([1, 2, 50]), st.sampled_from([1e-30, 1.0, 1e9]))
@pytest.mark.filterwarnings("error")
def test_extreme_options_draw_a_token(options: dict[str, Any], size: int, spread: float) -> None:
    rng = np.random.default_rng(size)
    sampler = Sampler(Sampling(seed=1, **options), size)
    for token in rng.integers(0, size, 30).tolist():
        sampler.accept(token)
    for _ in range(3):
        logits = (rng.normal(size=size) * spread).astype(np.float32)
        forbidden = rng.random(size) < 0.3
        logits[forbidden & (np.arange(size) > 0)] = -np.inf
        token = sampler.sample(logits)
        assert logits[token] > -np.inf
        sampler.accept(token)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_p": 0.9999}, {"temp": 3.0}, {"min_keep": 2}], ids=str)
def test_a_sort_of_enough_draws_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw, and top-p, sort no more than they reach into."""
    logits = (np.random.default_rng(7).normal(size=20_000) * 3).astype(np.float32).round(2)
    sampling = Sampling(**{"top_k": 0, "min_p": 0.0, "top_p": 1.0, "seed": 3, **options})
    sizes: list[int] = []
    sort = Candidates.sort
    monkeypatch.setattr(Candidates, "sort", lambda self, most=0: (sort(self, most), sizes.append(len(self)))[0])
    found = sampled(sampling, logits, 200)
    assert np.median(sizes) < 5_000 or sampling.top_p == 0.9999  # for so much all are sorted
    monkeypatch.setattr("ggufpy.generate.sampling.candidates._ENOUGH", ())
    sizes.clear()
    assert sampled(sampling, logits, 200) == found
    assert max(sizes) == 20_000


@pytest.mark.parametrize(
    "order", ["top_p;temperature;min_p", "top_p;top_n_sigma;min_p", "xtc;min_p", "typ_p;min_p", "top_p;penalties;min_p"]
)
def test_a_sort_does_not_stop_early_where_that_would_show(order: str) -> None:
    on = {"typical": 0.9, "xtc_probability": 0.5, "top_n_sigma": 2.0, "presence_penalty": 1.0}
    assert Sampler(Sampling(samplers=order, **on), 50)._floor is None
    assert Sampler(Sampling(samplers="top_p;min_p", min_keep=2), 50)._floor is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=200), st.integers(1, 60), st.integers(0, 99))
def test_candidates_go_by_id_where_they_are_equal(values: list[int], k: int, seed: int) -> None:
    logits, rng = np.array(values, np.float32), np.random.default_rng(seed)
    candidates = Candidates(logits, rng)
    candidates.sort(k)
    changed = rng.permutation(len(logits))[: rng.integers(len(logits) + 1)]
    places, which = candidates.find(changed)
    assert candidates.ids[places].tolist() == changed[which].tolist()
    assert set(changed[which]) == set(changed) & set(candidates.ids.tolist())
    if len(places):
        candidates.change(places, candidates.logits[places] - 1)
    candidates.sort()
    pairs = list(zip((-candidates.logits).tolist(), candidates.ids.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert logits.tolist() == values  # the model's own stay


# -- seeds --

SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"mirostat": 1, "mirostat_tau": 2.0},
    {"mirostat": 2},
    {"samplers": "min_p;adaptive_p", "adaptive_target": 0.3},
    {"dry_multiplier": 0.8, "dry_penalty_last_n": -1, "xtc_probability": 0.5},
    {"samplers": "top_k;penalties;temperature", "repeat_penalty": 1.3, "dynatemp_range": 0.5},
]


@pytest.mark.parametrize("options", SAMPLINGS, ids=str)
def test_the_same_seed_gives_the_same_text_with_drafts_and_beside_others(options: dict[str, Any]) -> None:
    """Drafts ask the same sampler for one token after the other, and other texts have their own."""

    def text(**loading: Any) -> list[int]:
        llm = fake_llama(rows=vague, n_ctx=256, n_parallel=2, **loading)
        mine = iter(llm.generate([97, 98, 97, 98], seed=11, limit=60, **options))
        other = iter(llm.generate([99, 97], seed=4, limit=60, **options))
        return [next(mine) for _ in range(60) if next(other, 0) is not None]

    alone = fake_llama(rows=vague, n_ctx=256)
    wanted_text = list(alone.generate([97, 98, 97, 98], seed=11, limit=60, **options))
    assert text() == wanted_text
    assert text(lookup=4) == wanted_text
    assert list(alone.generate([97, 98, 97, 98], seed=12, limit=60, **options)) != wanted_text


def test_a_model_hands_its_vocabulary_to_the_steps() -> None:
    """Breakers are texts: the fake model's tokens are bytes, and "b" is one of its vocabulary."""
    llm = fake_llama()
    for breakers, repeated in ((("z",), True), (("b",), False)):
        sampling = Sampling(dry_multiplier=5.0, dry_sequence_breakers=breakers)
        sampler = llm._sampler(sampling, frozenset(), None)
        for token in b"abcabcab":
            sampler.accept(token)
        logits = sampler.adjusted(np.zeros(llm.n_vocab(), np.float32))
        assert (logits[ord("c")] < 0) == repeated
    guides = Guides(vocabulary=Words([b"c"] * 300))
    assert llm._sampler(replace(sampling, dry_multiplier=1.0), frozenset(), guides) is not None
