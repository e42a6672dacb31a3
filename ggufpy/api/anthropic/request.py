"""A body of Anthropic's Messages API, checked, and made into what `api/openai/asked.py` runs.

Fields are honoured, or taken without effect where nothing here could differ (`TAKEN`), or refused by name (`REFUSED`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.api.anthropic.conversation import Conversation, conversation
from ggufpy.api.anthropic.fields import (
    Record,
    check_cache_control,
    check_fields,
    choice,
    items,
    mapping,
    named,
    number,
    switch,
    text,
    whole,
    wrong,
)
from ggufpy.api.anthropic.thinking import Thinking, effort, thinking
from ggufpy.api.anthropic.tools import offered
from ggufpy.api.anthropic.versions import USUAL, Version
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.api.openai.asked import Asked
    from ggufpy.api.openai.model import Model
    from ggufpy.grammar import Grammar

MOST_STOPS = 256  # each is looked for with every token
TEMPERATURE = 1.0  # Anthropic's default
SAMPLING = ("temperature", "top_p", "top_k")
OURS = ("chat_template_kwargs", "seed")  # further fields, which llama-server takes here too
REFUSED = {
    "container": "there are no containers here",
    "mcp_servers": "tools are called by the client here, and not by the server",
    "compaction": "conversations are not compacted here",
}
TOO_LONG = re.compile(r"the prompt is (\d+) tokens and the context holds (\d+)")  # `runtime/scheduler.py`
EDITS = ("clear_tool_uses_20250919", "clear_thinking_20251015", "compact_20260112")


@dataclass(frozen=True)
class Question:
    """A body that has been checked, without what only generating needs."""

    conversation: Conversation
    offer: Record  # see `tools.offered`
    variables: Record  # of the chat template
    thinking: Thinking
    schema: Any  # of the answer; None: any text
    edits: bool  # context_management was asked for


def question(body: Mapping[str, Any], version: Version = USUAL) -> Question:
    """What is asked. Raises GGUFError for the first field that is wrong."""
    _check_names(body, version)
    for name, check in TAKEN.items():
        if body.get(name) is not None:
            check(name, body[name])
    most = None if body.get("max_tokens") is None else whole("max_tokens", body["max_tokens"], 0)
    talk = conversation(body.get("messages"), body.get("system"), version.strict)
    thoughts = thinking(body.get("thinking"), most)
    config = mapping("output_config", body["output_config"]) if body.get("output_config") is not None else {}
    check_fields("output_config", config, (), ("effort", "format", "task_budget"))
    if config.get("task_budget") is not None:
        mapping("output_config.task_budget", config["task_budget"])
    given = body.get("chat_template_kwargs")
    more = {} if given is None else mapping("chat_template_kwargs", given)
    return Question(
        talk,
        offered(body.get("tools"), body.get("tool_choice"), talk.references),
        {**thoughts.variables, **effort(config.get("effort")), **more},
        thoughts,
        _schema(config.get("format"), body.get("output_format")),
        body.get("context_management") is not None,
    )


def asked_of(llm: Model, body: Mapping[str, Any], this: Question) -> Asked:
    """The request of a body. Raises GGUFError for what cannot be."""
    from ggufpy.api.openai.asked import chat_request

    if body.get("max_tokens") is None:
        raise wrong("max_tokens", "it is missing: say how many tokens the answer may have")
    options: Record = {**_sampling(body), **this.offer, "model": body.get("model")}
    options["stop"] = list(stop_sequences(body))
    options["chat_template_kwargs"] = this.variables
    options["continue_final_message"] = this.conversation.continues
    if this.schema is not None:
        if this.offer["tool_choice"] not in (None, "auto", "none"):
            raise wrong("output_config.format", "tool_choice wants a call, and not such an answer: leave out one")
        options["grammar"] = _grammar(this.schema)
    try:
        return chat_request(llm, this.conversation.messages, body["max_tokens"] or 1, options)
    except GGUFError as error:
        raise _in_our_words(error) from error


def count_tokens(llm: Model, body: Mapping[str, Any], version: Version = USUAL) -> int:
    """The tokens of the prompt that a body would be answered behind, however long it is."""
    from ggufpy.chat import tools

    this = question(body, version)
    _sampling(body)
    stop_sequences(body)
    variables = dict(this.variables)
    if this.conversation.continues:
        variables["continue_final"] = True
    return len(llm.chat_prompt(this.conversation.messages, tools.offered(**this.offer), **variables).tokens)


def stop_sequences(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts that end an answer."""
    given = body.get("stop_sequences")
    some = [] if given is None else items("stop_sequences", given, MOST_STOPS)
    return tuple(text(f"stop_sequences.{i}", one, may_be_empty=False) for i, one in enumerate(some))


