"""Items of a conversation as messages of a chat.

In: the `input` of a request, and the items of earlier responses. Out: messages for a model's template. What a model
cannot be shown is refused by name; what servers with tools of their own have noted (searches, images) is left out.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from ggufpy.api.responses.tools import joined
from ggufpy.errors import GGUFError
from ggufpy.support import checks

Record = dict[str, Any]

ROLES = ("user", "assistant", "system", "developer")
TEXTS = ("input_text", "output_text", "text")
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
# Calls of tools that are no functions: what the model sees as their name, and the field that it sees as arguments.
NAMED_CALLS = {
    "local_shell_call": ("local_shell", "action"),
    "shell_call": ("shell", "action"),
    "apply_patch_call": ("apply_patch", "operation"),
}
CALLS = ("function_call", "custom_tool_call", "mcp_call", *NAMED_CALLS)
OUTPUTS = tuple(f"{kind}_output" for kind in CALLS if kind != "mcp_call")
UNSEEN = frozenset(
    {
        "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "computer_call",
        "computer_call_output", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "tool_search_call",
        "tool_search_output", "program", "program_output", "configuration_update", "additional_tools",
    }
)  # fmt: skip
NO_TEXT = "[This is no text, and cannot be shown to this model.]"  # of a tool's output
SEALED = "ggufpy:"  # what an `encrypted_content` of ours begins with


def itemized(given: Any) -> list[Record]:
    """The items of an `input`, each with a type and an id. Raises GGUFError for what is none."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise GGUFError(f"input is {checks.shown(given)}; a text or a list of items is wanted")
    return [_item(item, f"input[{i}]") for i, item in enumerate(given)]


def _item(given: Any, where: str) -> Record:
    item = checks.mapping(where, given)
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference"
    checks.text(f"{where}.type", kind)
    made = {key: value for key, value in item.items() if value is not None}
    if kind == "item_reference":
        return {"type": kind, "id": checks.text(f"{where}.id", item.get("id"))}
    if not isinstance(item.get("id"), str):
        made["id"] = new_id(PREFIXES.get(kind, "item"))
    if kind == "message" and isinstance(item.get("content"), str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        made["content"] = [{"type": part, "text": item["content"]}]
        if part == "output_text":
            made["content"][0]["annotations"] = []
    if kind == "message":
        made.setdefault("status", "completed")
    return {**made, "type": kind}


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}_{uuid4().hex}"


def sealed(thought: str) -> str:
    """A thought for `encrypted_content`, which clients give back as it is: it is coded, and no secret."""
    return SEALED + base64.b64encode(thought.encode()).decode()


class Told(NamedTuple):
    """Messages, and for each the item that it begins with."""

    messages: list[Record]
    places: list[str]


def told(items: Sequence[Mapping[str, Any]], instructions: str | None = None, before: int = 0) -> Told:
    """The messages that items say, of which the first `before` are no part of the input. Raises GGUFError naming the
    item that is wrong."""
    chat = _Chat(instructions)
    for i, item in enumerate(items):
        chat.add(item, f"input[{i - before}]" if i >= before else f"item {i} of the response before")
    return chat.finish()


