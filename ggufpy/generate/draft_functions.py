"""Drafts by functions of the caller: classes of llama_cpp.llama_speculative, and what makes drafters of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.generate.drafters import Drafter, PromptLookup
from ggufpy.support import checks

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST = 256  # tokens that there is room for at first


class LlamaDraftModel(ABC):
    """Guesses how a text goes on, for `Llama(draft_model=...)`: it comes faster then, and is the same text."""

    @abstractmethod
    def __call__(self, input_ids: NDArray[Any], /, **kwargs: Any) -> NDArray[Any]:
        """Tokens that may follow `input_ids`, int32 (n,), which are there during the call; none is an answer, too."""


class LlamaPromptLookupDecoding(LlamaDraftModel):
    """Guesses up to `num_pred_tokens` that followed where the last `max_ngram_size` tokens, or fewer, stood before.

    A `Llama` has an index of its own for this one (`PromptLookup`), which takes the latest such place; called as a
    function it takes the first (https://github.com/apoorvumang/prompt-lookup-decoding).
    """

    def __init__(self, max_ngram_size: int = 2, num_pred_tokens: int = 10) -> None:
        self.max_ngram_size = checks.whole("max_ngram_size", max_ngram_size, 1)
        self.num_pred_tokens = checks.whole("num_pred_tokens", num_pred_tokens, 1)

    @staticmethod
    def find_candidate_pred_tokens(input_ids: NDArray[Any], max_ngram_size: int, num_pred_tokens: int) -> NDArray[Any]:
        """What followed the first place that has the longest possible n-gram of the end; an empty array without one."""
        import numpy as np

        n = len(input_ids)
        for size in range(min(max_ngram_size, n - 1), 0, -1):
            windows = np.lib.stride_tricks.sliding_window_view(input_ids[:-1], size)
            found = np.flatnonzero((windows == input_ids[n - size :]).all(axis=1))
            if len(found):
                start = int(found[0]) + size
                return input_ids[start : start + num_pred_tokens]
        return np.array([], np.intc)

    def __call__(self, input_ids: NDArray[Any], /, **kwargs: Any) -> NDArray[Any]:
        return self.find_candidate_pred_tokens(input_ids, self.max_ngram_size, self.num_pred_tokens)


def drafter_of(draft: LlamaDraftModel, n_known: int) -> Drafter:
    """What drafts one text for a model of `n_known` tokens."""
    if type(draft) is LlamaPromptLookupDecoding:
        longest = draft.max_ngram_size
        return PromptLookup(draft.num_pred_tokens, longest, min(longest, 2))  # one token alone is mostly an accident
    return FunctionDrafter(draft, n_known)


class FunctionDrafter:
    """Drafts what a function makes of the whole text. See `Drafter`."""

    def __init__(self, function: LlamaDraftModel, n_known: int) -> None:
        import numpy as np

        self._function, self._n_known = function, n_known
        self._ids = np.empty(LEAST, np.intc)
        self._count = 0

    def begin(self, tokens: Sequence[int]) -> None:
        """A text that begins with these."""
        import numpy as np

        self._count = len(tokens)
        self._ids = np.empty(max(LEAST, 2 * len(tokens)), np.intc)
        self._ids[: self._count] = tokens

    def add(self, token: int) -> None:
        """The text has grown."""
        import numpy as np

        if self._count == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
        self._ids[self._count] = token
        self._count += 1

    def propose(self, most: int) -> list[int]:
        """What the function guesses. Raises GGUFError where that is no list of tokens."""
        name = f"{type(self._function).__name__}'s draft"
        guessed = self._function(self._ids[: self._count])
        if guessed is None:
            raise GGUFError(f"{name} is None; an array of tokens is wanted, an empty one for no guess")
        return checks.tokens(name, guessed, self._n_known)[:most]
