"""The draw: one of the tokens that are left, by chance.

The random numbers are NumPy's PCG64 with the text's seed: one for each token that is drawn, and one more for each turn
of a step that leaves something to chance (XTC). They are a text's own: what else runs, and tokens that are guessed and
not taken (drafts), change nothing. llama.cpp draws with mt19937, a generator for each sampler of its chain: the same
seed gives other tokens there, of the same distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Last
from ggufpy.support import checks
from ggufpy.support.options import Option, Whole

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates


class Seed:
    """Seeds of random numbers."""

    def check(self, name: str, value: object) -> int | None:
        """See Kind."""
        return checks.seed(name, value)

    def read(self, text: str) -> int:
        """See Kind."""
        return Whole().read(text)


class Draw(Last):
    """Leaves one token, drawn by the probabilities of all that are left."""

    PLACE = 130
    OPTIONS = (
        Option(
            "seed",
            None,
            Seed(),
            "repeat a sampled answer",
            ("-s", "--seed"),
            metavar="SEED",
            default_text="-1, a new one every time",
        ),
    )

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        candidates.draw()


STEP = Draw
