"""The parts of calls that hold no arguments: markers, names, ids."""

from __future__ import annotations

import re

from ggufpy.chat.syntax.json_text import MAX_NAME
from ggufpy.chat.syntax.lark import Lark, Tool, quoted
from ggufpy.chat.syntax.ongoing import Ongoing
from ggufpy.chat.syntax.reader import NoCall, Steps
from ggufpy.support.records import dataclass

_DIGITS = re.compile(r"\d+")
_WORD = re.compile(r"[^\s<>{}()\[\]\"'`=,|]+")


@dataclass(frozen=True)
class Text:
    """A marker as it is written. One that is optional may be missing."""

    text: str
    optional: bool = False

    def read(self, call: Ongoing) -> Steps[None]:
        yield from call.reader.space()
        if not (yield from call.reader.literal(self.text.strip())) and not self.optional:
            raise NoCall

    def fits(self, char: str) -> bool:
        return char != "" and self.text.strip().startswith(char)

    def lark(self, tool: Tool, lark: Lark) -> str:
        return lark.text(self.text)

    def texts(self) -> tuple[str, ...]:
        return (self.text.strip(),)


@dataclass(frozen=True)
class Name:
    """The tool's name. `form` is what is written: {} for the name, {n} at its end for the call's number."""

    form: str = "{}"

    def read(self, call: Ongoing) -> Steps[None]:
        yield from call.reader.space()
        text = yield from call.reader.run(_WORD, MAX_NAME)
        if not (yield from call.reader.peek()):
            raise NoCall  # a name that ends with the text may have been cut
        call.name(text)

    def fits(self, char: str) -> bool:
        return _WORD.match(char) is not None

    def lark(self, tool: Tool, lark: Lark) -> str:
        text, number, _ = self.form.replace("{}", tool.name).partition("{n}")
        return f"{quoted(text)} /[0-9]+/" if number else quoted(text)

    def texts(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Id:
    """The id that the model gives a call, of characters that `pattern` (Lark's) has."""

    pattern: str = "[a-zA-Z0-9]{9}"

    def read(self, call: Ongoing) -> Steps[None]:
        yield from call.reader.space()
        call.id = yield from call.reader.run(_WORD, MAX_NAME)

    def fits(self, char: str) -> bool:
        return _WORD.match(char) is not None

    def lark(self, tool: Tool, lark: Lark) -> str:
        return f"/{self.pattern}/"

    def texts(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Number:
    """A number that counts calls."""

    def read(self, call: Ongoing) -> Steps[None]:
        yield from call.reader.run(_DIGITS, MAX_NAME)

    def fits(self, char: str) -> bool:
        return char.isdigit()

    def lark(self, tool: Tool, lark: Lark) -> str:
        return "/[0-9]+/"

    def texts(self) -> tuple[str, ...]:
        return ()
