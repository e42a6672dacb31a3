"""Calls of functions in messages, in one shape for the formats that write them.

A call is a name and the text of its arguments here, and a result knows what was called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.chat.formats._format import Message, text
from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

MOST_VALUES = 100_000  # of a function, its schema and all within


@dataclass(frozen=True)
class Called:
    """A function that an assistant calls, with its arguments as JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Told:
    """A message: its role, its text, the calls in it, and whose result it is."""

    role: str
    text: str
    calls: tuple[Called, ...] = ()
    name: str = ""


def told(chat: Sequence[Message]) -> list[Told]:
    """Checked messages in this shape. Raises GGUFError for a result of no call that is known."""
    names: dict[str, str] = {}
    made = []
    for i, message in enumerate(chat):
        where, role = f"messages[{i}]", message["role"]
        calls = [call["function"] for call in message.get("tool_calls", ())]
        names |= {str(call.get("id")): call["function"]["name"] for call in message.get("tool_calls", ())}
        read = tuple(Called(call["name"], _arguments(call["arguments"], where)) for call in calls)
        name = ""
        if role == "tool":
            name = _result_of(message, names, where)
        made.append(Told(role, text(message["content"]), read, name))
    return made


def functions(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The functions of tools, which may come without what is around them. Raises GGUFError for one without a name."""
    made = []
    for i, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise GGUFError(
                f'tools[{i}] must be {{"type": "function", "function": {{"name": ..., "parameters": ...}}}}'
            )
        _check_size(function, f"tools[{i}]")
        made.append(function)
    return made


def _check_size(value: Any, where: str) -> None:
    """Raise GGUFError for what holds more values than any function has; parts that are used twice count twice."""
    count, stack = 0, [value]
    while stack and count <= MOST_VALUES:
        item = stack.pop()
        count += 1
        if isinstance(item, Mapping):
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
    if stack:
        raise GGUFError(f"{where} holds more than {MOST_VALUES:,} values")


def _result_of(message: Message, names: Mapping[str, str], where: str) -> str:
    """What was called: as the message says, or the call that it answers."""
    name = message.get("name") or names.get(str(message.get("tool_call_id")))
    if not isinstance(name, str):
        raise GGUFError(
            f"{where} is the result of no call: its name or the id of a call before it (tool_call_id) is wanted"
        )
    return name


def json_text(value: Any, where: str, **options: Any) -> str:
    """JSON text. Raises GGUFError for what has none, nesting beyond all measure included."""
    try:
        return json.dumps(value, **options)
    except (TypeError, ValueError, RecursionError) as error:
        raise GGUFError(f"{where} cannot be written as JSON: {error}") from error


def _arguments(arguments: Any, where: str) -> str:
    return arguments if isinstance(arguments, str) else json_text(arguments, f"{where}: arguments", ensure_ascii=False)