class _Chat:
    """Messages, as items come. Thoughts, a text and calls that follow each other are one message of the assistant."""

    def __init__(self, instructions: str | None) -> None:
        self._made: list[Record] = []
        self._places: list[str] = []
        self._thought: str | None = None
        self._content: str | None = None
        self._calls: list[Record] = []
        self._place = ""  # where what the assistant says began
        self._waiting: dict[str, str] = {}  # calls without an output, by id, and where they are
        if instructions:
            self._say({"role": "system", "content": instructions}, "instructions")

    def _say(self, message: Record, where: str) -> None:
        self._made.append(message)
        self._places.append(where)

    def add(self, item: Mapping[str, Any], where: str) -> None:
        kind = item["type"]
        if kind == "message":
            self._message(item, where)
        elif kind == "reasoning":
            self._next_answer()
            self._thought = _thought(item, where)
        elif kind in CALLS:
            self._call(item, kind, where)
        elif kind in OUTPUTS:
            self._output(item, where)
        elif kind not in UNSEEN:
            raise GGUFError(f"{where}.type is {checks.shown(kind)}, which no model can be shown here: leave it out")

    def finish(self) -> Told:
        """All messages. Raises GGUFError for a call that has no output."""
        if self._waiting:
            call, where = next(iter(self._waiting.items()))
            raise GGUFError(f"{where} is a call without an output: add a function_call_output for {call[:80]!r}")
        self._flush()
        return Told(self._made, self._places)

    def _message(self, item: Mapping[str, Any], where: str) -> None:
        role = checks.text(f"{where}.role", item.get("role"))
        if role not in ROLES:
            raise GGUFError(f"{where}.role is {checks.shown(role)}; it must be one of {', '.join(ROLES)}")
        texts = _texts(item.get("content"), f"{where}.content")
        if role == "assistant":
            self._next_answer()
            self._content, self._place = "".join(texts), where
            return
        self._flush()
        parts = [{"type": "text", "text": text} for text in texts]
        self._say({"role": role, "content": parts if len(parts) > 1 else "".join(texts)}, where)

    def _call(self, item: Mapping[str, Any], kind: str, where: str) -> None:
        call_id = _call_id(item, where)
        if call_id in self._waiting:
            raise GGUFError(f"{where}.call_id is {call_id[:80]!r}, which another call has that waits for its output")
        if kind in NAMED_CALLS:
            name, field = NAMED_CALLS[kind]
            arguments = json.dumps(checks.mapping(f"{where}.{field}", item.get(field)), ensure_ascii=False)
        else:
            name = joined(item.get("namespace"), checks.text(f"{where}.name", item.get("name")))
            field = "input" if kind == "custom_tool_call" else "arguments"
            arguments = checks.text(f"{where}.{field}", item.get(field))
            if kind == "custom_tool_call":
                arguments = json.dumps({"input": arguments}, ensure_ascii=False)
        self._place = self._place if self._calls or self._content is not None else where
        self._calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
        if kind == "mcp_call":  # has its output within
            self._flush()
            given = item.get("output") or item.get("error") or ""
            self._say({"role": "tool", "tool_call_id": call_id, "content": _plain(given)}, where)
        else:
            self._waiting[call_id] = where

    def _output(self, item: Mapping[str, Any], where: str) -> None:
        call_id = _call_id(item, where)
        if self._waiting.pop(call_id, None) is None:
            raise GGUFError(f"{where}.call_id is {call_id[:80]!r}, and no call with it waits for an output")
        self._flush()
        given = item.get("output", "")
        if isinstance(given, list) and all(isinstance(part, Mapping) and "type" in part for part in given):
            given = "\n".join(_shown(part, f"{where}.output[{i}]") for i, part in enumerate(given))
        self._say({"role": "tool", "tool_call_id": call_id, "content": _plain(given)}, where)

    def _next_answer(self) -> None:
        """Another message of the assistant begins, if one has begun to say something."""
        if self._content is not None or self._calls:
            self._flush()

    def _flush(self) -> None:
        """What the assistant has said is a message. A thought alone is none."""
        if self._content is not None or self._calls:
            message: Record = {"role": "assistant", "content": self._content}
            if self._calls:
                message["tool_calls"] = self._calls
            if self._thought:
                message["reasoning_content"] = self._thought
            self._say(message, self._place)
        self._thought, self._content, self._calls = None, None, []


def _call_id(item: Mapping[str, Any], where: str) -> str:
    """The id that binds a call and its output. Some kinds have it for their own."""
    own = item["type"] in ("local_shell_call", "local_shell_call_output", "mcp_call")
    return checks.text(f"{where}.call_id", item.get("call_id", item.get("id") if own else None))


def _texts(content: Any, where: str) -> list[str]:
    """The texts of a message's parts."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise GGUFError(f"{where} is {checks.shown(content)}; a text or a list of parts is wanted")
    made = []
    for i, given in enumerate(content):
        part, name = checks.mapping(f"{where}[{i}]", given), f"{where}[{i}]"
        kind = part.get("type")
        field = "refusal" if kind == "refusal" else "text"
        if kind != "refusal" and kind not in TEXTS:
            what = f"{name} is of type {checks.shown(kind)}"
            raise GGUFError(f"{what}, and models are given text only here: leave it out")
        made.append(checks.text(f"{name}.{field}", part.get(field)))
    return made


def _shown(part: Mapping[str, Any], where: str) -> str:
    """A part of a tool's output. The client's tool made it, not the user: for what is no text the model gets a line
    that says so, and can go on."""
    if part["type"] in TEXTS:
        return checks.text(f"{where}.text", part.get("text"))
    return NO_TEXT


def _plain(given: Any) -> str:
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _thought(item: Mapping[str, Any], where: str) -> str:
    """What a reasoning item says: what we coded, else its text, else its summary. Others' codes say nothing here."""
    code = item.get("encrypted_content")
    if isinstance(code, str) and code.startswith(SEALED):
        try:
            return base64.b64decode(code[len(SEALED) :], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise GGUFError(f"{where}.encrypted_content has been changed: give it back as it was") from None
    for field in ("content", "summary"):
        if parts := item.get(field):
            listed = checks.items(f"{where}.{field}", parts, "a list of parts")
            names = [f"{where}.{field}[{i}]" for i in range(len(listed))]
            made = [checks.mapping(name, part) for name, part in zip(names, listed, strict=True)]
            return "\n\n".join(checks.text(f"{n}.text", part.get("text")) for n, part in zip(names, made, strict=True))
    return ""
