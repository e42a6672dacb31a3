"""Messages in OpenAI's shape: checked, and brought into the form that a template takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.chat.call_ids import with_ids
from ggufpy.chat.probe import Calls, Message, Probe
from ggufpy.errors import GGUFError

_THOUGHTS = ("reasoning_content", "thinking", "reasoning")


def checked(messages: Any) -> list[Message]:
    """New messages of plain dicts and lists. Raises GGUFError naming the message and the field that is wrong.

    Fields that are null say nothing and are left out, as are empty `tool_calls`; `content` is a text, a list of
    text parts, or None.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise GGUFError(f"messages must be a list of {{role, content}}, not {type(messages).__name__}")
    if not messages:
        raise GGUFError("messages is empty: give at least one {role, content}")
    return [_checked_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def checked_tools(tools: Any) -> list[Message] | None:
    """Tools on offer as plain dicts, None without any. Raises GGUFError for what is no list of mappings."""
    if tools is None:
        return None
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise GGUFError(f"tools must be a list of {{type, function}}, not {type(tools).__name__}")
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise GGUFError(f"tools[{i}] must be a mapping such as {{type, function}}, not {_kind(tool)}")
    return [dict(tool) for tool in tools]


def with_reasoning(messages: list[Any]) -> list[Any]:
    """Thoughts under each of the names by which templates know them, as Hugging Face has it (transformers:
    chat_template_utils.py)."""
    made = []
    for message in messages:
        thought = next((message[name] for name in _THOUGHTS if message.get(name) is not None), None)
        made.append(message if thought is None else {"thinking": thought, **message, "reasoning_content": thought})
    return made


def adapted(messages: list[Message], probe: Probe) -> list[Message]:
    """Checked messages as the template takes them. Raises GGUFError for arguments that cannot become objects."""
    messages = [_with_calls(message, f"messages[{i}]", probe) for i, message in enumerate(messages)]
    messages = with_ids(messages, probe)
    if any(message["role"] == "developer" for message in messages) and not probe.knows_developer():
        messages = [_renamed(message, "developer", "system") for message in messages]
    if any(message["role"] == "system" for message in messages):
        messages = _with_systems(messages, probe)
    messages = _alternating(messages, probe)
    return [_with_content(message, probe) for message in messages]


# -- checks --


def _checked_message(message: Any, name: str) -> Message:
    if not isinstance(message, Mapping):
        how = " (give its model_dump())" if callable(getattr(message, "model_dump", None)) else ""
        raise GGUFError(f"{name} must be a mapping with 'role' and 'content', not {type(message).__name__}{how}")
    made = {key: value for key, value in message.items() if value is not None}
    role = message.get("role")
    if not isinstance(role, str):
        problem = "is missing" if "role" not in message else f"is {_kind(role)}"
        raise GGUFError(f'{name}.role {problem}, and must be a text such as "user"')
    if role == "function":  # OpenAI's older names for answers and calls
        made["role"] = "tool"
    if "function_call" in made:
        made.setdefault("tool_calls", [{"type": "function", "function": made["function_call"]}])
        del made["function_call"]
    if "tool_calls" in made:
        calls = made.pop("tool_calls")
        if not isinstance(calls, (list, tuple)):
            raise GGUFError(f"{name}.tool_calls must be a list of calls, not {_kind(calls)}")
        if calls:
            made["tool_calls"] = [_checked_call(call, f"{name}.tool_calls[{i}]") for i, call in enumerate(calls)]
    if "content" not in message and "tool_calls" not in made:
        raise GGUFError(f"{name}.content is missing: give a text (only a message with tool_calls can do without)")
    made["content"] = _checked_content(message.get("content"), f"{name}.content")
    return made


def _checked_content(content: Any, name: str) -> str | list[Message] | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        return [_checked_part(part, f"{name}[{i}]") for i, part in enumerate(content)] or ""
    raise GGUFError(f"{name} must be a text or a list of parts, not {_kind(content)}")


def _checked_part(part: Any, name: str) -> Message:
    if not isinstance(part, Mapping):
        raise GGUFError(f'{name} must be a part such as {{"type": "text", "text": "..."}}, not {_kind(part)}')
    kind = part.get("type")
    if not isinstance(kind, str):
        raise GGUFError(f'{name}.type must be "text", not {_kind(kind)}')
    if kind != "text":
        raise GGUFError(f"{name} is of type {kind[:40]!r}, and models are given text only here: leave it out")
    if not isinstance(part.get("text"), str):
        raise GGUFError(f"{name}.text must be a text, not {_kind(part.get('text'))}")
    return dict(part)


def _checked_call(call: Any, name: str) -> Message:
    """A call as {"type", "function": {"name", "arguments"}}; those two may come without the mapping around."""
    if not isinstance(call, Mapping):
        raise GGUFError(f"{name} must be a call such as {{type, function}}, not {_kind(call)}")
    bare = "function" not in call
    function = {key: call.get(key) for key in ("name", "arguments")} if bare else call["function"]
    where = name if bare else f"{name}.function"
    if not isinstance(function, Mapping):
        raise GGUFError(f"{where} must be {{name, arguments}}, not {_kind(function)}")
    if not isinstance(function.get("name"), str):
        raise GGUFError(f"{where}.name must be the name of a function, not {_kind(function.get('name'))}")
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, (str, Mapping)):
        raise GGUFError(f"{where}.arguments must be an object or its JSON text, not {_kind(arguments)}")
    if not isinstance(arguments, str):
        arguments = dict(arguments or {})
    rest = {key: value for key, value in call.items() if key not in ("name", "arguments")}
    return {"type": "function", **rest, "function": {**function, "arguments": arguments}}


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


