"""Rotary positions in numbers: how fast each pair of a head turns.

YaRN: Peng et al. 2023, https://arxiv.org/abs/2309.00071, with the ramp over pair indices that ggml uses.
Llama 3 scaling: the wavelength bands of Meta's reference code (factor, low and high frequency factors).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .ops import Rope

Doubles = NDArray[np.float64]


def frequencies(rope: Rope) -> Doubles:
    """(pairs,) radians that a pair turns for a position. Raises ValueError for sections of more pairs than that."""
    if sum(rope.sections) > rope.dimensions // 2:
        raise ValueError(f"sections of {sum(rope.sections)} pairs, of {rope.dimensions // 2}")
    pairs = np.arange(rope.dimensions // 2, dtype=np.float64)
    frequency: Doubles = rope.base ** (-2.0 * pairs / max(rope.dimensions, 1))
    if rope.factors:
        frequency = frequency / np.array(rope.factors)
    if rope.scaling in ("linear", "longrope"):  # the latter's factors are in `factors`
        return frequency / rope.factor
    if rope.scaling == "yarn":
        return _yarn(rope, pairs, frequency)
    return _llama3(rope, frequency) if rope.scaling == "llama3" else frequency


def magnitude(rope: Rope) -> float:
    """What turned pairs are multiplied by, whatever the scaling, as llama.cpp has it (src/llama-context.cpp)."""
    if rope.scaling != "yarn":
        return rope.attention_factor
    growth = 0.1 * math.log(max(rope.factor, 1.0))
    return rope.attention_factor * (1.0 + growth) / (1.0 + rope.log_multiplier * growth)


def _yarn(rope: Rope, pairs: Doubles, frequency: Doubles) -> Doubles:
    """Slow pairs are interpolated, fast ones kept, with a ramp between."""

    def pair_of(rotations: float) -> float:
        turns = rope.original_context / (rotations * 2 * math.pi)
        return rope.dimensions * math.log(turns) / (2 * math.log(rope.base))

    begin, end = pair_of(rope.beta_fast), pair_of(rope.beta_slow)
    if rope.truncated:
        begin, end = math.floor(begin), math.ceil(end)
    low, high = max(0.0, begin), min(rope.dimensions - 1.0, end)
    kept = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
    return frequency / rope.factor * (1.0 - kept) + frequency * kept


def _llama3(rope: Rope, frequency: Doubles) -> Doubles:
    """Long wavelengths are divided by the factor, short ones kept, those between blended."""
    turns = rope.original_context * frequency / (2 * math.pi)
    blend = (turns - rope.low_frequency) / max(rope.high_frequency - rope.low_frequency, 1e-9)
    kept = np.clip(blend, 0.0, 1.0)
    return frequency / rope.factor * (1.0 - kept) + frequency * kept
