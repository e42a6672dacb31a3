"""Arguments as in a call of Python's: (city="Paris", count=3)."""

from __future__ import annotations

import json
import re

from ggufpy.chat.syntax.json_text import MAX_NAME
from ggufpy.chat.syntax.lark import Lark, Tool, quoted
from ggufpy.chat.syntax.ongoing import Ongoing
from ggufpy.chat.syntax.parameters import from_python
from ggufpy.chat.syntax.reader import NoCall, Reader, Steps
from ggufpy.chat.syntax.typed import Notation, Values
from ggufpy.support.records import dataclass

_KEY = re.compile(r"\w+")
_PLAIN = re.compile(r"[^\"'()\[\]{},\\]+")
_WORDS = ("True", "False", "None")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Keywords:
    """Keyword arguments within parentheses, each handed on when it is complete. Values are Python's or JSON's."""

    def read(self, call: Ongoing) -> Steps[None]:
        reader = call.reader
        if not (yield from reader.literal("(")):
            raise NoCall
        yield from reader.space()
        count = 0
        while not (yield from reader.literal(")")):
            key = yield from reader.run(_KEY, MAX_NAME)
            yield from reader.space()
            if not key or not (yield from reader.literal("=")):
                if not call.begun:
                    raise NoCall
                return
            text = yield from _value(reader)
            if text is None:
                if not call.begun:
                    raise NoCall
                return
            call.write(("{" if not count else ", ") + f"{json.dumps(key)}: {from_python(text)}")
            count += 1
            yield from reader.literal(",")
            yield from reader.space()
        call.write("}" if count else "{}")

    def fits(self, char: str) -> bool:
        return char == "("

    def lark(self, tool: Tool, lark: Lark) -> str:
        """Python's literals, held to the schema."""
        text = lark.rule("python_text", r"/'([^'\\\n]|\\[^\n])*'/ | /" + r'"([^"\\\n]|\\[^\n])*"/')
        notation = Notation(text, _quoted, lambda key: f'{_quoted(key) if key else text} ": "', _WORDS, ", ")
        return Values(tool, notation, lark).arguments('"("', _key, '")"')

    def texts(self) -> tuple[str, ...]:
        return ()


def _value(reader: Reader) -> Steps[str | None]:
    """The text of a value up to the comma or parenthesis behind it; None if the text ends or brackets do not match."""
    parts: list[str] = []
    closers: list[str] = []
    while char := (yield from reader.peek()):
        if not closers and char in ",)":
            return "".join(parts)
        if char in "\"'":
            if not (yield from _quotes(reader, char, parts)):
                return None
        elif char in _CLOSERS:
            closers.append(_CLOSERS[char])
            parts.append(reader.take(1))
        elif char in ")]}":
            if not closers or closers.pop() != char:
                return None
            parts.append(reader.take(1))
        else:
            parts.append(reader.span(_PLAIN) or reader.take(1))
    return None


def _quotes(reader: Reader, quote: str, parts: list[str]) -> Steps[bool]:
    """Takes a string of Python's; raw line breaks within it are escaped."""
    inside = re.compile(rf"[^{quote}\\\n]+")
    parts.append(reader.take(1))
    while char := (yield from reader.peek()):
        if char == quote:
            parts.append(reader.take(1))
            return True
        if char == "\\":
            parts.append(reader.take(len((yield from reader.peek(2)))))
        elif char == "\n":
            reader.take(1)
            parts.append("\\n")
        else:
            parts.append(reader.span(inside))
    return False


def _key(name: str) -> str:
    return quoted(f"{name}=") if name else r"/[a-zA-Z_]\w{0,63}=/"


def _quoted(text: str) -> str:
    """A string as Python writes it."""
    return quoted(repr(text))
