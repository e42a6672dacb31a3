"""Steps of sampling against llama.cpp's own (`sampling_vectors.py`), and each by what it is for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sampling_vectors as known
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sampling_reference import Words, breaker_sequences, repeated, softmax

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling import Guides, Sampler, Sampling
from ggufpy.generate.sampling.candidates import Candidates
from ggufpy.generate.sampling.repetition import Repetition
from ggufpy.tokenizers.texts import TokenTexts

LOGITS = np.array(known.LOGITS, np.float32)
N = len(LOGITS)
WORDS = Words(known.WORDS, known.ENDS)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Draws take `token` where it is a candidate, else the first; `shares` are what they draw from, by token."""
    box: dict[str, Any] = {"token": None}

    def draw(self: Candidates, weights: np.ndarray[Any, Any] | None = None) -> int:
        if weights is None:
            self.sort()
            weights = self.shares()
        box["shares"] = np.zeros(len(self.whole))
        box["shares"][self.ids] = weights / weights.sum()
        place = self.ids.tolist().index(box["token"]) if box["token"] in self.ids else 0
        self.after(place)
        self.first(1)
        return place

    monkeypatch.setattr(Candidates, "draw", draw)
    return box


def sampler(n: int = N, words: Words | None = WORDS, **options: Any) -> Sampler:
    sampling = Sampling(**{**known.PLAIN, "seed": 1, **options})
    return Sampler(sampling, n, guides=Guides(vocabulary=words))


@pytest.mark.parametrize(("options", "shares"), known.LEFT, ids=lambda value: str(value) if type(value) is dict else "")
def test_what_llama_cpp_leaves(options: dict[str, Any], shares: list[float], choose: dict[str, Any]) -> None:
    made = sampler(**options)
    for token in known.TEXT:
        made.accept(token)
    token = made.sample(LOGITS)
    found = choose.get("shares", np.eye(N)[token])  # the likeliest is taken without a draw
    assert np.abs(found - shares).max() < 6e-5


@pytest.mark.parametrize(("options", "turns"), known.DRAWN, ids=lambda value: str(value) if type(value) is dict else "")
def test_what_llama_cpp_draws_from(
    options: dict[str, Any], turns: list[tuple[int, list[float]]], choose: dict[str, Any]
) -> None:
    made = sampler(**options)
    for turn, (token, shares) in enumerate(turns):
        choose["token"] = token
        assert made.sample(np.roll(LOGITS, turn)) == token
        assert np.abs(choose["shares"] - shares).max() < 6e-5
        made.accept(token)


# -- DRY --


def penalties(text: list[int], words: Words | None = None, n: int = 9, **options: Any) -> list[float]:
    """What DRY takes off the logit of each token behind `text`."""
    made = sampler(n, words, **{"dry_multiplier": 1.0, "dry_base": 2.0, **options})
    for token in text:
        made.accept(token)
    return [round(-float(x), 4) + 0.0 for x in made.adjusted(np.zeros(n, np.float32))]


