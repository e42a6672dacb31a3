"""From the pieces of an answer to the events of its blocks, and from events to blocks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from secrets import token_hex

from ggufpy.api.anthropic.fields import Record
from ggufpy.api.anthropic.thinking import signature
from ggufpy.chat.syntax import Arguments, Call, Content, Piece, Thought


class BlockWriter:
    """Writes the blocks of one answer, one after the other. thoughts: whether they are told, shown: with their text."""

    def __init__(self, thoughts: bool, shown: bool) -> None:
        self._thoughts, self._shown = thoughts, shown
        self._next = 0  # number of the next block
        self._open = ""  # type of the block that is written, if one is
        self._thought: list[str] = []
        self._arguments: list[str] = []
        self.called = False  # whether there is a call

    @property
    def complete(self) -> bool:
        """Whether the newest call's arguments are whole."""
        return parsed(self._arguments) is not None

    def events(self, pieces: Iterable[Piece]) -> Iterator[Record]:
        """The events of what has come."""
        for piece in pieces:
            if isinstance(piece, Call):
                yield from self._begin("tool_use", {"id": f"toolu_{token_hex(12)}", "name": piece.name, "input": {}})
                self._arguments, self.called = [], True
                yield self._delta({"type": "input_json_delta", "partial_json": ""})
            elif not piece.text or (isinstance(piece, Thought) and not self._thoughts):
                continue
            elif isinstance(piece, Arguments):
                self._arguments.append(piece.text)
                yield self._delta({"type": "input_json_delta", "partial_json": piece.text})
            elif isinstance(piece, Thought):
                if self._open != "thinking":
                    yield from self._begin("thinking", {"thinking": "", "signature": ""})
                self._thought.append(piece.text)
                if self._shown:
                    yield self._delta({"type": "thinking_delta", "thinking": piece.text})
            elif isinstance(piece, Content):
                if self._open != "text":
                    yield from self._begin("text", {"text": ""})
                yield self._delta({"type": "text_delta", "text": piece.text})

    def close(self) -> Iterator[Record]:
        """The end of the block that is written, if one is."""
        if not self._open:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": signature("".join(self._thought))})
            self._thought = []
        yield {"type": "content_block_stop", "index": self._next - 1}
        self._open = ""

    def _begin(self, name: str, fields: Record) -> Iterator[Record]:
        yield from self.close()
        self._open = name
        self._next += 1
        block = {"type": name, **fields}
        yield {"type": "content_block_start", "index": self._next - 1, "content_block": block}

    def _delta(self, delta: Record) -> Record:
        return {"type": "content_block_delta", "index": self._next - 1, "delta": delta}


def collected(events: Iterable[Record]) -> list[Record]:
    """The blocks that a client makes of the events."""
    blocks: list[Record] = []
    parts: list[list[str]] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
            parts.append([])
        elif event["type"] == "content_block_delta":
            _add(blocks[-1], parts[-1], event["delta"])
    for block, some in zip(blocks, parts, strict=True):
        if block["type"] == "tool_use":
            found = parsed(some)
            block["input"] = partial_object("".join(some)) if found is None else found
        else:
            block[block["type"]] = "".join(some)
    return blocks


def _add(block: Record, parts: list[str], delta: Record) -> None:
    if delta["type"] == "signature_delta":
        block["signature"] = delta["signature"]
    else:
        parts.append(next(value for name, value in delta.items() if name != "type"))


def parsed(parts: Iterable[str]) -> Record | None:
    """The object of JSON that the parts are; None where they are none. Half a surrogate, which is no text, is "?"."""
    try:
        value = json.loads("".join(parts) or "{}", parse_constant=_no_number)
        told = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return None
    return json.loads(told) if isinstance(value, dict) else None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def partial_object(text: str) -> Record:
    """What is certain of an object whose JSON was cut short: its members that are whole."""
    safe, closers = 0, ""
    stack: list[str] = []
    quoted = escaped = False
    for i, char in enumerate(text):
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "{[":
            stack.append("}" if char == "{" else "]")
            safe, closers = i + 1, "".join(reversed(stack))
        elif char in "}]" and stack:
            stack.pop()
            safe, closers = i + 1, "".join(reversed(stack))
        elif char == ",":
            safe, closers = i, "".join(reversed(stack))
    return parsed([text[:safe], closers]) or {}
