"""The draw: one of the tokens that are left, by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.generate.sampling.step import Cut
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


class Draw(Cut):
    """Leaves one token, drawn by the probabilities of all that are left."""

    PLACE = 100
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
        """See Cut."""
        candidates.sort()
        reached = candidates.shares().cumsum()
        place = int(reached.searchsorted(candidates.random.random() * reached[-1], side="right"))
        candidates.after(min(place, len(candidates) - 1))
        candidates.first(1)


STEP = Draw