def _in_our_words(error: GGUFError) -> GGUFError:
    """What is said of tools in OpenAI's words, in Anthropic's; and of a prompt that is too long, by which Claude Code
    knows that it must shorten it."""
    told = str(error)
    if told.startswith("tools: "):
        told = told.replace(".parameters", ".input_schema", 1)
    found = TOO_LONG.match(told)
    if found is not None:
        told = f"prompt is too long: {found[1]} tokens > {found[2]} maximum ({told})"
    return GGUFError(told)


def _sampling(body: Mapping[str, Any]) -> Record:
    made: Record = {"temperature": TEMPERATURE}
    for name, most in (("temperature", 1.0), ("top_p", 1.0)):
        if body.get(name) is not None:
            made[name] = number(name, body[name], most)
    if body.get("top_k") is not None:
        made["top_k"] = whole("top_k", body["top_k"], 0)
    if body.get("seed") is not None:
        made["seed"] = whole("seed", body["seed"], -1)
    return made


def _schema(config: object, older: object) -> Any:
    """The JSON schema of the answer: `output_config.format`, which was `output_format` before."""
    if config is not None and older is not None:
        raise wrong("output_format", "it is the older name of output_config.format: give one of them")
    place, given = ("output_config.format", config) if older is None else ("output_format", older)
    if given is None:
        return None
    form = mapping(place, given)
    check_fields(place, form, ("type", "schema"), ())
    choice(f"{place}.type", form["type"], ("json_schema",))
    return mapping(f"{place}.schema", form["schema"])


def _grammar(schema: Any) -> Grammar:
    from ggufpy.grammar import Grammar

    return Grammar.from_json_schema(schema, "output_config.format.schema")


# -- fields without effect --


def _context_management(place: str, given: object) -> None:
    """Edits that a client asks for once a conversation is long: one that does not fit is refused here instead."""
    config = mapping(place, given)
    check_fields(place, config, (), ("edits",))
    for i, edit in enumerate(items(f"{place}.edits", config.get("edits") or [])):
        where = f"{place}.edits.{i}"
        choice(f"{where}.type", mapping(where, edit).get("type"), EDITS)


def _metadata(place: str, given: object) -> None:
    metadata = mapping(place, given)
    check_fields(place, metadata, (), ("user_id",))
    if metadata.get("user_id") is not None:
        text(f"{place}.user_id", metadata["user_id"])


def _diagnostics(place: str, given: object) -> None:
    check_fields(place, mapping(place, given), (), ("previous_message_id",))


def _fallbacks(place: str, given: object) -> None:
    """Who answers where a model refuses to; none does here."""
    if given != "default":
        items(place, given)


def _text(place: str, given: object) -> None:
    text(place, given)


TAKEN: dict[str, Callable[[str, Any], object]] = {
    "metadata": _metadata,
    "cache_control": check_cache_control,
    "context_management": _context_management,
    "diagnostics": _diagnostics,
    "fallbacks": _fallbacks,
    "billing_policy": mapping,
    "fallback_credit_token": lambda place, given: given,
    "service_tier": lambda place, given: choice(place, given, ("auto", "standard_only")),
    "speed": lambda place, given: choice(place, given, ("standard",)),
    "inference_geo": _text,
    "user_profile_id": _text,
    "workspace_id": _text,
    "stream": switch,
    "thread": switch,  # an object asks for one, which the server refuses
}
HONOURED = (
    "model", "max_tokens", "messages", "system", "stop_sequences", "temperature", "top_p", "top_k", "tools",
    "tool_choice", "thinking", "output_config", "output_format",
)  # fmt: skip


def _check_names(body: Mapping[str, Any], version: Version) -> None:
    for name in () if version.sampling else SAMPLING:
        if name in body:
            told = f"version {version.date} has no such field: leave it out, or send anthropic-version {USUAL.date}"
            raise wrong(name, told)
    for name, why in REFUSED.items():
        if body.get(name) not in (None, []):
            raise wrong(name, f"it cannot be honoured: {why}")
    known = (*HONOURED, *TAKEN, *REFUSED, *OURS)
    unknown = next((name for name in body if name not in known), None)
    if unknown is not None:
        raise wrong(named(unknown), f"there is no such field{checks.meant(unknown, known)}")
