"""From logits to the next token, by one frozen set of options.

In: `Sampling` and float32 logits (n_vocab,). Out: a token id. The steps and their order are those of
llama.cpp's default chain: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw. After
top-k only the k likeliest are looked at, so that a large vocabulary costs one partition; greedy costs one
argmax.
"""

from __future__ import annotations

import math
import operator
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.support import checks

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_ALIASES = {"temperature": "temp", "typical_p": "typical"}
_MOST_RECENT = 1 << 31
_SLACK = 1e-3  # min-p is decided in float64 afterwards
_STRIPE = 64  # logits that one maximum stands for, where the vocabulary is large


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults are llama.cpp's. Raises GGUFError for a value out of range.

    `temp` (0 or less: always the likeliest token), `top_k` (0 or less: all), `top_p`, `min_p` and `typical`
    (shares of probability; 1, 0 and 1 turn them off), `repeat_penalty` (divides positive logits of recent
    tokens, multiplies negative ones), `repeat_last_n` (how many tokens are recent: 0 none, -1 all),
    `presence_penalty` and `frequency_penalty` (subtracted once, and per occurrence, from recent tokens),
    `logit_bias` (pairs or a mapping of token to what is added; -inf forbids it), `seed` (None or -1: another
    one every time).
    """

    temp: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        checked: dict[str, object] = {"logit_bias": _pairs(self.logit_bias), "seed": checks.seed("seed", self.seed)}
        for name in ("temp", "presence_penalty", "frequency_penalty", "repeat_penalty"):
            checked[name] = checks.number(name, getattr(self, name))
        for name in ("top_p", "min_p", "typical"):
            checked[name] = _share(name, getattr(self, name))
        for name in ("top_k", "repeat_last_n"):
            checked[name] = checks.whole(name, getattr(self, name))
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.repeat_penalty <= 0:
            raise GGUFError(f"repeat_penalty is {self.repeat_penalty}, and must be above 0 (1 turns it off)")
        if self.repeat_last_n < -1:
            raise GGUFError(
                f"repeat_last_n is {self.repeat_last_n}, and must be 0 or more, or -1 for all tokens"
            )

    @classmethod
    def from_options(cls, **options: Any) -> Sampling:
        """Options by name; `temperature` and `typical_p` are other names of `temp` and `typical`, None is
        the default.

        Raises TypeError for a name that is not known or given twice, GGUFError for a value.
        """
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {}
        for given, value in options.items():
            name = _ALIASES.get(given, given)
            if name not in known:
                raise TypeError(f"unknown sampling option {given!r}; known: {', '.join(sorted(known))}")
            if name in values:
                raise TypeError(f"sampling option {name!r} is given twice (as {given!r} too)")
            values[name] = value
        return cls(**{name: value for name, value in values.items() if value is not None})

    def check_tokens(self, n_vocab: int) -> None:
        """Raise GGUFError where `logit_bias` has a token that is not among `n_vocab`."""
        for token, _ in self.logit_bias:
            if token >= n_vocab:
                raise GGUFError(f"logit_bias: token {token} is not in the vocabulary of {n_vocab:,} tokens")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temp <= 0 or self.top_k == 1

    @property
    def penalizes(self) -> bool:
        """Whether recent tokens change the logits."""
        changed = self.repeat_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return changed and self.repeat_last_n != 0


class Sampler:
    """Draws tokens for one text: it holds the random numbers and the recent tokens.

    The same seed, logits and accepted tokens give the same tokens. Of `n_vocab` logits only the first `n_known` can be
    drawn: what follows are rows of padding, which stand for no token.
    """

    def __init__(self, sampling: Sampling, n_vocab: int, n_known: int | None = None) -> None:
        self.sampling = sampling
        self.n_vocab = n_vocab
        self.n_known = n_vocab if n_known is None else n_known
        self._random = np.random.Generator(np.random.PCG64(None if sampling.seed == -1 else sampling.seed))
        last = sampling.repeat_last_n
        self._recent: deque[int] = deque(maxlen=None if last < 0 else min(last, _MOST_RECENT))
        self._counts: Counter[int] = Counter()
        sampling.check_tokens(n_vocab)
        self._bias_ids = np.array([token for token, _ in sampling.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in sampling.logit_bias], np.float32)

    def accept(self, token: int) -> None:
        """Counts a token of the text, from the prompt or drawn, for the penalties. Raises GGUFError for no
        token."""
        index = operator.index(token)
        if not 0 <= index < self.n_vocab:
            raise GGUFError(f"token {index} is not in the vocabulary of {self.n_vocab:,} tokens")
        if not self.sampling.penalizes:
            return
        if len(self._recent) == self._recent.maxlen:
            oldest = self._recent[0]
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._recent.append(index)
        self._counts[index] += 1

    def sample(self, logits: Floats) -> int:
        """The next token for `logits`, float32 (n_vocab,), which are not changed.

        Raises GGUFError if they have another shape, hold NaN or +inf, or leave no token.
        """
        logits = np.asarray(logits, np.float32)
        if logits.shape != (self.n_vocab,):
            raise GGUFError(f"logits have the shape {logits.shape}, and must have ({self.n_vocab},)")
        with np.errstate(over="ignore", invalid="ignore"):
            logits = self._adjusted(logits)[: self.n_known]
        best = int(logits.argmax())  # the first of equals; NaN counts as the largest
        if not math.isfinite(logits[best]):
            raise GGUFError(_no_choice(float(logits[best])))
        return best if self.sampling.greedy else self._draw(logits)

    def _adjusted(self, logits: Floats) -> Floats:
        """Logits with bias and penalties; a copy if there are any."""
        s = self.sampling
        if not len(self._biases) and not self._counts:
            return logits
        logits = logits.copy()
        if len(self._biases):
            logits[self._bias_ids] += self._biases
        if self._counts:
            ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            recent = logits[ids]
            recent = np.where(
                recent > 0, recent / np.float32(s.repeat_penalty), recent * np.float32(s.repeat_penalty)
            )
            logits[ids] = recent - counts * np.float32(s.frequency_penalty) - np.float32(s.presence_penalty)
        return logits

    def _draw(self, logits: Floats) -> int:
        s = self.sampling
        rest = 0.0
        if s.top_k <= 0 and s.typical >= 1 and s.min_p > 0:
            ids, rest = _above(logits, s.min_p)  # what min-p leaves, without sorting the whole vocabulary
        else:
            ids = _top_k(logits, s.top_k)
        left = logits[ids].astype(np.float64)
        if s.typical < 1:
            ids, left = _typical(ids, left, s.typical)
        if s.top_p < 1:
            kept = _nucleus(_softmax(left) * (1 - rest), s.top_p)
            ids, left = ids[:kept], left[:kept]
        if s.min_p > 0:
            kept = int(
                np.count_nonzero(left >= left[0] + math.log(s.min_p))
            )  # sorted: those are the first ones
            ids, left = ids[:kept], left[:kept]
        with np.errstate(over="ignore"):  # to -inf, for a temperature near 0
            total = np.cumsum(_softmax((left - left[0]) / s.temp))
        place = int(np.searchsorted(total, self._random.random() * total[-1], side="right"))
        return int(ids[min(place, len(ids) - 1)])


def _top_k(logits: Floats, k: int) -> Ints:
    """Ids of the k largest logits (all if k is 0 or less), largest first, equals by id; -inf is left out."""
    if 0 < k < len(logits):
        ids = np.flatnonzero(logits >= _below_top(logits, k))
    else:
        ids, k = np.arange(len(logits)), len(logits)
    order = np.argsort(-logits[ids], kind="stable")[:k]
    ids = ids[order]
    return ids[logits[ids] > -np.inf]


def _above(logits: Floats, share: float) -> tuple[Ints, float]:
    """Ids whose probability is at least `share` of the largest, largest first, and the probability of all
    others."""
    best = float(logits.max())
    ids = np.flatnonzero(logits >= best + math.log(share) - _SLACK)
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    weights = np.exp(logits - np.float32(best), dtype=np.float32)
    return ids, 1 - float(weights[ids].sum(dtype=np.float64) / weights.sum(dtype=np.float64))


def _below_top(logits: Floats, k: int) -> np.float32:
    """A bound that at least k logits reach: the k-th largest of the maxima of stripes, or the k-th largest
    logit."""
    stripes = logits[: len(logits) // _STRIPE * _STRIPE].reshape(_STRIPE, -1)
    values = stripes.max(axis=0) if stripes.shape[1] >= 2 * k else logits
    bound: np.float32 = np.partition(values, len(values) - k)[len(values) - k]
    return bound


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights


def _nucleus(p: NDArray[np.float64], share: float) -> int:
    """How many of `p`, taken in its order, reach `share`: at least one."""
    return min(int(np.searchsorted(np.cumsum(p), share)) + 1, len(p))


def _typical(ids: Ints, logits: NDArray[np.float64], share: float) -> tuple[Ints, NDArray[np.float64]]:
    """Tokens whose surprise is closest to the entropy, up to `share` of probability (Meister et al. 2022);
    they stay in the order of their logits."""
    p = _softmax(logits)
    surprise = -np.log(np.maximum(p, np.finfo(np.float64).tiny))
    order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
    kept = np.sort(order[: _nucleus(p[order], share)])
    return ids[kept], logits[kept]


def _no_choice(best: float) -> str:
    if best == -math.inf:
        return "every token is forbidden (all logits are -inf); take back some logit_bias"
    kind = "NaN" if math.isnan(best) else "infinite"
    return f"the model's logits hold {kind} values: its weights are damaged, or a logit_bias is infinite"


def _share(name: str, value: object) -> float:
    share = checks.number(name, value)
    if not 0 <= share <= 1:
        raise GGUFError(f"{name} is {share}, and must be from 0 to 1")
    return share


def _pairs(bias: Any) -> tuple[tuple[int, float], ...]:
    """`logit_bias` as pairs of token and bias, each token once; texts of digits count as tokens (JSON has no
    others)."""
    pairs: dict[int, float] = {}
    try:
        if isinstance(bias, str | bytes):
            raise TypeError("a text has no pairs")
        for token, value in bias.items() if isinstance(bias, Mapping) else bias:
            pairs[operator.index(int(token) if isinstance(token, str) else token)] = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise GGUFError(
            f"logit_bias is {checks.shown(bias)}; it must map tokens (whole numbers) to numbers"
        ) from error
    for token, value in pairs.items():
        if token < 0 or math.isnan(value) or value == math.inf:
            raise GGUFError(f"logit_bias: {token}={value}: a token is 0 or more, a bias finite or -inf")
    return tuple(pairs.items())