def test_a_repetition_costs_the_more_the_longer_it_is() -> None:
    assert penalties([1, 2, 3, 4, 1]) == [0] * 9  # 1 is one token: less than is allowed
    assert penalties([1, 2, 3, 4, 1, 2]) == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert penalties([1, 2, 3, 4, 1, 2, 3]) == [0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert penalties([1, 2, 3, 4, 1, 2, 3], dry_allowed_length=4) == [0] * 9
    assert penalties([1, 2, 3, 1, 2, 4, 5, 1, 2]) == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert penalties([7, 1, 2, 3, 1, 2, 3, 7, 1, 2]) == [0, 0, 0, 2, 0, 0, 0, 0, 0]  # the longest counts: 7 1 2
    assert penalties([1] * 5) == [0, 4, 0, 0, 0, 0, 0, 0, 0]
    assert penalties([]) == penalties([1]) == [0] * 9


def test_repetitions_are_looked_for_as_far_back_as_was_asked_for() -> None:
    text = [1, 2, 3, 4, 1, 2, 5, 6, 1, 2]
    assert penalties(text, dry_penalty_last_n=7)[3:6] == [0, 0, 1]
    assert penalties(text, dry_penalty_last_n=10)[3:6] == [1, 0, 1]
    assert penalties(text, dry_penalty_last_n=-1)[3:6] == [1, 0, 1]
    assert penalties([1, 2, 3] * 100, dry_penalty_last_n=-1, dry_base=1.0)[1] == 1
    assert penalties(text, dry_penalty_last_n=0) == [0] * 9


def test_no_repetition_reaches_across_a_breaker() -> None:
    words = Words([b"a", b"b", b"\n", b"c", b"x:", b"#", b"##", b"y#", b"end"])
    assert penalties([0, 1, 3, 0, 1], words) == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert penalties([0, 1, 3, 2, 0, 1], words) == [0, 0, 0, 1, 0, 0, 0, 0, 0]  # "a b" is behind the line end
    assert penalties([3, 0, 2, 1, 3, 0, 2], words) == [0] * 9
    assert penalties([3, 0, 2, 1, 3, 0, 2], words, dry_sequence_breakers=()) == [0, 2, 0, 0, 0, 0, 0, 0, 0]
    assert penalties([3, 0, 4, 1, 3, 0], words) == [0] * 9  # a token with a breaker in it may always come
    three = {"dry_sequence_breakers": ("###",)}
    for ending in ([5, 6], [6, 5], [7, 6]):  # "#" "##", "##" "#", "y#" "##"
        assert penalties([0, *ending, 3, 0, *ending], words, **three)[3] == 0
    assert penalties([0, 5, 5, 3, 0, 5, 5], words, **three)[3] == 2  # "##" is no breaker


def test_breakers_that_cannot_be() -> None:
    for wrong in ([""], ["x" * 41], [5], "\n", ["a"] * 101):
        with pytest.raises(GGUFError, match="dry_sequence_breakers"):
            Sampling(dry_sequence_breakers=wrong)
    assert Sampling(dry_sequence_breakers=["a", None, "b", "b"]).dry_sequence_breakers == ("b",)
    assert Sampling.from_options(dry_sequence_breaker=[None]).dry_sequence_breakers == ()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=60), st.sampled_from([-1, 3, 8, 64]), st.integers(0, 3),
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), max_size=3), st.integers(0, 60),
)  # fmt: skip
@example([0] * 40, -1, 2, [], 3)
def test_repetitions_are_those_of_a_search_of_the_whole_text(
    text: list[int], last_n: int, least: int, breakers: list[list[int]], prompt: int
) -> None:
    """`continued` is asked for behind the prompt and behind each token after it, so that it keeps up."""
    sequences: dict[int, set[tuple[int, ...]]] = {}
    for first, *rest in breakers:
        sequences.setdefault(first, set()).add(tuple(rest))
    repetition = Repetition(last_n)
    repetition.break_at(sequences)
    single = {first for first, *rest in breakers if not rest}
    for end, token in enumerate(text, 1):
        repetition.add(token)
        if end < prompt:
            continue
        ids, lengths = repetition.continued(least)
        window = text[:end] if last_n < 0 else text[max(end - last_n, 0) : end]
        wanted = {} if len(window) <= least else {t: repeated(window, t, breakers) for t in range(5) if t not in single}
        assert dict(zip(ids.tolist(), lengths.tolist(), strict=True)) == {
            t: length for t, length in wanted.items() if length >= least
        }


def test_a_long_text_of_one_token_costs_no_more_than_another() -> None:
    """Every place of it is a repetition: comparing each with the end would take 10^10 steps."""
    repetition = Repetition(-1)
    for _ in range(100_000):
        repetition.add(3)
    for count in range(100_000, 100_010):
        ids, lengths = repetition.continued(2)
        assert (ids.tolist(), lengths.tolist()) == ([3], [count - 1])
        repetition.add(3)


def test_breakers_are_found_in_all_tokens() -> None:
    words = Words([b"a", b"ab", b"", b"b", b"abc", b"ba", b"cab", b"\xc3", b"\xa9", b"x\xc3", b"aba"])
    breakers = ("ab", "b", "abcab", "é", "aab")
    found = {
        (token, *rest) for each in breakers for token, rests in _sequences_of(words, each).items() for rest in rests
    }
    assert found == {tuple(each) for each in breaker_sequences(words, breakers)}
    texts = TokenTexts(words)
    assert texts.containing(b"ab") == {1, 4, 6, 10}
    assert texts.containing(b"aab") == frozenset()  # "a" and "ab" are two tokens
    assert texts.ending(b"a") == {0, 5, 10}
    assert texts.ending(b"\xc3") == {7, 9}
    assert TokenTexts(Words([])).containing(b"a") == frozenset()


