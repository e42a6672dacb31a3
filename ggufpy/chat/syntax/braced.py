"""Arguments as JSON with bare keys and a token for a quote, as Gemma 4 writes them."""

from __future__ import annotations

import json
import re

from ggufpy.chat.syntax.json_text import MAX_NAME
from ggufpy.chat.syntax.lark import ANYTHING, Lark, Tool, quoted
from ggufpy.chat.syntax.ongoing import Ongoing
from ggufpy.chat.syntax.reader import Emit, Finder, NoCall, Reader, Steps
from ggufpy.chat.syntax.typed import Notation, Values
from ggufpy.support.records import dataclass

_BARE = re.compile(r"[^\s,:{}\[\]<\"]+")
_WORDS = ("true", "false", "null")
_SCALAR = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?|true|false|null")
_DEEPEST = 64


@dataclass(frozen=True)
class Braced:
    """An object in braces: keys without quotes, strings between `quote`, the rest as JSON."""

    quote: str

    def read(self, call: Ongoing) -> Steps[None]:
        yield from call.reader.space()
        if (yield from call.reader.peek()) != "{":
            raise NoCall
        yield from self._object(call.reader, call.write, 0)

    def fits(self, char: str) -> bool:
        return char == "{"

    def lark(self, tool: Tool, lark: Lark) -> str:
        quote = lark.text(self.quote)
        if lark.is_token(self.quote):
            text = lark.rule("braced_text", f"{quote} {ANYTHING} {quote}")
        else:
            end = lark.rule("braced_end[lazy]", f"{ANYTHING} {quoted(self.quote)}")
            text = lark.rule("braced_text", f"{quote} {end}")
        notation = Notation(text, lambda value: f"{quote} {quoted(value)} {quote}", _key, _WORDS, ",", by_name=True)
        return Values(tool, notation, lark).arguments('"{"', _key, '"}"')

    def texts(self) -> tuple[str, ...]:
        return (self.quote,)

    def _object(self, reader: Reader, emit: Emit, depth: int) -> Steps[bool]:
        """Hands on an object as JSON; whether it came to its end."""
        emit(reader.take(1))
        first = True
        while True:
            yield from reader.space()
            if (yield from reader.literal("}")):
                emit("}")
                return True
            if not first and not (yield from reader.literal(",")):
                return False
            yield from reader.space()
            key = yield from self._key(reader)
            if key is None:
                return False
            emit(f"{'' if first else ', '}{json.dumps(key, ensure_ascii=False)}: ")
            first = False
            if not (yield from self._value(reader, emit, depth + 1)):
                return False

    def _key(self, reader: Reader) -> Steps[str | None]:
        parts: list[str] = []
        if (yield from reader.literal(self.quote)):
            yield from reader.until(Finder([self.quote]), parts.append)
        else:
            parts.append((yield from reader.run(_BARE, MAX_NAME)))
        yield from reader.space()
        return "".join(parts) if (yield from reader.literal(":")) else None

    def _value(self, reader: Reader, emit: Emit, depth: int) -> Steps[bool]:
        yield from reader.space()
        if (yield from reader.literal(self.quote)):
            emit('"')
            ended = yield from reader.until(Finder([self.quote]), lambda text: emit(_inside(text)))
            emit('"' if ended else "")
            return bool(ended)
        first = yield from reader.peek()
        if first in ("{", "[") and depth > _DEEPEST:
            return False
        if first == "{":
            return (yield from self._object(reader, emit, depth))
        if first == "[":
            return (yield from self._list(reader, emit, depth))
        word = yield from reader.run(_BARE, MAX_NAME)
        emit(word if _SCALAR.fullmatch(word) else json.dumps(word, ensure_ascii=False))
        return bool(word)

    def _list(self, reader: Reader, emit: Emit, depth: int) -> Steps[bool]:
        emit(reader.take(1))
        first = True
        while True:
            yield from reader.space()
            if (yield from reader.literal("]")):
                emit("]")
                return True
            if not first and not (yield from reader.literal(",")):
                return False
            emit("" if first else ", ")
            first = False
            if not (yield from self._value(reader, emit, depth + 1)):
                return False


def _key(name: str) -> str:
    """A key, any where there is no name, and the colon."""
    return quoted(f"{name}:") if name else r'/[^:{}",<\[\]\s]+:/'


def _inside(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
