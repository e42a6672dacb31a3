"""From a body of JSON to what it asks for: chats and text completions as OpenAI's clients send them.

In: a loaded model and a body. Out: the request, how its answer is told, and whether as a stream. Raises GGUFError for
whatever cannot be, with the name of the field that it is about in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ggufpy.api.llama.limits import Limits
from ggufpy.api.openai import asked
from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.chat import ChatShape
from ggufpy.api.openai.fields import CHAT, COMPLETION, NO_LIMIT, read
from ggufpy.api.openai.history import messages_of
from ggufpy.api.openai.kinds import FieldError, mapping
from ggufpy.api.openai.model import Model, Record
from ggufpy.api.openai.plain import Plain
from ggufpy.api.openai.text import TextShape
from ggufpy.errors import GGUFError
from ggufpy.generate.sampling.steps import options
from ggufpy.grammar import Grammar
from ggufpy.support import checks

COMPLETION_TOKENS = 16  # of a text completion that does not say, as OpenAI has it
LEAST_EFFORT = ("none", "minimal")
LIMITS = ("max_completion_tokens", "max_tokens", "n_predict")


class Call(NamedTuple):
    """A call that can be answered."""

    asked: Asked
    shape: ChatShape | TextShape
    stream: bool


def chat(llm: Model, body: Mapping[str, Any]) -> Call:
    """A chat completion."""
    values = read(CHAT, body)
    stream, timed = values.pop("stream", False), values.pop("timings_per_token", False)
    messages = messages_of(values.pop("messages"))
    plain = values.pop("reasoning_format", "auto") == "none"
    if plain and (offered := [name for name in ("tools", "functions") if values.get(name)]):
        raise GGUFError(f'reasoning_format "none" goes with no {offered[0]}: their calls would not be told')
    limit, lines = _limit(values), _lines(values)
    _one_name(values, ("n", "n_cmpl"))
    if "n_probs" in values:
        values["top_logprobs"] = max(values.pop("n_probs"), values.get("top_logprobs", 0))
        values["logprobs"] = True
    _set_format(values)
    _set_effort(values)
    _set_sampling(llm, values)
    _allow(values)
    made = _bounded(asked.chat_request(llm, messages, limit or None, values), limit, lines)
    made = replace(made, parser=Plain) if plain else made
    return Call(made, ChatShape(llm, made, timed), stream)


def completion(llm: Model, body: Mapping[str, Any]) -> Call:
    """A text completion, of one prompt or several."""
    values = read(COMPLETION, body)
    stream, timed = values.pop("stream", False), values.pop("timings_per_token", False)
    prompt = values.pop("prompt")
    limit, lines = _limit(values, COMPLETION_TOKENS), _lines(values)
    _one_name(values, ("n", "n_cmpl"))
    _one_name(values, ("logprobs", "n_probs"))
    best = values.pop("best_of", None)
    if best not in (None, values.get("n", 1)):
        raise FieldError(
            f"best_of is {best} and n {values.get('n', 1)}: all choices that are made are returned, so they must be "
            "the same",
            "best_of",
            "unsupported_parameter",
        )
    _set_format(values)
    _set_sampling(llm, values)
    made = _bounded(asked.text_request(llm, prompt, limit or None, values), limit, lines)
    return Call(made, TextShape(llm, made, timed), stream)


def _one_name(values: Record, names: tuple[str, ...], default: Any = None) -> Any:
    """The value of a field that has several names; it stays under the first one."""
    given = [name for name in names if name in values]
    if len({values[name] for name in given}) > 1:
        raise GGUFError(f"{given[0]} and {given[1]} are the same: give one of them")
    found = [values.pop(name) for name in given]
    if found:
        values[names[0]] = found[0]
    return found[0] if found else default


def _limit(values: Record, default: int = NO_LIMIT) -> int | None:
    """How many tokens may come; None is no limit but the context."""
    most = _one_name(values, LIMITS, default)
    values.pop(LIMITS[0], None)
    return None if most == NO_LIMIT else int(most)


def _lines(values: Record) -> tuple[int, float | None]:
    """How far lines must be indented, and for how many seconds they may come (llama-server's)."""
    milliseconds = values.pop("t_max_predict_ms", -1)
    return values.pop("n_indent", 0), milliseconds / 1e3 if milliseconds > 0 else None


def _bounded(made: Asked, limit: int | None, lines: tuple[int, float | None]) -> Asked:
    """The call with what else may end its texts."""
    if lines != (0, None):
        made = replace(made, stopper=partial(Limits, made.stop, *lines))
    return replace(made, max_tokens=0) if limit == 0 else made


def _set_format(values: Record) -> None:
    """What an answer looks like, by whichever of its fields says so."""
    if values.get("grammar") == "":
        del values["grammar"]
    schema = values.pop("json_schema", None)
    if schema is None:
        return
    for other in ("response_format", "grammar"):
        if other in values:
            raise GGUFError(f"json_schema and {other} both say what the answer looks like: give one of them")
    values["grammar"] = Grammar.from_json_schema(schema, "json_schema")


def _set_effort(values: Record) -> None:
    """How much is thought, as templates know it: `reasoning_effort` (gpt-oss), `enable_thinking` (Qwen and others) or
    `thinking` (Granite, DeepSeek). What chat_template_kwargs says counts."""
    if "add_generation_prompt" in values:
        values["chat_template_kwargs"] = {
            "add_generation_prompt": values.pop("add_generation_prompt"),
            **values.get("chat_template_kwargs", {}),
        }
    if 0 in (values.pop("reasoning_budget_tokens", -1), values.pop("thinking_budget_tokens", -1)):
        values["reasoning_effort"] = "none"
    if values.get("reasoning_effort") in LEAST_EFFORT:
        values["reasoning_effort"] = "low"
        off = {"enable_thinking": False, "thinking": False}
        values["chat_template_kwargs"] = {**off, **values.get("chat_template_kwargs", {})}


def _set_sampling(llm: Model, values: Record) -> None:
    """Options of sampling by their own names, each given once, and biases of tokens."""
    for option in options():
        names = [name for name in (option.name, *option.aliases) if name in values]
        if len(names) > 1:
            raise GGUFError(f"{names[0]} and {names[1]} are the same: give one of them")
        if names:
            values[option.name] = values.pop(names[0])
    biases: dict[int, float] = {}
    for token, bias in values.pop("logit_bias", ()):
        some = [token] if isinstance(token, int) else llm.tokenizer.encode(token)
        for one in some:
            if one >= llm.n_vocab():
                raise GGUFError(f"logit_bias[{one}]: the vocabulary has {llm.n_vocab():,} tokens")
            biases[one] = bias
    if values.pop("ignore_eos", False):
        if bound := [name for name in ("response_format", "grammar", "tools", "functions") if values.get(name)]:
            raise GGUFError(f"ignore_eos goes with no {bound[0]}: what is complete by it could not end")
        biases.update(dict.fromkeys(llm.tokenizer.end_tokens, float("-inf")))
    if biases:
        values["logit_bias"] = tuple(biases.items())


def _allow(values: Record) -> None:
    """`tool_choice` with a list of functions that may be called (allowed_tools): the others are not offered."""
    choice = values.get("tool_choice")
    if not isinstance(choice, Mapping) or choice.get("type") != "allowed_tools":
        return
    allowed = mapping("tool_choice.allowed_tools", choice.get("allowed_tools"))
    mode = allowed.get("mode")
    if mode not in ("auto", "required"):
        raise GGUFError(f'tool_choice.allowed_tools.mode is {checks.shown(mode)}; it must be "auto" or "required"')
    names = [
        _function_name(one, f"tool_choice.allowed_tools.tools[{i}]")
        for i, one in enumerate(checks.items("tool_choice.allowed_tools.tools", allowed.get("tools"), "a list"))
    ]
    tools = values.get("tools")
    if isinstance(tools, list):
        known = [_function_name(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
        for name in names:
            if name not in known:
                raise GGUFError(f"tool_choice.allowed_tools names {name[:80]!r}, which is not offered")
        values["tools"] = [tool for tool, name in zip(tools, known, strict=True) if name in names]
    values["tool_choice"] = mode


def _function_name(tool: Any, name: str) -> str:
    function = mapping(f"{name}.function", mapping(name, tool).get("function"))
    return checks.text(f"{name}.function.name", function.get("name"))
