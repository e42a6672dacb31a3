"""Sampling: every option by what it leaves of a distribution, ties, seeds, and values that cannot be."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import RECORDED, Plain

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling import Sampler, Sampling, steps
from ggufpy.generate.sampling.candidates import Candidates
from ggufpy.generate.sampling.steps import chain, named, options

PLAIN = Sampling(temp=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
P = np.array([0.5, 0.25, 0.15, 0.06, 0.04])
LOGITS = np.log(P).astype(np.float32)


def drawn(sampling: Sampling, logits: np.ndarray[Any, Any] = LOGITS, n: int = 400) -> list[int]:
    sampler = Sampler(sampling, len(logits))
    return [sampler.sample(logits) for _ in range(n)]


def shares(sampling: Sampling, logits: np.ndarray[Any, Any] = LOGITS, n: int = 12_000) -> np.ndarray[Any, Any]:
    return np.bincount(drawn(sampling, logits, n), minlength=len(logits)) / n


def test_defaults_are_those_of_llama_cpp() -> None:
    s = Sampling()
    assert (s.temp, s.top_k, s.top_p, s.min_p, s.typical) == (0.8, 40, 0.95, 0.05, 1.0)
    assert (s.repeat_penalty, s.repeat_last_n, s.presence_penalty, s.frequency_penalty) == (1.0, 64, 0.0, 0.0)
    assert (s.logit_bias, s.seed) == ((), None)
    assert (s.top_n_sigma, s.xtc_probability, s.xtc_threshold) == (-1.0, 0.0, 0.1)
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
        ({"top_n_sigma": 0.0}, {0, 1, 2, 3, 4}),
        ({"top_n_sigma": 0.5}, {0}),  # the deviation is 0.93: logits of -1.16 and more; the second is -1.39
        ({"top_n_sigma": 1.0}, {0, 1}),
        ({"top_n_sigma": 1.0, "temp": 9.0}, {0, 1}),
        ({"top_n_sigma": 1.0, "logit_bias": ((0, -math.inf),)}, {1, 2}),  # the deviation of the others is 0.73
        ({"top_n_sigma": 9.0, "top_k": 2}, {0, 1}),
        ({"xtc_probability": 1.0}, {2, 3, 4}),  # of 0.5, 0.25 and 0.15 the last one stays
        ({"xtc_probability": 1.0, "xtc_threshold": 0.2}, {1, 2, 3, 4}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.26}, {0, 1, 2, 3, 4}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.6}, {0, 1, 2, 3, 4}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.0}, {4}),
        ({"xtc_probability": 1.0, "min_p": 0.29}, {2}),  # behind min-p, and by what that leaves
        ({"xtc_probability": 1.0, "top_k": 1}, {0}),
        ({"xtc_probability": 1.0, "temp": 0.0}, {2}),  # the likeliest of what is left
        ({"top_k": 2, "top_p": 0.6}, {0}),  # 0.5 of the 0.75 left is enough
        ({"logit_bias": ((0, -math.inf),)}, {1, 2, 3, 4}),
        ({"logit_bias": {3: 100.0}}, {3}),
    ],
)
def test_what_is_left_to_draw_from(change: dict[str, Any], left: set[int]) -> None:
    assert set(drawn(replace(PLAIN, **change))) == left


def test_top_choices_are_passed_over_as_often_as_was_asked_for() -> None:
    found = shares(replace(PLAIN, xtc_probability=0.25, xtc_threshold=0.4))
    assert np.abs(found - P).max() < 0.02  # no two of them reach 0.4
    found = shares(replace(PLAIN, xtc_probability=0.25, xtc_threshold=0.2))
    assert abs(found[0] - 0.75 * P[0]) < 0.02


def test_equal_logits_at_the_border_of_top_k_go_by_id() -> None:
    logits = np.array([0, 5, 3, 3, 3, 3], np.float32)
    assert set(drawn(replace(PLAIN, top_k=3), logits)) == {1, 2, 3}


@pytest.mark.parametrize("k", [1, 2, 40, 64, 500, 9_000])
def test_top_k_of_a_large_vocabulary_is_that_of_a_full_sort(k: int) -> None:
    logits = np.random.default_rng(5).normal(size=10_007).astype(np.float32).round(2)
    logits[::7] = -np.inf
    wanted = np.argsort(-logits, kind="stable")[:k]
    candidates = Candidates(logits, np.random.default_rng())
    candidates.sort(k)
    assert np.array_equal(candidates.ids, wanted[logits[wanted] > -np.inf])


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
    assert sampler.adjusted(logits).tolist() == wanted
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
    assert Sampling.from_options(temperature=0.5, typical_p=0.9, top_k=None) == Sampling(temp=0.5, typical=0.9)
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
        ("min_keep", -1),
        ("dynatemp_range", -0.5),
        ("dynatemp_exponent", math.inf),
        ("mirostat", 3),
        ("mirostat_tau", -1.0),
        ("mirostat_eta", "x"),
        ("dry_multiplier", -1.0),
        ("dry_base", 0.5),
        ("dry_allowed_length", -1),
        ("dry_penalty_last_n", -2),
        ("samplers", 5),
        ("samplers", ["top_k", 5]),
        ("samplers", {"top_k": 1}),
        ("min_p", math.nan),
        ("typical", 2),
        ("top_n_sigma", math.nan),
        ("xtc_probability", 1.5),
        ("xtc_threshold", -0.1),
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
    assert drawn == {1} if sampling.temp == 0 or sampling.top_k == 1 else len(drawn) > 1


@pytest.mark.parametrize(("change", "tokens"), RECORDED)
def test_seeds_draw_the_tokens_that_they_always_drew(change: dict[str, Any], tokens: list[int]) -> None:
    rng = np.random.default_rng(11)
    sampler = Sampler(Sampling(seed=5, **change), 10_007, 10_000)
    usual = rng.normal(size=10_007) * 2
    usual[:12] += 6
    found = []
    for _ in tokens:
        found.append(sampler.sample((usual + rng.normal(size=10_007) * 0.5).astype(np.float32).round(3)))
        sampler.accept(found[-1])
    assert found == tokens


OPTIONS = st.fixed_dictionaries(
    {
        "temp": st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 0, 1, 2, 40]),
        "top_p": st.sampled_from([0.0, 0.5, 0.95, 0.999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
        "typical": st.sampled_from([1.0, 1.0, 0.0, 0.3, 0.9]),
        "repeat_penalty": st.sampled_from([1.0, 1.3, 0.8]),
        "repeat_last_n": st.sampled_from([-1, 0, 3, 64]),
        "presence_penalty": st.sampled_from([0.0, 0.5]),
        "frequency_penalty": st.sampled_from([0.0, 0.3, -0.2]),
        "top_n_sigma": st.sampled_from([-1.0, -1.0, 0.5, 1.5, 3.0]),
        "xtc_probability": st.sampled_from([0.0, 0.0, 0.5, 1.0]),
        "xtc_threshold": st.sampled_from([0.0, 0.1, 0.4, 0.51]),
        "logit_bias": st.sampled_from([(), ((0, 1.5),), ((1, -math.inf), (0, -0.25))]),
    }
)


@settings(max_examples=150, deadline=None)
@given(OPTIONS, st.sampled_from([2, 7, 300, 6000]), st.sampled_from([0.5, 2.0, 6.0]), st.integers(0, 1 << 32))
def test_the_steps_draw_what_plain_numpy_draws(change: dict[str, Any], size: int, spread: float, seed: int) -> None:
    sampling = Sampling(seed=seed, **change)
    sampler, plain, rng = Sampler(sampling, size), Plain(sampling), np.random.default_rng(seed)
    sampler.accept(0)
    plain.accept(0)
    for turn in range(4):
        logits = (rng.normal(size=size) * spread).astype(np.float32).round(1 + turn)
        logits[rng.integers(1, size, turn)] = -np.inf
        token = sampler.sample(logits)
        assert token == plain.draw(logits)
        sampler.accept(token)
        plain.accept(token)


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


# -- the options, as one object --


def test_options_are_a_frozen_dataclass() -> None:
    s = Sampling(temp=0.5, logit_bias={3: 1})
    assert s == Sampling(logit_bias=((3, 1.0),), temp=0.5)
    assert s != replace(s, seed=1)
    assert [field.name for field in fields(s)] == [option.name for option in options()]
    assert "temp=0.5" in repr(s)
    assert pickle.loads(pickle.dumps(s)) == s
    assert asdict(s)["logit_bias"] == ((3, 1.0),)
    with pytest.raises(TypeError, match="unexpected keyword argument 'heat'"):
        Sampling(heat=1)
    with pytest.raises(TypeError, match="positional"):
        Sampling(0.5)  # type: ignore[call-arg]  # the order of options is that of steps, and nothing to rely on
    for option in options():
        assert f"`{option.name}`" in str(Sampling.__doc__)


def test_every_step_has_its_place_and_options() -> None:
    files = sorted(path.stem for path in Path(steps.__file__).parent.glob("[a-z]*.py"))
    assert sorted(step.__module__.rpartition(".")[2] for step in chain()) == files
    places = [step.PLACE for step in chain()]
    assert places == sorted(set(places))
    assert chain()[-1].__name__ == "Draw"
    assert [step.NAME for step in chain() if step.NAME] == list(named())
    letters = [step.LETTER for step in chain() if step.LETTER]
    assert len(letters) == len(set(letters))
    names = [name for option in options() for name in (option.name, *option.aliases)]
    flags = [flag for option in options() for flag in option.flags]
    assert len(names) == len(set(names))
    assert len(flags) == len(set(flags))
    for option in options():
        assert option.check(option.default) == option.default
        assert option.help
        assert option.flags


LAST = """
from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Whole

