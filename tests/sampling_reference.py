"""Sampling in plain NumPy, in one function: what the chain of steps must draw, to the token; and draws on record."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

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


def reach(p: Logits, share: float) -> int:
    """How many of `p` reach `share`."""
    return int(np.searchsorted(np.cumsum(p), share)) + 1


def adjusted(logits: Logits, s: Any, text: list[int]) -> Logits:
    """Logits with bias, and penalties for the newest of `text`."""
    logits = logits.copy()
    for token, bias in s.logit_bias:
        logits[token] += np.float32(bias)
    recent = text if s.repeat_last_n < 0 else text[max(len(text) - s.repeat_last_n, 0) :]
    for token, count in Counter(recent).items():
        logit, factor = logits[token], np.float32(s.repeat_penalty)
        logit = logit / factor if logit > 0 else logit * factor
        logits[token] = logit - np.float32(count) * np.float32(s.frequency_penalty) - np.float32(s.presence_penalty)
    return logits


def above_floor(logits: Logits, order: Logits, min_p: float) -> tuple[Logits, float]:
    """Of `order` what min-p may leave, and the probability of the rest: min-p alone needs no sorted vocabulary."""
    best = float(logits.max())
    order = order[logits[order] >= best + math.log(min_p) - 1e-3]
    weights = np.exp(logits - np.float32(best), dtype=np.float32)
    return order, 1 - float(weights[order].sum(dtype=np.float64) / weights.sum(dtype=np.float64))


def draw(logits: Logits, s: Any, text: list[int], random: np.random.Generator) -> int:
    """The token that `s` draws behind `text`, with the next numbers of `random`."""
    logits = adjusted(logits, s, text)
    if s.temp <= 0 or s.top_k == 1:
        return int(logits.argmax())
    if s.top_n_sigma > 0:
        deviation = np.std(logits[logits > -np.inf].astype(np.float64))
        logits = np.where(logits >= np.float32(logits.max() - s.top_n_sigma * deviation), logits, np.float32(-np.inf))
    ids = np.argsort(-logits, kind="stable")[: s.top_k if s.top_k > 0 else len(logits)]
    ids, rest = ids[logits[ids] > -np.inf], 0.0
    if s.top_k <= 0 and s.typical >= 1 and s.min_p > 0:
        ids, rest = above_floor(logits, ids, s.min_p)
    left = logits[ids].astype(np.float64)
    if s.typical < 1:
        p = softmax(left)
        surprise = -np.log(np.maximum(p, np.finfo(np.float64).tiny))
        order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
        kept = np.sort(order[: reach(p[order], s.typical)])
        ids, left = ids[kept], left[kept]
    if s.top_p < 1:
        left = left[: reach(softmax(left) * (1 - rest), s.top_p)]
    if s.min_p > 0:
        left = left[left >= left[0] + math.log(s.min_p)]
    if s.xtc_probability > 0 and s.xtc_threshold <= 0.5 and len(left) > 1 and random.random() < s.xtc_probability:
        passed = sum(p >= s.xtc_threshold for p in softmax(left)[1:])
        ids, left = ids[passed:], left[passed:]
    reached = np.cumsum(softmax((left - left[0]) / s.temp))
    place = int(np.searchsorted(reached, random.random() * reached[-1], side="right"))
    return int(ids[min(place, len(left) - 1)])
