"""Min-p: no token that is much less likely than the likeliest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Share

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class MinP(Cut):
    """Drops tokens below a share of the likeliest: 0.05 is a logit of 3.0 (ln 20) below the largest."""

    PLACE = 70
    NAME, LETTER = "min_p", "m"
    OPTIONS = (Option("min_p", 0.05, Share(), "drop tokens below this share of the likeliest; 0: none", ("--min-p",)),)

    def __init__(self, sampling: Sampling) -> None:
        self._log_share: float = math.log(sampling.min_p)
        self._least: int = max(sampling.min_keep, 1)
        self.floor = self._log_share if self._least == 1 else None

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.min_p > 0)

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        candidates.sort()
        candidates.first_above(self._log_share, self._least)


STEP = MinP
