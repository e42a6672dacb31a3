"""Top-nσ (Tang et al. 2024): logits within n standard deviations of the largest, whatever the temperature.

Facts: llama_sampler_top_n_sigma in src/llama-sampler.cpp of llama.cpp. There what is dropped stays as a candidate of
-inf, which samplers behind it count (dynamic temperature, min_keep); here it is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Real

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class TopNSigma(Cut):
    """Keeps what is at most n standard deviations below the largest; logits of -inf do not count for those."""

    PLACE = 30
    NAME, LETTER = "top_n_sigma", "s"
    OPTIONS = (
        Option(
            "top_n_sigma",
            -1.0,
            Real(),
            "drop logits more than N standard deviations below the largest; 0 or less: off",
            ("--top-nsigma", "--top-n-sigma"),
            metavar="N",
        ),
    )
    sorts = False

    def __init__(self, sampling: Sampling) -> None:
        self._n: float = sampling.top_n_sigma

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.top_n_sigma > 0)

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        import numpy as np

        logits = candidates.logits
        spread = logits[logits > -np.inf].std(dtype=np.float64)
        candidates.keep(np.flatnonzero(logits >= float(logits.max() - self._n * spread)))


STEP = TopNSigma