# -- calls --


def _with_calls(message: Message, name: str, probe: Probe) -> Message:
    """Arguments in the template's form, and beside calls an empty content in the form that it takes."""
    if "tool_calls" not in message:
        return message
    takes = probe.calls()
    calls = []
    for i, call in enumerate(message["tool_calls"]):
        function, where = call["function"], f"{name}.tool_calls[{i}].function.arguments"
        arguments = _arguments(function["arguments"], where, takes)
        calls.append({**call, "function": {**function, "arguments": arguments}})
    content = message["content"]
    if content in ("", None) and content not in takes.contents:
        content = None if content == "" else ""
    return {**message, "content": content, "tool_calls": calls}


def _arguments(given: str | Message, name: str, takes: Calls) -> str | Message:
    """Arguments as an object where the template takes those, else as JSON text; as given where neither shows."""
    if isinstance(given, dict):
        return given if takes.objects or not takes.text else _json_text(given, name)
    if not takes.objects:
        return given
    try:
        value = json.loads(given) if given.strip() else {}  # clients send "" for no arguments
    except (ValueError, RecursionError) as error:
        value, problem = None, f"is no JSON ({error})"
    else:
        problem = f"is the JSON of {_kind(value)}"
    if isinstance(value, dict):
        return value
    if takes.text:
        return given
    raise GGUFError(f"{name} {problem}: the chat template needs the JSON of an object")


def _json_text(value: Message, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise GGUFError(f"{name} cannot be written as JSON: {error}") from error


# -- roles --


def _renamed(message: Message, old: str, new: str) -> Message:
    return {**message, "role": new} if message["role"] == old else message


def _with_systems(messages: list[Message], probe: Probe) -> list[Message]:
    """System messages where the template takes them: as they are, in one, or within the user's."""
    alone = all(message["role"] != "user" for message in messages)
    if not probe.takes_system("first") or (alone and not probe.takes_system("alone")):
        return _within_users(messages, probe)
    count = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    head, rest = messages[:count], messages[count:]
    if count > 1 and not probe.takes_system("several"):
        head = [_joined(head[0], head)]
    if any(message["role"] == "system" for message in rest) and not probe.takes_system("later"):
        rest = _within_users(rest, probe)
    return head + rest


def _within_users(messages: list[Message], probe: Probe) -> list[Message]:
    """System messages put before the text of the user's message that follows (as minja's chat-template.hpp does),
    else after the one ahead of them, else in one of their own. Two of a user's that come together by this are
    joined where the template refuses two in a row.
    """
    made: list[Message] = []
    held: list[Message] = []
    for message in messages:
        if message["role"] == "system":
            held.append(message)
        elif not held:
            made.append(message)
        elif message["role"] == "user" and (not _ends_with_user(made) or probe.takes_in_a_row("user")):
            made.append(_joined(message, [*held, message]))
            held = []
        else:
            rest = [message] if message["role"] == "user" else []
            _add_to_user(made, [*held, *rest])
            made += [] if rest else [message]
            held = []
    if held:
        _add_to_user(made, held)
    return made


def _alternating(messages: list[Message], probe: Probe) -> list[Message]:
    """Two of a user's in a row in one, and of an assistant's that calls nothing, where the template refuses two."""
    made = messages[:1]
    for message in messages[1:]:
        role = message["role"]
        plain = role == made[-1]["role"] and role in ("user", "assistant")
        if plain and not ("tool_calls" in message or "tool_calls" in made[-1] or probe.takes_in_a_row(role)):
            made[-1] = _joined({**made[-1], **message}, [made[-1], message])
        else:
            made.append(message)
    return made


def _ends_with_user(messages: list[Message]) -> bool:
    return bool(messages) and messages[-1]["role"] == "user"


def _add_to_user(messages: list[Message], added: list[Message]) -> None:
    """Adds the texts of `added` to the user's message at the end, or as one."""
    if _ends_with_user(messages):
        messages[-1] = _joined(messages[-1], [messages[-1], *added])
    else:
        messages.append(_joined({"role": "user"}, added))


def _joined(base: Message, messages: list[Message]) -> Message:
    """`base` with the texts of `messages`, one below the other."""
    texts = [_text(message["content"]) for message in messages]
    return {**base, "content": "\n".join(text for text in texts if text)}


# -- contents --


def _with_content(message: Message, probe: Probe) -> Message:
    content = message["content"]
    if content is None:
        if "tool_calls" in message:
            return message
        content = ""
    form = probe.form(message["role"], isinstance(content, list))
    if form == "text":
        content = _text(content)
    elif form == "part" or isinstance(content, str):
        content = [{"type": "text", "text": _text(content)}]
    return {**message, "content": content}


def _text(content: str | list[Message] | None) -> str:
    return "\n".join(part["text"] for part in content) if isinstance(content, list) else content or ""
