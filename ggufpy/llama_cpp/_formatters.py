"""Formatters made of jinja2 templates, of a checkpoint's tokenizer_config.json, or of a tokenizer of transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.llama_cpp._handlers import chat_formatter_to_chat_completion_handler
from ggufpy.llama_cpp._responses import ChatFormatter, ChatFormatterResponse, LlamaChatCompletionHandler
from ggufpy.support import checks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.chat import ChatTemplate

_OFFERED = ("functions", "function_call", "tools", "tool_choice")


class Jinja2ChatFormatter:
    """A template with the texts of its tokens, in the sandbox that all templates run in. Answers also end before one of
    `stop_token_ids`. Raises GGUFError for what is no template."""

    def __init__(
        self,
        template: str,
        eos_token: str,
        bos_token: str,
        add_generation_prompt: bool = True,
        stop_token_ids: Sequence[int] | None = None,
    ) -> None:
        self.template, self.eos_token, self.bos_token = template, eos_token, bos_token
        self.add_generation_prompt = add_generation_prompt
        self.stop_token_ids = None if stop_token_ids is None else frozenset(stop_token_ids)
        self._template = _template(template, bos_token, eos_token)

    def __call__(self, *, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> ChatFormatterResponse:
        """The prompt of a chat; `kwargs` are variables of the template. Raises GGUFError as `ChatTemplate.render`."""
        variables = {**dict.fromkeys(_OFFERED), **kwargs}
        prompt = self._template.render(messages, add_generation_prompt=self.add_generation_prompt, **variables)
        criteria = None if self.stop_token_ids is None else self._ended
        return ChatFormatterResponse(prompt, [self.eos_token], criteria, added_special=True)

    def to_chat_handler(self) -> LlamaChatCompletionHandler:
        """This formatter as what answers chats."""
        return chat_formatter_to_chat_completion_handler(self)

    def _ended(self, tokens: NDArray[np.integer[Any]], logits: NDArray[np.float32]) -> bool:
        return self.stop_token_ids is not None and int(tokens[-1]) in self.stop_token_ids


def hf_tokenizer_config_to_chat_formatter(
    tokenizer_config: Mapping[str, Any], add_generation_prompt: bool = True
) -> ChatFormatter:
    """A formatter of a tokenizer_config.json, read into a dict: it must have chat_template, bos_token and eos_token.

    With `add_generation_prompt` an empty assistant's message is put behind the others, as llama-cpp-python does; the
    template's variable of that name is not set. Answers end at either token. Raises GGUFError for a field that is
    missing.
    """
    config = checks.mapping("tokenizer_config", tokenizer_config)
    source, bos, eos = (_field(config, name) for name in ("chat_template", "bos_token", "eos_token"))
    template = _template(source, bos, eos)

    def formatter(*, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> ChatFormatterResponse:
        chat = [*messages, {"role": "assistant", "content": ""}] if add_generation_prompt else messages
        prompt = template.render(chat, add_generation_prompt=False, **kwargs)
        return ChatFormatterResponse(prompt, [eos, bos], added_special=True)

    return formatter


def hf_tokenizer_config_to_chat_completion_handler(
    tokenizer_config: Mapping[str, Any], add_generation_prompt: bool = True
) -> LlamaChatCompletionHandler:
    """`hf_tokenizer_config_to_chat_formatter` as what answers chats."""
    return chat_formatter_to_chat_completion_handler(
        hf_tokenizer_config_to_chat_formatter(tokenizer_config, add_generation_prompt)
    )


def hf_autotokenizer_to_chat_formatter(pretrained_model_name_or_path: str | os.PathLike[str]) -> ChatFormatter:
    """A formatter of a checkpoint's tokenizer, by transformers' own `apply_chat_template`. Raises GGUFError without
    transformers."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise GGUFError("a chat format of a checkpoint needs transformers: pip install transformers") from error
    tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path)

    def formatter(*, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> ChatFormatterResponse:
        prompt = tokenizer.apply_chat_template([dict(each) for each in messages], tokenize=False, **kwargs)
        return ChatFormatterResponse(str(prompt), tokenizer.eos_token, added_special=True)

    return formatter


def hf_autotokenizer_to_chat_completion_handler(
    pretrained_model_name_or_path: str | os.PathLike[str],
) -> LlamaChatCompletionHandler:
    """`hf_autotokenizer_to_chat_formatter` as what answers chats."""
    return chat_formatter_to_chat_completion_handler(hf_autotokenizer_to_chat_formatter(pretrained_model_name_or_path))


def _template(source: str, bos: str, eos: str) -> ChatTemplate:
    from ggufpy.chat import ChatTemplate

    return ChatTemplate(checks.text("template", source), bos, eos, "template")


def _field(config: Mapping[Any, Any], name: str) -> str:
    value = config.get(name)
    if not isinstance(value, str):
        raise GGUFError(f"tokenizer_config.{name} is {checks.shown(value)}; a text is wanted")
    return value