def _sequences_of(words: Words, breaker: str) -> dict[int, set[tuple[int, ...]]]:
    from ggufpy.generate.sampling.steps.dry import _sequences

    return _sequences(words, (breaker,))


# -- temperature by entropy --


def test_a_dynamic_temperature_goes_from_sure_to_unsure(choose: dict[str, Any]) -> None:
    def temperature(logits: list[float], **options: Any) -> float:
        """The temperature that two tokens were drawn at."""
        made = sampler(2, None, **options)
        made.sample(np.array(logits, np.float32))
        p = choose["shares"]
        return (logits[0] - logits[1]) / math.log(p[0] / p[1])

    assert temperature([0.001, 0], temp=0.8, dynatemp_range=0.5) == pytest.approx(1.3, abs=1e-3)
    assert temperature([9, 0], temp=0.8, dynatemp_range=0.5) == pytest.approx(0.3, abs=5e-3)
    p = 1 / (1 + math.exp(-1))
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    for exponent in (0.5, 1, 2):
        wanted = 0.5 + 1.0 * entropy**exponent
        assert temperature([1, 0], temp=1.0, dynatemp_range=0.5, dynatemp_exponent=exponent) == pytest.approx(wanted)
    assert temperature([1, 0], temp=0.5, dynatemp_range=2.0) == pytest.approx(2.5 * entropy)  # never below 0


def test_a_dynamic_temperature_of_one_token_is_none() -> None:
    assert sampler(1, None, dynatemp_range=0.5).sample(np.zeros(1, np.float32)) == 0
    assert sampler(3, None, top_k=1, temp=0.0, dynatemp_range=0.5).sample(np.array([1, 3, 2], np.float32)) == 1


# -- mirostat --


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [1.0, 3.0, 5.0])
def test_mirostat_keeps_the_surprise(version: int, tau: float) -> None:
    """Over a text, bits of surprise in what mirostat draws from are tau on average; log2(n) = 12 could be had."""
    logits = -1.1 * np.log(np.arange(1, 4097)).astype(np.float32)
    made = sampler(4096, None, mirostat=version, mirostat_tau=tau)
    last: Any = made._rest[-1]
    moved = []
    for _ in range(3000):
        before = last._mu
        made.accept(made.sample(logits))
        moved.append((before - last._mu) / 0.1 + tau)
    assert np.mean(moved[500:]) == pytest.approx(tau, rel=0.05)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("logits", [[0.0], [1.0] * 7, [5.0, -math.inf], [0.0, -200.0, -400.0], [3.0, 3.0]])
def test_mirostat_of_odd_logits(version: int, logits: list[float]) -> None:
    made = sampler(len(logits), None, mirostat=version, mirostat_tau=0.0, mirostat_eta=1.0)
    for _ in range(20):
        token = made.sample(np.array(logits, np.float32))
        assert logits[token] > -math.inf
        made.accept(token)


def test_mirostat_takes_the_place_of_other_samplers() -> None:
    with_others = sampler(mirostat=2, top_k=1, repeat_penalty=9.0, dry_multiplier=5.0, min_p=1.0, dynatemp_range=0.5)
    alone = sampler(mirostat=2, samplers=())
    drawn = [(with_others.sample(LOGITS), alone.sample(LOGITS)) for _ in range(50)]
    assert all(one == other for one, other in drawn)
    assert len(set(drawn)) > 2
    assert {sampler(mirostat=1, temp=0.0).sample(LOGITS), sampler(mirostat=2, temp=0.0).sample(LOGITS)} == {2}


# -- adaptive-p --


