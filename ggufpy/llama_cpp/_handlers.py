"""Chats answered through a formatter and `create_completion`: llama-cpp-python's chat handlers.

In: the keywords of `create_chat_completion`. Out: a chat completion, or an iterator of its chunks. A formatter knows
nothing of how its model writes calls, so only a function that the caller names is called: the answer is then its
arguments. `Llama.create_chat_completion` by itself does more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.api.completing import CHAT_TEMPERATURE
from ggufpy.errors import GGUFError
from ggufpy.llama_cpp import _chats
from ggufpy.llama_cpp._responses import ChatFormatter, LlamaChatCompletionHandler
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.llm import Llama

_OFFER = ("functions", "function_call", "tools", "tool_choice")
# What `create_completion` takes; other keywords are the formatter's.
_COMPLETION = frozenset((
    "temperature", "top_p", "top_k", "min_p", "typical_p", "stop", "seed", "response_format", "max_tokens",
    "presence_penalty", "frequency_penalty", "repeat_penalty", "tfs_z", "mirostat_mode", "mirostat_tau",
    "mirostat_eta", "model", "logits_processor", "grammar", "logit_bias", "n", "user", "stream_options", "lora",
))  # fmt: skip


def chat_formatter_to_chat_completion_handler(chat_formatter: ChatFormatter) -> LlamaChatCompletionHandler:
    """What answers chats with the prompts of `chat_formatter`."""

    def handler(
        *, llama: Llama, messages: Sequence[Mapping[str, Any]], stream: bool = False, **kwargs: Any
    ) -> Any:  # fmt: skip
        return _answer(chat_formatter, llama, messages, checks.switch("stream", stream), kwargs)

    return handler


def _answer(
    formatter: ChatFormatter, llama: Llama, messages: Sequence[Any], stream: bool, given: dict[str, Any]
) -> Any:
    offer = {name: given.pop(name, None) for name in _OFFER}
    logprobs = _logprobs(given.pop("logprobs", None), given.pop("top_logprobs", None))
    options = {name: value for name, value in given.items() if name in _COMPLETION and value is not None}
    others = {name: value for name, value in given.items() if name not in _COMPLETION}
    made = formatter(messages=messages, **offer, **others)
    function = named_function(offer)
    options["stop"] = [*_stops(options.get("stop")), *_stops(made.stop)]
    options.setdefault("temperature", CHAT_TEMPERATURE)
    if made.stopping_criteria is not None:
        options["stopping_criteria"] = made.stopping_criteria
    if function is not None:
        options.pop("response_format", None)
        options["grammar"] = _arguments(function)
    prompt = llama.tokenize(made.prompt.encode("utf-8"), add_bos=not made.added_special, special=True)
    completion: Any = llama.create_completion(prompt, stream=stream, logprobs=logprobs, **options)
    name = None if function is None else str(function["name"])
    return _chats.chunks(completion, name) if stream else _chats.whole(completion, name)


def named_function(offer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The function that `tool_choice` or `function_call` names, None if they name none.

    Raises GGUFError for a name that is not on offer.
    """
    choice, call = offer["tool_choice"], offer["function_call"]
    wanted = choice.get("function") if isinstance(choice, Mapping) else call
    if not isinstance(wanted, Mapping):
        return None
    tools: list[Mapping[str, Any]] = [
        *(offer["functions"] or ()),
        *(tool.get("function", {}) for tool in offer["tools"] or ()),
    ]
    found = next((function for function in tools if function.get("name") == wanted.get("name")), None)
    if found is None:
        names = [function.get("name") for function in tools]
        raise GGUFError(f"tool_choice names {checks.shown(wanted.get('name'))}, which is not among the tools {names}")
    return found


def _arguments(function: Mapping[str, Any]) -> Any:
    """The grammar of a function's arguments; one that says nothing of them takes any object."""
    from ggufpy.llama_cpp.llama_grammar import LlamaGrammar

    return LlamaGrammar.from_json_schema(json.dumps(function.get("parameters") or {"type": "object"}))


def _logprobs(wanted: bool | None, top: int | None) -> int | None:
    return (top or 0) if wanted else None


def _stops(stop: str | Sequence[str] | None) -> list[str]:
    """Stop strings; tokens without a text give none."""
    return [text for text in ([stop] if isinstance(stop, str) else stop or ()) if text]
