"""What completions need of a loaded model; `ggufpy.Llama` is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ggufpy.api.openai.prompts import Answers, ChatPrompt
    from ggufpy.chat.tools import Offer
    from ggufpy.generate.loop import Stream
    from ggufpy.generate.sampling import Constraint, Guides, Sampling
    from ggufpy.grammar import Grammar
    from ggufpy.tokenizers import Tokenizer

Record = dict[str, Any]


class Model(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def n_vocab(self) -> int: ...
    def n_known(self) -> int: ...
    def n_parallel(self) -> int: ...
    def sampling(self, **options: Any) -> Sampling: ...
    def check_prompt(self, tokens: Sequence[int]) -> None: ...
    def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], offer: Offer | None = None, **variables: Any
    ) -> ChatPrompt: ...
    @property
    def chat_answers(self) -> Answers: ...
    def infill_tokens(self, prompt: str, suffix: str) -> list[int]: ...
    def adapter_scales(self, lora: object) -> tuple[float, ...] | None: ...
    def constraint(self, grammar: Grammar, after: str | None = None) -> Constraint: ...
    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling | None = None,
        *,
        limit: int | None = None,
        guides: Guides | None = None,
        scales: Sequence[float] | None = None,
    ) -> Stream: ...
    def prompt_logprobs(self, tokens: Sequence[int], count: int) -> list[tuple[float, list[tuple[int, float]]]]: ...
