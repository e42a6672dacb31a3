"""Top-k: the k likeliest tokens. A large vocabulary costs one partition, and only the k are sorted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Whole

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class TopK(Cut):
    """Keeps the k likeliest."""

    PLACE = 40
    NAME, LETTER = "top_k", "k"
    OPTIONS = (Option("top_k", 40, Whole(), "keep the K likeliest; 0: all", ("--top-k",), metavar="K"),)
    blind_below = True

    def __init__(self, sampling: Sampling) -> None:
        self._k: int = sampling.top_k
        self.takes_best = self._k == 1

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.top_k > 0)

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        candidates.sort(self._k)


STEP = TopK
