"""What a chat formatter gives, and the protocols of formatters and handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ggufpy.llama_cpp.llama_types import (
        ChatCompletionRequestMessage,
        CreateChatCompletionResponse,
        CreateChatCompletionStreamResponse,
    )
    from ggufpy.llm import Llama

Criteria = Callable[[Any, Any], bool]  # ids (n,) and logits (n_vocab,): whether the text ends here


@dataclass
class ChatFormatterResponse:
    """A prompt, what ends the answer beside the model's end tokens, and whether the prompt begins with the beginning
    token itself (`added_special`). Programs make these and may change them."""

    prompt: str
    stop: str | list[str] | None = None
    stopping_criteria: Criteria | None = None
    added_special: bool = False


class ChatFormatter(Protocol):
    """Writes the prompt of a chat. Keywords beside `messages` are what the call has: tools, or anything else."""

    def __call__(self, *, messages: Sequence[ChatCompletionRequestMessage], **kwargs: Any) -> ChatFormatterResponse: ...


class LlamaChatCompletionHandler(Protocol):
    """Answers a chat. Keywords beside these are those of `Llama.create_chat_completion`; with `stream` the answer is an
    iterator of chunks."""

    def __call__(
        self, *, llama: Llama, messages: Sequence[ChatCompletionRequestMessage], stream: bool = False, **kwargs: Any
    ) -> CreateChatCompletionResponse | Iterator[CreateChatCompletionStreamResponse]: ...
