"""The names of llama-cpp-python's `llama_cpp.llama_chat_format`: formatters, handlers, and their registry.

A formatter writes prompts; a handler answers chats. What is registered under a name here is what `Llama(chat_format=
name)` uses; formats that come with ggufpy are in `ggufpy.chat.formats`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ggufpy.chat import formats
from ggufpy.chat.formats import UnknownFormat
from ggufpy.errors import GGUFError
from ggufpy.llama_cpp._formats import (
    chatml_function_calling,
    format,
    format_alpaca,
    format_baichuan,
    format_baichuan2,
    format_chatglm3,
    format_chatml,
    format_gemma,
    format_intel,
    format_llama2,
    format_llama3,
    format_mistral_instruct,
    format_mistrallite,
    format_oasst_llama,
    format_open_orca,
    format_openbuddy,
    format_openchat,
    format_phind,
    format_pygmalion,
    format_qwen,
    format_redpajama_incite,
    format_saiga,
    format_snoozy,
    format_zephyr,
    functionary_chat_handler,
    functionary_v1_v2_chat_handler,
)
from ggufpy.llama_cpp._formats import handler as format_handler
from ggufpy.llama_cpp._formatters import (
    Jinja2ChatFormatter,
    hf_autotokenizer_to_chat_completion_handler,
    hf_autotokenizer_to_chat_formatter,
    hf_tokenizer_config_to_chat_completion_handler,
    hf_tokenizer_config_to_chat_formatter,
)
from ggufpy.llama_cpp._handlers import chat_formatter_to_chat_completion_handler
from ggufpy.llama_cpp._images import (
    Gemma4ChatHandler,
    Llama3VisionAlpha,
    Llama3VisionAlphaChatHandler,
    Llava15ChatHandler,
    Llava16ChatHandler,
    MiniCPMv26ChatHandler,
    MoondreamChatHandler,
    MTMDChatHandler,
    NanoLlavaChatHandler,
    ObsidianChatHandler,
    Qwen25VLChatHandler,
)
from ggufpy.llama_cpp._responses import ChatFormatter, ChatFormatterResponse, LlamaChatCompletionHandler

__all__ = [
    "ChatFormatter",
    "ChatFormatterResponse",
    "Gemma4ChatHandler",
    "Jinja2ChatFormatter",
    "Llama3VisionAlpha",
    "Llama3VisionAlphaChatHandler",
    "LlamaChatCompletionHandler",
    "LlamaChatCompletionHandlerNotFoundException",
    "LlamaChatCompletionHandlerRegistry",
    "Llava15ChatHandler",
    "Llava16ChatHandler",
    "MTMDChatHandler",
    "MiniCPMv26ChatHandler",
    "MoondreamChatHandler",
    "NanoLlavaChatHandler",
    "ObsidianChatHandler",
    "Qwen25VLChatHandler",
    "chat_formatter_to_chat_completion_handler",
    "chatml_function_calling",
    "format",
    "format_alpaca",
    "format_baichuan",
    "format_baichuan2",
    "format_chatglm3",
    "format_chatml",
    "format_gemma",
    "format_intel",
    "format_llama2",
    "format_llama3",
    "format_mistral_instruct",
    "format_mistrallite",
    "format_oasst_llama",
    "format_open_orca",
    "format_openbuddy",
    "format_openchat",
    "format_phind",
    "format_pygmalion",
    "format_qwen",
    "format_redpajama_incite",
    "format_saiga",
    "format_snoozy",
    "format_zephyr",
    "functionary_chat_handler",
    "functionary_v1_v2_chat_handler",
    "get_chat_completion_handler",
    "hf_autotokenizer_to_chat_completion_handler",
    "hf_autotokenizer_to_chat_formatter",
    "hf_tokenizer_config_to_chat_completion_handler",
    "hf_tokenizer_config_to_chat_formatter",
    "register_chat_completion_handler",
    "register_chat_format",
]

LlamaChatCompletionHandlerNotFoundException = UnknownFormat

H = TypeVar("H", bound=Callable[..., Any])


class LlamaChatCompletionHandlerRegistry:
    """The handlers of this process by name; all objects are of the one registry."""

    def register_chat_completion_handler(
        self, name: str, chat_handler: LlamaChatCompletionHandler, overwrite: bool = False
    ) -> None:
        """Raises GGUFError for a name that is taken, unless `overwrite`."""
        if name in formats.names() and not overwrite:
            raise GGUFError(f"{name!r} is a chat format already; overwrite=True puts the handler in its place")
        formats.handlers.add(name, chat_handler, overwrite)

    def unregister_chat_handler(self, name: str) -> None:
        """Raises GGUFError for a name under which nothing was registered."""
        formats.handlers.remove(name)

    def get_chat_completion_handler_by_name(self, name: str) -> LlamaChatCompletionHandler:
        """What is registered under the name, else what answers chats in the format of that name. Raises
        LlamaChatCompletionHandlerNotFoundException, a GGUFError, where there is neither."""
        if (handler := formats.handlers.get(name)) is not None:
            return handler
        formats.get(name)  # whether there is one
        return format_handler(name)


def get_chat_completion_handler(name: str) -> LlamaChatCompletionHandler:
    """See LlamaChatCompletionHandlerRegistry.get_chat_completion_handler_by_name."""
    return LlamaChatCompletionHandlerRegistry().get_chat_completion_handler_by_name(name)


def register_chat_completion_handler(name: str) -> Callable[[H], H]:
    """Registers the function that it decorates as the handler of a name."""

    def decorate(handler: H) -> H:
        LlamaChatCompletionHandlerRegistry().register_chat_completion_handler(name, handler)
        return handler

    return decorate


def register_chat_format(name: str) -> Callable[[H], H]:
    """Registers the function that it decorates, a formatter, as the chat format of a name."""

    def decorate(written: H) -> H:
        handler = chat_formatter_to_chat_completion_handler(written)
        LlamaChatCompletionHandlerRegistry().register_chat_completion_handler(name, handler)
        return written

    return decorate
