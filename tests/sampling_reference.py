"""Sampling in plain NumPy, from the definitions: what the chain of steps must draw, to the token; and draws on record.

`Plain` looks at all tokens in every step and sorts them after each, and looks through the whole text for repetitions.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from ggufpy.tokenizers.texts import TokenTexts

Logits = np.ndarray[Any, Any]

# (options, tokens): what was drawn before sampling was a list of steps.
RECORDED: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [303, 7524, 1, 10, 10, 1, 8639, 10, 10, 7386, 6, 2]),
    ({"temp": 0.0}, [1, 10, 10, 10, 10, 10, 10, 10, 10, 1, 10, 2]),
    ({"temp": 0.0, "repeat_penalty": 1.3, "frequency_penalty": 0.5},
     [1, 10, 2, 8, 303, 8639, 5101, 2712, 5460, 7470, 5626, 2180]),
    ({"top_k": 0}, [303, 7524, 1, 10, 10, 1, 8639, 10, 10, 7386, 2712, 2]),
    ({"top_k": 0, "top_p": 1.0}, [303, 7524, 1, 10, 10, 1, 8639, 10, 10, 7386, 2712, 2]),
    ({"top_k": 0, "min_p": 0.0}, [5740, 1429, 5101, 1, 10, 303, 5101, 10, 10, 9554, 8407, 10]),
    ({"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.5},
     [1382, 7852, 8920, 6823, 303, 155, 8263, 2712, 8, 2863, 4989, 4858]),
    ({"top_k": 3, "temp": 2.0}, [8639, 2712, 2, 10, 10, 10, 10, 10, 10, 2, 1, 2]),
    ({"top_k": 500, "top_p": 1.0, "min_p": 0.0}, [6943, 7906, 2180, 10, 10, 1, 1, 10, 10, 2217, 1960, 10]),
    ({"typical": 0.7}, [2712, 8639, 1, 10, 10, 1, 8639, 10, 10, 5101, 6, 2]),
    ({"typical": 0.5, "top_k": 0}, [4190, 3461, 1022, 5101, 303, 2836, 9805, 8639, 303, 6623, 5725, 7375]),
    ({"temp": 5.0}, [1960, 1071, 2712, 8, 10, 8803, 8, 10, 10, 7386, 5460, 303]),
    ({"temp": 1.0, "top_k": 0, "min_p": 0.01, "top_p": 0.99},
     [1708, 898, 2066, 1, 10, 2180, 2, 10, 10, 3098, 2694, 10]),
    ({"repeat_penalty": 1.3, "repeat_last_n": 4, "presence_penalty": 0.5},
     [303, 7524, 2, 10, 1, 6, 8, 2, 10, 7386, 4498, 1]),
    ({"frequency_penalty": 0.7, "repeat_last_n": -1, "temp": 1.2},
     [2180, 303, 7470, 10, 2, 4498, 5101, 1, 10, 2642, 2686, 10]),
    ({"logit_bias": {7: 4.0, 3: -math.inf}, "top_k": 0}, [2, 2, 7, 7, 7, 7, 10, 7, 7, 8639, 7, 7]),
    ({"top_k": 1}, [1, 10, 10, 10, 10, 10, 10, 10, 10, 1, 10, 2]),
]  # fmt: skip


def softmax(logits: Logits) -> Logits:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


class Words:
    """A vocabulary of byte strings, those of `ends` control tokens; a text is cut into the longest that fit."""

    def __init__(self, words: list[bytes], ends: tuple[int, ...] = ()) -> None:
        self.words, self.end_tokens = words, frozenset(ends)
        self.n_vocab = len(words)
        self.texts = TokenTexts(self)

    def token_bytes(self, token: int, special: bool = True) -> bytes:
        return b"" if token in self.end_tokens and not special else self.words[token]

    def encode(self, text: str | bytes, add_special: bool = False, parse_special: bool = False) -> list[int]:
        rest, ids = text.encode() if isinstance(text, str) else text, []
        while rest:
            fitting = [t for t, word in enumerate(self.words) if word and rest.startswith(word)]
            if not fitting:
                break
            ids.append(max(fitting, key=lambda t: (len(self.words[t]), -t)))
            rest = rest[len(self.words[ids[-1]]) :]
        return ids


def repeated(text: list[int], token: int, breakers: list[list[int]]) -> int:
    """How many tokens at the end of `text` stand before some `token` in it too; none of it reaches across a breaker."""
    limit = len(text)
    for begin in range(len(text) - 1, -1, -1):  # the last place where one begins, and the longest that does
        found = [len(b) for b in breakers if text[begin : begin + len(b)] == b]
        if found:
            limit = len(text) - begin - max(found)
            break
    lengths = [-1]
    for at in range(1, len(text)):
        if text[at] == token:
            length = 0
            while length < min(at, limit) and text[at - 1 - length] == text[len(text) - 1 - length]:
                length += 1
            lengths.append(length)
    return max(lengths) if limit >= 0 else -1


def breaker_sequences(words: Words, breakers: tuple[str, ...]) -> list[list[int]]:
    """Tokens that hold a breaker, and tokens that end with its beginning with those that its rest is cut into."""
    found = []
    for text in breakers:
        data = text.encode()
        for token, word in enumerate(words.words):
            if data in word:
                found.append([token])
                continue
            for size in range(1, len(data)):
                if word.endswith(data[:size]):
                    found.append([token, *words.encode(data[size:])[:20]])
    return found


class Plain:
    """One text: `draw` gives the token that the options `s` draw, `accept` hears of tokens as a Sampler does."""

    def __init__(self, s: Any, words: Words | None = None) -> None:
        self.s, self.words = s, words
        self.text: list[int] = []
        self.random = np.random.Generator(np.random.PCG64(s.seed))
        self.breakers = [] if words is None else breaker_sequences(words, s.dry_sequence_breakers)
        self.mu = 2 * s.mirostat_tau
        self.drawn: list[float] = []  # probabilities of what was drawn, for adaptive-p

    def accept(self, token: int) -> None:
        self.text.append(token)

    def draw(self, logits: Logits) -> int:
        """The next token for float32 logits, by the next random numbers."""
        self.whole = logits.copy()
        for token, bias in self.s.logit_bias:
            self.whole[token] += np.float32(bias)
        self.ids, self.left = np.arange(len(logits)), self.whole  # float32 until something else than a penalty runs
        for name in ("temperature",) if self.s.mirostat else self.s.samplers:
            if name not in ("penalties", "dry") and self.left.dtype != np.float64:
                self.whole, self.left = self.left, self.left.astype(np.float64)
                self.order()
            if name != "adaptive_p":
                getattr(self, name)()
                self.order()
        self.left = self.left.astype(np.float64)
        self.order()
        return self.last()

    def order(self) -> None:
        """Largest first, equals by id; what is forbidden is no candidate."""
        if self.left.dtype == np.float64:
            self.keep(np.lexsort((self.ids, -self.left)))
            self.keep(np.flatnonzero(self.left > -np.inf))

    def keep(self, places: Any) -> None:
        self.ids, self.left = self.ids[places], self.left[places]

    def one_by(self, weights: Logits) -> int:
        reached = np.cumsum(weights)
        return min(int(np.searchsorted(reached, self.random.random() * reached[-1], side="right")), len(reached) - 1)

    # -- samplers, by their names --

    def penalties(self) -> None:
        s, kind = self.s, self.left.dtype.type
        recent = self.text if s.repeat_last_n < 0 else self.text[max(len(self.text) - s.repeat_last_n, 0) :]
        for token, count in Counter(recent).items():
            for place in np.flatnonzero(self.ids == token):
                logit, factor = self.left[place], kind(np.float32(s.repeat_penalty))
                logit = logit / factor if logit > 0 else logit * factor
                less = kind(np.float32(count) * np.float32(s.frequency_penalty))
                self.left[place] = logit - less - kind(np.float32(s.presence_penalty))

    def dry(self) -> None:
        s, n = self.s, self.s.dry_penalty_last_n
        window = self.text if n < 0 else self.text[max(len(self.text) - n, 0) :]
        if not s.dry_multiplier or len(window) <= s.dry_allowed_length:
            return
        single = {b[0] for b in self.breakers if len(b) == 1}
        for place, token in enumerate(self.ids.tolist()):
            length = repeated(window, token, self.breakers)
            if length >= s.dry_allowed_length and token not in single:
                most = int(88.7228391 / math.log(s.dry_base)) if s.dry_base > 1 else 0  # then it is float32's largest
                penalty = s.dry_multiplier * s.dry_base ** min(length - s.dry_allowed_length, most)
                self.left[place] -= self.left.dtype.type(np.float32(penalty))

    def top_n_sigma(self) -> None:
        if self.s.top_n_sigma > 0:
            least = self.left.max() - self.s.top_n_sigma * np.std(self.left)
            self.keep(np.flatnonzero(self.left >= least))

    def top_k(self) -> None:
        self.keep(slice(self.s.top_k if self.s.top_k > 0 else None))

    def typ_p(self) -> None:
        if self.s.typical < 1:
            p = softmax(self.left)
            surprise = -np.log(np.maximum(p, np.finfo(np.float64).tiny))
            order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
            count = sum(np.cumsum(p[order]) <= self.s.typical) + 1  # the first whose sum is above it is the last
            self.keep(np.sort(order[: max(count, self.s.min_keep)]))

    def top_p(self) -> None:
        if self.s.top_p < 1:
            count = sum(np.cumsum(softmax(self.left)) < self.s.top_p) + 1
            self.keep(slice(max(count, self.s.min_keep)))

    def min_p(self) -> None:
        if self.s.min_p > 0:
            count = sum(self.left >= self.left[0] + math.log(self.s.min_p))
            self.keep(slice(max(count, self.s.min_keep)))

    def xtc(self) -> None:
        s = self.s
        off = s.xtc_probability == 0 or s.xtc_threshold > 0.5 or len(self.left) < 2
        if not off and self.random.random() < s.xtc_probability:
            passed = sum(p >= s.xtc_threshold for p in softmax(self.left)) - 1
            if passed > 0 and len(self.left) - passed >= s.min_keep:
                self.keep(slice(passed, None))

    def temperature(self) -> None:
        s, temp = self.s, self.s.temp
        if s.dynatemp_range and not s.mirostat and len(self.left) > 1:
            p = softmax(self.left)
            entropy = -sum(x * math.log(x) for x in p if x > 0) / math.log(len(p))
            low = max(0.0, temp - s.dynatemp_range)
            temp = low + (temp + s.dynatemp_range - low) * min(max(entropy, 0.0), 1.0) ** s.dynatemp_exponent
        if temp <= 0:
            self.keep(slice(1))
        else:
            self.left = self.left / temp

    def infill(self) -> None:
        assert self.words is not None
        p, end = softmax(self.left), np.array([t in self.words.end_tokens for t in self.ids.tolist()])
        if 3 * p[end].sum() * len(p) > p[~end].sum():
            return self.keep(end)
        words = [self.words.token_bytes(token, special=False) for token in self.ids.tolist()]
        gone = np.zeros(len(p), bool)
        for i, word in enumerate(words):
            for j, longer in enumerate(words):
                if word and i != j and not gone[i] and not gone[j] and longer.startswith(word):
                    to, of = (j, i) if p[j] > p[i] else (i, j)
                    p[to], p[of], gone[of] = p[to] + p[of], 0.0, True
        kept = end | (p >= 0.2)
        if not (kept & ~end).any():
            usable = [token for token in sorted(self.words.end_tokens) if self.whole[token] > -np.inf]
            best = max(usable, key=lambda token: self.whole[token], default=int(self.ids[0]))
            self.ids, self.left = np.array([best]), np.zeros(1)
            return None
        p = p / p[kept].sum()
        return self.keep(kept & ~gone & (end | (p >= 1 / ((kept & ~end).sum() + 1))))

    # -- what draws --

    def last(self) -> int:
        s, p = self.s, softmax(self.left)
        if s.mirostat:
            count = zipf(self.left[:100], len(self.whole), self.mu) if s.mirostat == 1 else sum(-np.log2(p) <= self.mu)
            self.keep(slice(max(count, 1)))
            p = softmax(self.left)
            place = self.one_by(p)
            self.mu -= s.mirostat_eta * (-math.log2(p[place]) - s.mirostat_tau)
        elif "adaptive_p" in s.samplers and s.adaptive_target >= 0:
            weights = s.adaptive_decay ** np.arange(len(self.drawn))[::-1]
            start = s.adaptive_decay ** len(self.drawn) / (1 - s.adaptive_decay)  # the target, drawn for ever before
            mean = (np.dot(weights, self.drawn) + start * s.adaptive_target) / (weights.sum() + start)
            far = np.abs(p - np.clip(2 * s.adaptive_target - mean, 0, 1)) / 0.3
            place = self.one_by(softmax(5 - 10 * far**2 / (1 + far)))
            self.drawn.append(p[place])
        else:
            place = self.one_by(p)
        return int(self.ids[place])


def zipf(top: Logits, n: int, mu: float) -> int:
    """How many tokens mirostat takes: Basu et al. 2021, algorithm 1, with natural logarithms."""
    t = [math.log((i + 2) / (i + 1)) for i in range(len(top) - 1)]
    b = [float(top[i] - top[i + 1]) for i in range(len(top) - 1)]
    s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t) if t else 0.0
    if s == 0 or s == 1:
        return 1 if not t or s == 1 or 2**mu < n - 1 else n
    log_k = (math.log((s - 1) / (1 - n ** -(s - 1))) + mu * math.log(2)) / s
    return n if log_k > 50 else min(int(math.exp(log_k)), n)
