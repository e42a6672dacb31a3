"""XTC, exclude top choices: now and then the likeliest tokens are passed over, for texts that surprise.

Facts: llama_sampler_xtc in src/llama-sampler.cpp of llama.cpp. There chance has random numbers of its own; here it
takes one of the text's for each token, ahead of the draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut
from ggufpy.support.options import Option, Share

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class Xtc(Cut):
    """Of the tokens that reach the threshold drops all but the least likely, with the given probability.

    With a threshold of 0.1, shares of 0.5, 0.3, 0.15 and 0.05 leave 0.15 and 0.05. No two tokens can reach more than
    0.5, so that turns it off.
    """

    PLACE = 80
    NAME, LETTER = "xtc", "x"
    OPTIONS = (
        Option(
            "xtc_probability",
            0.0,
            Share(),
            "how often the likeliest tokens are passed over; 0: never",
            ("--xtc-probability",),
        ),
        Option(
            "xtc_threshold",
            0.1,
            Share(),
            "the share from which a token is passed over, if another reaches it; above 0.5: none",
            ("--xtc-threshold",),
        ),
    )
    keeps_best = False

    def __init__(self, sampling: Sampling) -> None:
        self._probability: float = sampling.xtc_probability
        self._threshold: float = sampling.xtc_threshold
        self._least: int = sampling.min_keep

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return bool(sampling.xtc_probability > 0 and sampling.xtc_threshold <= 0.5)

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        candidates.sort()
        if len(candidates) < 2 or candidates.random.random() >= self._probability:
            return
        reached = int((candidates.shares() >= self._threshold).sum())
        if reached > 1 and len(candidates) - (reached - 1) >= self._least:
            candidates.after(reached - 1)


STEP = Xtc
