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
    OPTIONS = (Option("top_k", 40, Whole(), "keep the K likeliest; 0: all", ("--top-k",), metavar="K"),)

    def __init__(self, sampling: Sampling) -> None:
        self._k: int = sampling.top_k

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.top_k > 0)

    @classmethod
    def is_greedy(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.top_k == 1)

    def apply(self, candidates: Candidates) -> None:
        """See Cut."""
        candidates.sort(self._k)


STEP = TopK
