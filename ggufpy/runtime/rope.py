"""Angles of rotary positions, computed in float64 for the positions of a step.

YaRN: Peng et al. 2023, https://arxiv.org/abs/2309.00071, with the ramp over pair indices that ggml uses.
Llama 3 scaling: the wavelength bands of Meta's reference code (factor, low and high frequency factors).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ggufpy.plan import Rope


class RopeTable:
    """cos and sin of every pair's angle at any position."""

    def __init__(self, rope: Rope) -> None:
        pairs = np.arange(rope.dimensions // 2, dtype=np.float64)
        frequency = rope.base ** (-2.0 * pairs / max(rope.dimensions, 1))
        if rope.factors:
            frequency = frequency / np.array(rope.factors)
        self.magnitude = rope.attention_factor  # whatever the scaling, as llama.cpp has it (src/llama-context.cpp)
        if rope.scaling == "linear":
            frequency = frequency / rope.factor
        elif rope.scaling == "yarn":
            frequency = _yarn(rope, pairs, frequency)
            self.magnitude *= 1.0 + 0.1 * math.log(max(rope.factor, 1.0))
        elif rope.scaling == "llama3":
            frequency = _llama3(rope, frequency)
        self.frequency: NDArray[np.float64] = frequency

    def fill(self, positions: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Writes (cos, sin) for positions (tokens,) into out (tokens, pairs, 2)."""
        self.turn(positions, out)
        if self.magnitude != 1.0:
            out *= self.magnitude

    def turn(self, distances: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """The same for what has been rotated already and moves by `distances`: the magnitude stays as it is."""
        angles = distances.astype(np.float64)[:, None] * self.frequency
        out[..., 0] = np.cos(angles)
        out[..., 1] = np.sin(angles)


def _yarn(rope: Rope, pairs: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slow pairs are interpolated, fast ones kept, with a ramp between."""

    def pair_of(rotations: float) -> float:
        turns = rope.original_context / (rotations * 2 * math.pi)
        return rope.dimensions * math.log(turns) / (2 * math.log(rope.base))

    low = max(0.0, math.floor(pair_of(rope.beta_fast)))
    high = min(rope.dimensions - 1.0, math.ceil(pair_of(rope.beta_slow)))
    kept = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
    return frequency / rope.factor * (1.0 - kept) + frequency * kept


def _llama3(rope: Rope, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Long wavelengths are divided by the factor, short ones kept, those between blended."""
    turns = rope.original_context * frequency / (2 * math.pi)
    blend = (turns - rope.low_frequency) / max(rope.high_frequency - rope.low_frequency, 1e-9)
    kept = np.clip(blend, 0.0, 1.0)
    return frequency / rope.factor * (1.0 - kept) + frequency * kept
