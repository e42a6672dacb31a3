"""Top-p, or nucleus sampling (Holtzman et al. 2020): the likeliest tokens that make up a share of probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Share

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class TopP(Cut):
    """Keeps the likeliest until they reach the share: at least one."""

    PLACE = 60
    NAME, LETTER, SPELLINGS = "top_p", "p", ("nucleus",)
    OPTIONS = (Option("top_p", 0.95, Share(), "keep the likeliest that make up this share; 1: all", ("--top-p",)),)
    blind_below = True

    def __init__(self, sampling: Sampling) -> None:
        self._share: float = sampling.top_p
        self._least: int = sampling.min_keep

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.top_p < 1)

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        candidates.first_with(self._share, self._least)


STEP = TopP
