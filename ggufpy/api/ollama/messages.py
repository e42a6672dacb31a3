"""ollama's messages, checked, as OpenAI's: answers of tools find their calls, which have no ids in older clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.api.ollama import fields
from ggufpy.errors import GGUFError
from ggufpy.support import checks

Record = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")


def plain(messages: object) -> list[Record]:
    """The messages of a request, none for null. Raises GGUFError naming what is wrong."""
    given = [] if messages is None else checks.items("messages", messages, "a list of {role, content}")
    waiting: list[tuple[str, str]] = []  # calls without an answer so far: id and name
    made = []
    for i, message in enumerate(given):
        where = f"messages[{i}]"
        one = _message(message, where)
        if one["role"] == "assistant" and "tool_calls" in one:
            waiting = [(call["id"], call["function"]["name"]) for call in one["tool_calls"]]
        elif one["role"] == "tool":
            answered = _answered(one, waiting, where)
            waiting.remove(answered)
            one["tool_call_id"], one["name"] = answered
        made.append(one)
    return made


def _message(message: object, where: str) -> Record:
    if not isinstance(message, Mapping):
        raise GGUFError(f"{where} is {checks.shown(message)}; a mapping of role and content is wanted")
    given = {str(name): value for name, value in message.items() if value is not None}
    try:
        fields.check("messages", given)
    except GGUFError as error:
        raise GGUFError(f"{where}: {error}") from None
    role = checks.text(f"{where}.role", given.get("role")).lower()
    if role not in ROLES:
        raise GGUFError(f"{where}.role is {checks.shown(role)}; it must be one of {', '.join(ROLES)}")
    made: Record = {"role": role, "content": checks.text(f"{where}.content", given.get("content", ""))}
    if thought := checks.text(f"{where}.thinking", given.get("thinking", "")):
        made["thinking"] = thought
    calls = checks.items(f"{where}.tool_calls", given.get("tool_calls", []), "a list of calls")
    if calls and role != "assistant":
        raise GGUFError(f"{where}.tool_calls: only an assistant calls tools, and the role is {role}")
    if calls:
        made["tool_calls"] = [_call(call, f"{where}.tool_calls[{i}]", where, i) for i, call in enumerate(calls)]
    for name in ("tool_call_id", "tool_name", "name"):
        if name in given:
            made[name] = checks.text(f"{where}.{name}", given[name])
    return made


def _call(call: object, name: str, where: str, number: int) -> Record:
    """A call with an id. Arguments are an object, or its JSON text, as OpenAI's clients have it."""
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        raise GGUFError(f'{name} must be {{"function": {{"name": ..., "arguments": {{...}}}}}}')
    function = call["function"]
    arguments = {} if function.get("arguments") is None else function["arguments"]
    if not isinstance(arguments, Mapping | str):
        raise GGUFError(f"{name}.function.arguments is {checks.shown(arguments)}; an object is wanted")
    one = call.get("id")
    given = checks.text(f"{name}.id", "" if one is None else one) or f"call_{where[9:-1]}_{number}"
    told = {"name": checks.text(f"{name}.function.name", function.get("name")), "arguments": arguments}
    return {"type": "function", "id": given, "function": told}


def _answered(message: Record, waiting: list[tuple[str, str]], where: str) -> tuple[str, str]:
    """The call that a tool's message answers: that of its id, else the first of its tool's name, else the first."""
    if not waiting:
        raise GGUFError(f"{where} is a tool's answer, and no call before it waits for one: send the call's message too")
    one, name = message.get("tool_call_id"), message.pop("tool_name", None) or message.get("name")
    if one:
        found = [call for call in waiting if call[0] == one]
        if not found:
            raise GGUFError(f"{where}.tool_call_id is {checks.shown(one)}, and no call of that id waits for an answer")
        return found[0]
    found = [call for call in waiting if call[1] == name] if name else waiting
    if not found:
        names = ", ".join(sorted({call[1] for call in waiting}))[:200]
        raise GGUFError(f"{where}.tool_name is {checks.shown(name)}, and the calls that wait for an answer are {names}")
    return found[0]
