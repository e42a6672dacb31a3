"""What a step of the chain is. `steps/` has them, a module each, which ends with its class, `STEP`.

Steps are made for one text, from the options, and run for every token by rising `PLACE`. An `Adjust` changes the logits
of all tokens, a `Cut` works on candidates. Where the likeliest token is wanted (`is_greedy`), no cut runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ggufpy.support.options import Option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling


class Step:
    """A step; `sampling` has its OPTIONS as attributes."""

    PLACE: ClassVar[int]  # as in llama.cpp's default chain (common/common.h), by tens
    OPTIONS: ClassVar[tuple[Option, ...]] = ()

    def __init__(self, sampling: Sampling) -> None:
        pass

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """Whether the options ask for this step; it is left out otherwise."""
        return True

    @classmethod
    def is_greedy(cls, sampling: Sampling) -> bool:
        """Whether the options of this step ask for the likeliest token."""
        return False

    @classmethod
    def check_tokens(cls, sampling: Sampling, n_vocab: int) -> None:
        """Raise GGUFError for options with a token that is not among `n_vocab`."""


class Adjust(Step):
    """A step that changes logits."""

    def accept(self, token: int) -> None:
        """Hears of every token of the text, from the prompt or drawn."""

    def adjust(self, logits: NDArray[np.float32]) -> None:
        """Change `logits`, float32 (n_vocab,), in place."""
        raise NotImplementedError


class Cut(Step):
    """A step that takes candidates away, or changes how likely those are that are left.

    `floor` is a promise: what is further than that below the largest logit is not left by this step (-3.0: by more than
    3), so that steps before need not have it sorted. It holds while the likeliest token is there: a step that may take
    that away says so, by `keeps_best` False.
    """

    keeps_best: ClassVar[bool] = True
    floor: float | None = None

    def apply(self, candidates: Candidates) -> None:
        """Change `candidates`, and leave at least one."""
        raise NotImplementedError
