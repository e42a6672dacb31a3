"""Lists of functions that look at logits while a text is written, under llama_cpp's names.

A logits processor gets the ids so far (n,) and logits (n_vocab,), and returns logits; a stopping criterion gets the
same and says whether the text ends before the next token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support import checks

LogitsProcessor = Callable[[Any, Any], Any]
StoppingCriteria = Callable[[Any, Any], bool]


class LogitsProcessorList(list[LogitsProcessor]):
    """Processors that are called one after the other, as one."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


class StoppingCriteriaList(list[StoppingCriteria]):
    """Criteria of which any ends the text; all of them are asked."""

    def __call__(self, input_ids: Any, logits: Any) -> bool:
        said = [criterion(input_ids, logits) for criterion in self]  # they may count their calls
        return any(said)


class MinTokensLogitsProcessor:
    """Keeps one text from ending before it has `min_tokens`, by the logit of `token_eos`; made anew for each text."""

    def __init__(self, min_tokens: int, token_eos: int) -> None:
        self.min_tokens = checks.whole("min_tokens", min_tokens, 0)
        self.token_eos = checks.whole("token_eos", token_eos, 0)
        self.prompt_tokens: int | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.token_eos >= len(scores):
            raise GGUFError(f"token_eos is {self.token_eos}, and the vocabulary has {len(scores):,} tokens")
        if self.prompt_tokens is None:
            self.prompt_tokens = len(input_ids)
        if len(input_ids) - self.prompt_tokens < self.min_tokens:
            scores[self.token_eos] = -float("inf")
        return scores
