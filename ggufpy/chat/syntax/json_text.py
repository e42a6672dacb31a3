"""JSON as it comes, taken without being understood: nothing waits for the end of a value."""

from __future__ import annotations

import json
import re

from ggufpy.chat.syntax.reader import Emit, NoCall, Reader, Steps

_OUTSIDE = re.compile(r'[^"{}\[\]]+')
_INSIDE = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR = re.compile(r'[^\s,{}\[\]":]+')
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"[0-9a-fA-F]{4}")
MAX_NAME = 1024  # characters of a key, a name or an id


def value(reader: Reader, emit: Emit) -> Steps[bool]:
    """Hands on the JSON value that comes next; whether it came to its end.

    Brackets must match. Raw control characters in strings, which models write and JSON forbids, are escaped.
    """
    first = yield from reader.peek()
    if first == '"':
        return (yield from _string(reader, emit))
    if first not in ("{", "["):
        text = yield from reader.run(_SCALAR, MAX_NAME)
        emit(text)
        return bool(text)
    closers: list[str] = []
    while char := (yield from reader.peek()):
        if char == '"':
            if not (yield from _string(reader, emit)):
                return False
        elif char in "{[":
            closers.append("}" if char == "{" else "]")
            emit(reader.take(1))
        elif char in "}]":
            if char != closers.pop():
                return False
            emit(reader.take(1))
            if not closers:
                return True
        else:
            emit(reader.span(_OUTSIDE))
    return False


def _string(reader: Reader, emit: Emit) -> Steps[bool]:
    emit(reader.take(1))
    while char := (yield from reader.peek()):
        if char == '"':
            emit(reader.take(1))
            return True
        if char == "\\":
            emit(reader.take(len((yield from reader.peek(2)))))
        elif char < " ":
            emit(json.dumps(reader.take(1))[1:-1])
        else:
            emit(reader.span(_INSIDE))
    return False


def decoded(reader: Reader, emit: Emit) -> Steps[bool]:
    """Hands on what the JSON string that comes next says; whether it came to its end."""
    reader.take(1)
    while char := (yield from reader.peek()):
        if char == '"':
            reader.take(1)
            return True
        if char == "\\":
            emit((yield from _escape(reader)))
        elif char < " ":
            emit(reader.take(1))
        else:
            emit(reader.span(_INSIDE))
    return False


def _escape(reader: Reader) -> Steps[str]:
    """One escaped character; halves of pairs that stand alone become U+FFFD, unknown escapes what they are."""
    pair = yield from reader.peek(2)
    if pair != "\\u":
        reader.take(len(pair))
        return _ESCAPES.get(pair[1:], pair)
    text = yield from reader.peek(6)
    if not _HEX.fullmatch(text[2:]):
        return reader.take(2)
    code = int(reader.take(6)[2:], 16)
    if 0xD800 <= code < 0xDC00:
        low = yield from reader.peek(6)
        if low.startswith("\\u") and _HEX.fullmatch(low[2:]) and 0xDC00 <= int(low[2:], 16) < 0xE000:
            return chr(0x10000 + ((code - 0xD800) << 10) + int(reader.take(6)[2:], 16) - 0xDC00)
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)


def short_string(reader: Reader) -> Steps[str]:
    """The string that comes next, a key or a name. Raises NoCall where there is none, or a long one."""
    if (yield from reader.peek()) != '"':
        raise NoCall
    parts: list[str] = []
    if not (yield from decoded(reader, _limited(parts))):
        raise NoCall
    return "".join(parts)


def _limited(parts: list[str]) -> Emit:
    count = 0

    def emit(text: str) -> None:
        nonlocal count
        count += len(text)
        if count > MAX_NAME:
            raise NoCall
        parts.append(text)

    return emit
