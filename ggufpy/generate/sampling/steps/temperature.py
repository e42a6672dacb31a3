"""Temperature: how far apart the logits are that are left, always the same or by how sure the model is.

Facts: llama_sampler_temp_ext in src/llama-sampler.cpp of llama.cpp, which has the entropy temperature of kalomaze.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.kinds import Within
from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Real

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class Temperature(Cut):
    """Divides the logits of what is left, so that 0.5 squares the probabilities; 0 takes the likeliest.

    With a range r around the temperature t it is max(0, t - r) where one token has all the probability, t + r where all
    that are left have the same, and between them by (entropy / largest entropy)^exponent. Behind mirostat's options it
    is always the same, as there.
    """

    PLACE = 90
    NAME, LETTER, SPELLINGS = "temperature", "t", ("temp",)
    OPTIONS = (
        Option(
            "temp",
            0.8,
            Real(),
            "randomness; 0: none, the likeliest of what the samplers before it leave",
            ("--temp", "--temperature"),
            aliases=("temperature",),
        ),
        Option(
            "dynatemp_range",
            0.0,
            Within(0),
            "let the temperature go this far down where the model is sure, and up where it is not; 0: off",
            ("--dynatemp-range",),
        ),
        Option(
            "dynatemp_exponent",
            1.0,
            Within(0),
            "how the temperature goes by entropy: above 1 it stays low for longer",
            ("--dynatemp-exp", "--dynatemp-exponent"),
            aliases=("dynatemp_exp",),
        ),
    )

    def __init__(self, sampling: Sampling) -> None:
        self._temp: float = sampling.temp
        self._range: float = 0.0 if sampling.mirostat else sampling.dynatemp_range
        self._exponent: float = sampling.dynatemp_exponent
        self.takes_best = self._temp + self._range <= 0
        self.sorts = self.takes_best or self._range > 0

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        if self.sorts:
            candidates.sort()
        temp = self._by_entropy(candidates) if self._range and len(candidates) > 1 else self._temp
        if temp <= 0:
            candidates.first(1)
        else:
            candidates.cool(temp)

    def _by_entropy(self, candidates: Candidates) -> float:
        import numpy as np

        p = candidates.shares()
        p = p[p > 0]
        entropy = float(-(p * np.log(p)).sum() / np.log(len(candidates)))
        low = max(0.0, self._temp - self._range)
        unsure: float = min(max(entropy, 0.0), 1.0) ** self._exponent
        return low + (self._temp + self._range - low) * unsure


STEP = Temperature
