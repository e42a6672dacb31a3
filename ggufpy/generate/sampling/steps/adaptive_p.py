"""Adaptive-p (MrJackSpade 2025): tokens of about one probability are drawn, and what was drawn moves the aim.

Facts: llama_sampler_adaptive_p in src/llama-sampler.cpp of llama.cpp. It draws, so it has its turn at the end wherever
`samplers` names it, and only where that does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling.kinds import Within
from ggufpy.generate.sampling.step import Last
from ggufpy.support.options import Option, Real

if TYPE_CHECKING:
    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling

_WIDTH = 0.3  # distance from the aim that counts as 1
_PEAK = 5.0  # the logit of a token right at the aim
_SHARPNESS = 10.0  # how fast logits fall from there: quadratic at first, then linear


class Target(Real):
    """A probability; what is below 0 is none."""

    def check(self, name: str, value: object) -> float:
        """See Kind."""
        target = super().check(name, value)
        if target > 1:
            raise GGUFError(f"{name} is {target}, and must be from 0 to 1 (below 0 turns it off)")
        return target


class AdaptiveP(Last):
    """Draws by how close the probabilities of tokens are to an aim.

    The aim is as far on one side of the target as the mean of what was drawn is on the other; that mean forgets, by
    `decay` a token, and begins at the target. Probabilities are those that the samplers before it leave.
    """

    PLACE = 120
    NAME, LETTER, USUAL = "adaptive_p", "a", False
    OPTIONS = (
        Option(
            "adaptive_target",
            -1.0,
            Target(),
            "draw tokens of about this probability, with adaptive_p among the samplers; below 0: off",
            ("--adaptive-target",),
            metavar="P",
        ),
        Option(
            "adaptive_decay",
            0.9,
            Within(0, 0.99),
            "how long adaptive_p remembers what was drawn: 1 / (1 - X) tokens",
            ("--adaptive-decay",),
        ),
    )

    def __init__(self, sampling: Sampling) -> None:
        self._target: float = sampling.adaptive_target
        self._decay: float = sampling.adaptive_decay
        self._weight = 1 / (1 - self._decay)  # of the tokens so far, the newest 1
        self._sum = self._target * self._weight  # of their probabilities
        self._drawn: tuple[int, float] | None = None  # what has not been accepted yet

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """See Step."""
        return sampling.adaptive_target >= 0 and cls.NAME in sampling.samplers

    @classmethod
    def check(cls, sampling: Sampling) -> None:
        """See Step."""
        if sampling.adaptive_target >= 0 and not sampling.mirostat and cls.NAME not in sampling.samplers:
            raise GGUFError(
                "adaptive_target is for the sampler adaptive_p, which samplers does not name: "
                "let it be as min_p;temperature;adaptive_p, or leave out adaptive_target"
            )

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        import numpy as np

        candidates.sort()
        shares = candidates.shares()
        aim = min(max(2 * self._target - self._sum / self._weight, 0.0), 1.0)
        far = np.abs(shares - aim) / _WIDTH
        logits = _PEAK - _SHARPNESS * far * far / (1 + far)
        place = candidates.draw(np.exp(logits - logits.max()))
        self._drawn = int(candidates.ids[0]), float(shares[place])

    def accept(self, token: int) -> None:
        """See Step."""
        if self._drawn is not None and self._drawn[0] == token:
            self._sum = self._drawn[1] + self._decay * self._sum
            self._weight = 1 + self._decay * self._weight
        self._drawn = None


STEP = AdaptiveP
