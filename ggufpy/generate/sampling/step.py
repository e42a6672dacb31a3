"""What a step of the chain is. `steps/` has them, a module each, which ends with its class, `STEP`.

Steps are made for one text, from the options, and run for every token. Those with a `NAME` run in the order that
`samplers` gives, by rising `PLACE` if nothing else is asked for; those without run ahead of them. An `Adjust` changes
the logits of some tokens, a `Cut` takes candidates away, and one `Last` draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from ggufpy.support.options import Option

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.sampling.candidates import Candidates
    from ggufpy.generate.sampling.options import Sampling
    from ggufpy.tokenizers.texts import TokenTexts


class Vocabulary(Protocol):
    """What steps ask about the texts of tokens; a `Tokenizer` is one."""

    @property
    def texts(self) -> TokenTexts:
        """The bytes of all tokens."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Every id that ends a generation."""

    def token_bytes(self, token: int, special: bool = True) -> bytes:
        """The bytes that a token stands for; nothing for a control token without `special`."""

    def encode(self, text: str | bytes, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Ids of `text`."""


class Step:
    """A step; `sampling` has its OPTIONS as attributes."""

    PLACE: ClassVar[int]  # as in llama.cpp's default chain (common/common.h), by tens
    OPTIONS: ClassVar[tuple[Option, ...]] = ()
    NAME: ClassVar[str] = ""  # in `samplers`, by llama.cpp's name
    LETTER: ClassVar[str] = ""  # in `--sampler-seq`
    SPELLINGS: ClassVar[tuple[str, ...]] = ()  # further names
    USUAL: ClassVar[bool] = True  # whether it runs where `samplers` is not given

    def __init__(self, sampling: Sampling) -> None:
        pass

    @classmethod
    def is_on(cls, sampling: Sampling) -> bool:
        """Whether the options ask for this step; it is left out otherwise."""
        return True

    @classmethod
    def check(cls, sampling: Sampling) -> None:
        """Raise GGUFError for options that contradict one another."""

    @classmethod
    def check_tokens(cls, sampling: Sampling, n_vocab: int) -> None:
        """Raise GGUFError for options with a token that is not among `n_vocab`."""

    def learn(self, vocabulary: Vocabulary | None) -> None:
        """What tokens say, once, ahead of the text; None where a model has no vocabulary."""

    def accept(self, token: int) -> None:
        """Hears of every token of the text, from the prompt or drawn."""

    def apply(self, candidates: Candidates) -> None:
        """Change `candidates`, and leave at least one."""
        raise NotImplementedError


class Adjust(Step):
    """A step that changes the logits of some tokens."""

    def tokens(self) -> NDArray[np.int64]:
        """Ids of those tokens (n,), each once."""
        raise NotImplementedError

    def adjusted(self, logits: NDArray[Any], which: NDArray[np.int64] | slice) -> NDArray[Any]:
        """New logits for `logits`, those of the tokens at the places `which` of `tokens()`."""
        raise NotImplementedError

    def apply(self, candidates: Candidates) -> None:
        """See Step."""
        places, which = candidates.find(self.tokens())
        if len(places):
            candidates.change(places, self.adjusted(candidates.logits[places], which))


class Cut(Step):
    """A step that takes candidates away, or changes how likely those are that are left.

    `floor` is a promise: what is further than that below the largest logit is not left by this step (-3.0: by more than
    3), so that steps before need not have it sorted. It goes through those alone that are `blind_below` it: what is far
    below the largest logit changes nothing that they do to the rest. `sorts` is False for a step that takes candidates
    in any order.
    """

    keeps_best: ClassVar[bool] = True  # whether the likeliest candidate is still there, and the likeliest
    blind_below: ClassVar[bool] = False
    sorts: bool = True
    floor: float | None = None
    takes_best: bool = False  # whether the likeliest candidate is all that it leaves


class Last(Step):
    """A step that draws: it leaves one candidate. The first of them that is on runs, at the end.

    Without a `CHAIN` the samplers that the options name run before it, else those of `CHAIN`.
    """

    CHAIN: ClassVar[tuple[str, ...] | None] = None