@pytest.mark.parametrize(("target", "mean"), [(0.05, 0.011), (0.15, 0.083), (0.3, 0.269), (0.4, 0.370)])
def test_adaptive_p_draws_what_llama_cpp_draws(target: float, mean: float) -> None:
    """`mean` is the probability of 3,000 tokens that llama.cpp drew, on average."""
    p, drawn = softmax(-np.arange(60) / 2), []
    made = sampler(60, None, samplers=["adaptive_p"], adaptive_target=target)
    for _ in range(3000):
        drawn.append(made.sample(np.log(p).astype(np.float32)))
        made.accept(drawn[-1])
    assert np.mean(p[drawn]) == pytest.approx(mean, abs=0.01)


def test_adaptive_p_learns_from_what_it_drew_alone(choose: dict[str, Any]) -> None:
    made = sampler(samplers="adaptive_p", adaptive_target=0.2, adaptive_decay=0.5)
    seen = []
    for token in (2, 0, 1):
        choose["token"] = token
        made.sample(LOGITS)
        seen.append(choose["shares"])
        made.accept(5)  # what a caller put in its place
        made.accept(token)
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[0], seen[2])


def test_adaptive_p_is_named_where_it_is_wanted() -> None:
    with pytest.raises(GGUFError, match="adaptive_p, which samplers does not name"):
        Sampling(adaptive_target=0.5)
    assert Sampling(adaptive_target=0.5, mirostat=2).mirostat == 2
    off, plain = sampler(samplers="ka", adaptive_target=-1.0, top_k=5), sampler(samplers="k", top_k=5)
    assert [off.sample(LOGITS) for _ in range(30)] == [plain.sample(LOGITS) for _ in range(30)]
    for wrong in ({"adaptive_target": 1.5}, {"adaptive_decay": 1.0}, {"adaptive_decay": -0.1}):
        with pytest.raises(GGUFError, match=next(iter(wrong))):
            Sampling(samplers="a", **wrong)


# -- infill --


def left_by_infill(choose: dict[str, Any], pieces: dict[bytes, float], ends: int = 1, **options: Any) -> set[bytes]:
    """Which of pieces with these probabilities are left, the last of them ends."""
    words = Words(list(pieces), tuple(range(len(pieces) - ends, len(pieces))))
    made = sampler(len(pieces), words, samplers="infill", **options)
    made.sample(np.log(np.array(list(pieces.values()), np.float32)))
    return {words.words[place] for place in np.flatnonzero(choose["shares"])}


def test_infill_ends_a_text_early(choose: dict[str, Any]) -> None:
    assert left_by_infill(choose, {b"x": 0.7, b"y": 0.18, b"end": 0.12}) == {b"end"}  # 3 * 0.12 * 3 is more than 0.88
    assert left_by_infill(choose, {b"x": 0.7, b"y": 0.27, b"end": 0.03}) == {b"x", b"end"}
    assert left_by_infill(choose, {b"x": 0.7, b"y": 0.2, b"end": 0.05, b"stop": 0.05}, 2) == {b"end", b"stop"}


def test_infill_takes_beginnings_for_what_they_begin(choose: dict[str, Any]) -> None:
    spread = {b"hel": 0.5, b"hell": 0.2, b"hello": 0.1, b"dummy": 0.1999, b"end": 0.0001}
    assert left_by_infill(choose, spread) == {b"hel", b"end"}
    spread = {b"h": 0.1, b"hell": 0.5, b"x": 0.3999, b"end": 0.0001}
    assert left_by_infill(choose, spread) == {b"hell", b"x", b"end"}


def test_infill_ends_a_text_where_nothing_is_sure(choose: dict[str, Any]) -> None:
    many = {**{bytes([65 + i]): 0.0999 for i in range(10)}, b"end": 0.001}
    assert left_by_infill(choose, many) == {b"end"}
    assert left_by_infill(choose, many, logit_bias=((10, -math.inf),)) == {b"A"}  # as ignore_eos has it
    cut = sampler(11, Words(list(many), (10,)), samplers="top_k;infill", top_k=8)
    assert cut.sample(np.log(np.array(list(many.values()), np.float32))) == 10  # an end need be no candidate


def test_infill_without_a_vocabulary_leaves_all() -> None:
    made = sampler(words=None, samplers="infill", temp=3.0)
    assert len({made.sample(LOGITS) for _ in range(400)}) == N
