"""Locally typical sampling (Meister et al. 2022): tokens about as surprising as tokens are here on average."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Share

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class Typical(Cut):
    """Keeps tokens whose surprise is closest to the entropy, up to a share of probability, in the order of logits."""

    PLACE = 50
    NAME, LETTER, SPELLINGS = "typ_p", "y", ("typ", "typical", "typical_p")
    OPTIONS = (
        Option(
            "typical",
            1.0,
            Share(),
            "keep tokens about as surprising as the average here, that make up this share; 1: off",
            ("--typical", "--typical-p"),
            aliases=("typical_p", "typ_p"),
        ),
    )
    keeps_best = False

    def __init__(self, sampling: Sampling) -> None:
        self._share: float = sampling.typical
        self._least: int = sampling.min_keep

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.typical < 1)

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        import numpy as np

        candidates.sort()
        p = candidates.shares()
        surprise = -np.log(np.maximum(p, np.finfo(np.float64).tiny))
        order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
        count = int(np.searchsorted(np.cumsum(p[order]), self._share, side="right")) + 1
        candidates.keep(np.sort(order[: max(count, self._least)]))


STEP = Typical
