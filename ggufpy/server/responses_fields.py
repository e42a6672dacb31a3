"""The fields of a request for a response: what each may be, and those that cannot be honoured.

Names and bounds are OpenAI's (openai/types/responses/response_create_params.py); `client_metadata` is Codex's, and
those of `SAMPLING` beyond temperature and top_p are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.server.fields import check_names
from ggufpy.support import checks

Check = Callable[[str, Any], Any]

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed")
LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"
INCLUDED = (
    LOGPROBS, SEALED, "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
)  # fmt: skip
MOST_METADATA, MOST_KEY, MOST_VALUE, MOST_TEXT = 16, 64, 512, 4096


def _number(low: float, high: float, name: str, value: Any) -> float:
    number = checks.number(name, value)
    if not low <= number <= high:
        raise GGUFError(f"{name} is {number:g}; it must be from {low:g} to {high:g}")
    return number


def _whole(low: int, high: int | None, name: str, value: Any) -> int:
    number = checks.whole(name, value, low)
    if high is not None and number > high:
        raise GGUFError(f"{name} is {number}; it must be from {low} to {high}")
    return number


def _word(words: tuple[str, ...], name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in words:
        raise GGUFError(f"{name} is {checks.shown(value)}; it must be one of {', '.join(words)}")
    return value


def _short(name: str, value: Any) -> str:
    text = checks.text(name, value)
    if len(text) > MOST_TEXT:
        raise GGUFError(f"{name} has {len(text):,} characters, and may have {MOST_TEXT:,}")
    return text


def _metadata(name: str, value: Any) -> dict[str, str]:
    given = dict(checks.mapping(name, value))
    if len(given) > MOST_METADATA:
        raise GGUFError(f"{name} has {len(given)} keys, and may have {MOST_METADATA}")
    for key, text in given.items():
        if len(key) > MOST_KEY or len(checks.text(f"{name}.{key[:MOST_KEY]}", text)) > MOST_VALUE:
            raise GGUFError(f"{name} may have keys of {MOST_KEY} characters and texts of {MOST_VALUE}")
    return given


def _object(fields: Mapping[str, Check], name: str, value: Any) -> dict[str, Any]:
    """An object whose fields have checks of their own; null ones say nothing."""
    given = checks.mapping(name, value)
    for key in given:
        if key not in fields:
            raise GGUFError(f"{name}.{key[:80]} is no field of {name}; it has {', '.join(fields)}")
    return {key: fields[key](f"{name}.{key}", one) for key, one in given.items() if one is not None}


def _included(name: str, value: Any) -> list[str]:
    wanted: list[str] = checks.items(name, value, "a list of texts")
    for i, each in enumerate(wanted):
        _word(INCLUDED, f"{name}[{i}]", each)
    return wanted


def _format(name: str, value: Any) -> dict[str, Any]:
    """text.format, whose schema stands beside its type."""
    given = dict(checks.mapping(name, value))
    kind = _word(("text", "json_object", "json_schema"), f"{name}.type", given.get("type"))
    if kind == "json_schema":
        checks.text(f"{name}.name", given.get("name"))
        if "schema" not in given:
            raise GGUFError(f"{name}.schema is missing: the JSON schema of the answer is wanted")
        if given.get("strict") is not None:
            checks.flag(f"{name}.strict", given["strict"])
    return given


def _given(name: str, value: Any) -> Any:
    """Checked where it is read."""
    return value


def _objects(name: str, value: Any) -> Any:
    return checks.mapping(name, value)


SAMPLING: Mapping[str, Check] = MappingProxyType(
    {
        "temperature": partial(_number, 0, 2),
        "top_p": partial(_number, 0, 1),
        "presence_penalty": partial(_number, -2, 2),
        "frequency_penalty": partial(_number, -2, 2),
        "top_k": _given,
        "min_p": _given,
        "repeat_penalty": _given,
        "seed": _given,
        "stop": _given,
        "chat_template_kwargs": _objects,
    }
)
FIELDS: Mapping[str, Check] = MappingProxyType(
    {
        **SAMPLING,
        "model": checks.text,
        "input": _given,
        "instructions": checks.text,
        "previous_response_id": checks.text,
        "stream": checks.flag,
        "stream_options": partial(_object, {"include_obfuscation": checks.flag}),
        "store": checks.flag,
        "tools": _given,
        "tool_choice": _given,
        "parallel_tool_calls": checks.flag,
        "max_tool_calls": partial(_whole, 1, None),
        "max_output_tokens": partial(_whole, 1, None),
        "top_logprobs": partial(_whole, 0, 20),
        "include": _included,
        "text": partial(_object, {"format": _format, "verbosity": partial(_word, ("low", "medium", "high"))}),
        "reasoning": partial(
            _object,
            {
                "effort": partial(_word, EFFORTS),
                "summary": partial(_word, SUMMARIES),
                "generate_summary": partial(_word, SUMMARIES),
                "context": partial(_word, ("auto", "current_turn", "all_turns")),
                "mode": partial(_word, ("standard",)),
            },
        ),
        "truncation": partial(_word, ("auto", "disabled")),
        "metadata": _metadata,
        "background": checks.flag,
        "user": _short,
        "safety_identifier": _short,
        "prompt_cache_key": _short,
        "prompt_cache_retention": partial(_word, ("in_memory", "in-memory", "24h")),
        "prompt_cache_options": _objects,
        "service_tier": partial(_word, ("auto", "default", "flex", "scale", "priority", "fast")),
        "client_metadata": _objects,
    }
)
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "conversation": "no conversations are kept here; previous_response_id continues a response",
        "prompt": "there are no stored prompts here: give instructions and input",
        "context_management": "nothing is compacted here: give the items that are to be read",
        "moderation": "nothing is moderated here",
        "background_options": "responses are made while their client waits",
        "access_programs": "there are none here",
        "image": "models are given text only here",
    }
)


def checked(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body that say something. Raises GGUFError for one that is unknown, refused or wrong."""
    check_names(body, FIELDS, REFUSED)
    fields = {name: FIELDS[name](name, value) for name, value in body.items() if value is not None and name in FIELDS}
    if fields.get("background"):
        raise GGUFError("background is true: responses are made while their client waits; leave it out, or stream")
    if "input" not in fields:
        raise GGUFError("input is missing: give a text or a list of items")
    return fields
