"""Temperature: how far apart the logits are that are left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Real

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class Temperature(Cut):
    """Divides the logits of what is left, so that 0.5 squares the probabilities; 0 takes the likeliest."""

    PLACE = 90
    OPTIONS = (
        Option(
            "temp",
            0.8,
            Real(),
            "randomness; 0: none, the likeliest token",
            ("--temp", "--temperature"),
            aliases=("temperature",),
        ),
    )

    def __init__(self, sampling: Sampling) -> None:
        self._temp: float = sampling.temp

    @classmethod
    def is_greedy(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.temp <= 0)

    def apply(self, candidates: Candidates) -> None:
        """See Cut."""
        candidates.sort()
        candidates.logits = (candidates.logits - candidates.logits[0]) / self._temp


STEP = Temperature
