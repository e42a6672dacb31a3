"""Ops that scale or bound a row by what it holds or where it stands: gates of one number, temperature, limits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggufpy.support.records import dataclass

from .op import Weight
from .ops import InPlace, Onto


@dataclass(frozen=True)
class ScaleByGate(Onto):
    """y *= sigmoid(weight · x): a number for each row, from `weight` (n,) and the n columns of x.

    How much the shared expert of a mixture counts; it may have gone through the down matrix or not. x and y have no
    column in common. Facts: src/models/qwen2moe.cpp of llama.cpp.
    """

    x: str
    weight: Weight
    y: str
    width: int


@dataclass(frozen=True)
class PositionScale:
    """A factor by position p: 1 + slope · log(1 + floor((p + offset) / length)).

    Queries grow with it, so that attention over long texts stays as sharp as over short ones. Facts: `set_input` of
    `llm_graph_input_attn_temp` in src/llama-graph.cpp of llama.cpp.
    """

    slope: float
    length: int
    offset: int = 0

    def factors(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) for positions (n,)."""
        steps = (positions + self.offset) // self.length
        factors: NDArray[np.float64] = 1.0 + self.slope * np.log1p(steps.astype(np.float64))
        return factors


@dataclass(frozen=True)
class ScaleByPosition(InPlace):
    """x *= the factor of `by` for the row's position."""

    x: str
    width: int
    by: PositionScale


@dataclass(frozen=True)
class Clamp(InPlace):
    """x = min(max(x, low), high)."""

    x: str
    width: int
    low: float
    high: float
