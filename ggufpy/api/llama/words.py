"""llama-server's `/tokenize`, `/detokenize` and `/apply-template`: texts and tokens, and nothing evaluated.

In: a model and a body, whose names have been checked. Out: the record of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama.pieces import piece
from ggufpy.api.llama.prompts import mixed, token_ids
from ggufpy.chat import tools
from ggufpy.chat.messages import checked
from ggufpy.errors import GGUFError
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.api.asynchronous import AsyncCompletions

Record = dict[str, Any]

TOKENIZE = ("content", "add_special", "parse_special", "with_pieces", "model")
DETOKENIZE = ("tokens", "model")
TEMPLATE = (
    "messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "chat_template_kwargs",
    "add_generation_prompt", "continue_final_message", "reasoning_effort", "documents", "model",
)  # fmt: skip
# What the bodies of chats have beside, and a template does not see.
NOT_OF_TEMPLATES = (
    "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed",
    "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "response_format", "user",
    "n_predict", "top_k", "min_p", "repeat_penalty", "cache_prompt", "samplers", "timings_per_token",
    "reasoning_format", "return_progress", "metadata", "store",
)  # fmt: skip
_OWN = frozenset({"self", "messages", "offer", "tools"})


def tokenize(llm: AsyncCompletions, body: Mapping[str, Any]) -> Record:
    """{"tokens": [...]}, with `with_pieces` of {"id", "piece"}: a text, or bytes where these are none."""
    if body.get("content") is None:
        return {"tokens": []}
    special = body.get("parse_special")
    parse = True if special is None else checks.flag("parse_special", special)
    add = checks.switch("add_special", body.get("add_special"))
    ids = mixed(llm, "content", body["content"], add_special=add, parse_special=parse)
    pieces = checks.switch("with_pieces", body.get("with_pieces"))
    return {"tokens": [piece(llm, token) for token in ids] if pieces else ids}


def detokenize(llm: AsyncCompletions, body: Mapping[str, Any]) -> Record:
    """{"content": text}, control tokens included; bytes that are no text are U+FFFD."""
    given = checks.items("tokens", body.get("tokens") or [], "a list of token ids")
    ids = token_ids(llm, "tokens", given)
    return {"content": llm.tokenizer.decode_bytes(ids, special=True).decode("utf-8", "replace")}


def apply_template(llm: AsyncCompletions, body: Mapping[str, Any]) -> Record:
    """{"prompt": text}: a chat as the model is given it."""
    messages = checked(body.get("messages"))
    names = ("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls")
    offer = tools.offered(**{name: body.get(name) for name in names})
    return {"prompt": llm.chat_prompt(messages, offer, **_variables(body)).text}


def _variables(body: Mapping[str, Any]) -> Record:
    """Further variables of the template."""
    given = body.get("chat_template_kwargs")
    variables = {} if given is None else dict(checks.mapping("chat_template_kwargs", given))
    for name in variables:
        if name in _OWN:
            raise GGUFError(f"chat_template_kwargs has {name!r}, which is not for it: messages and tools are fields")
    for name in ("reasoning_effort", "documents"):
        if body.get(name) is not None:
            variables[name] = body[name]
    if body.get("add_generation_prompt") is not None:
        variables["add_generation_prompt"] = checks.flag("add_generation_prompt", body["add_generation_prompt"])
    if checks.switch("continue_final_message", body.get("continue_final_message")):
        variables["continue_final"] = True
    return variables