class Last(Cut):
    PLACE = 75
    NAME = "last"
    OPTIONS = (Option("last", 0, Whole(0), "drop all but the last N", ("--last",), metavar="N"),)

    def __init__(self, sampling):
        self._count = sampling.last

    @classmethod
    def is_on(cls, sampling):
        return sampling.last > 0

    def apply(self, candidates):
        candidates.after(max(len(candidates) - self._count, 0))

STEP = Last
"""
USE_LAST = """
import sys
from ggufpy import cli
from ggufpy.generate.sampling import steps
steps.__path__.append(sys.argv[1])  # as if the file lay there
parser = cli.command_parser("run", cli.load_command("run"))
assert "--last N drop all but the last N (default: 0)" in " ".join(parser.format_help().split())
import numpy as np
from ggufpy.generate.sampling import Sampler, Sampling
sampling = Sampling.from_options(last=parser.parse_args(["--last", "1"]).last, min_p=0.0, top_k=3)
assert Sampler(sampling, 5).sample(np.array([5, 4, 3, 2, 1], np.float32)) == 2
sampling = Sampling.from_options(last=1, samplers="last;top-k;top_p", top_k=3, top_p=0.5)
assert Sampler(sampling, 5).sample(np.array([5, 4, 3, 2, 1], np.float32)) == 4
"""


def test_a_sampler_is_one_file(tmp_path: Path) -> None:
    """The options, the chain and the command line have what a module of `steps/` declares."""
    (tmp_path / "last.py").write_text(LAST)
    subprocess.run([sys.executable, "-c", USE_LAST, tmp_path], check=True)


def test_options_need_no_numpy() -> None:
    """The command line asks steps for their options before it knows whether there is work to do."""
    code = "import sys, ggufpy; ggufpy.Sampling(temp=1); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
