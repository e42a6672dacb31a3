"""Arguments as tags around keys and values, whose types only the tool's schema says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ggufpy.chat.syntax.json_text import MAX_NAME
from ggufpy.chat.syntax.lark import ANYTHING, Lark, Tool, quoted
from ggufpy.chat.syntax.ongoing import Ongoing
from ggufpy.chat.syntax.parameters import JSON_TYPES, is_text, json_of, types_of
from ggufpy.chat.syntax.reader import Emit, Finder, NoCall, Steps
from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

_UNHELD = ("pattern", "format", "minLength", "maxLength")  # of strings, which end with a tag
_LINE = re.compile(r"\s*\n\s*")
_ATTRIBUTE = re.compile(r"[^<>\"]+")


@dataclass(frozen=True)
class Tagged:
    """Each argument as `opens` key `middle` value `closes`.

    attribute: what stands between key and value says the type, then `middle` is cut around it: (text before, what it
    says for a string, what it says for others). lines: a value has a line break before and after it.
    """

    opens: str
    middle: str
    closes: str
    between: str = ""
    attribute: tuple[str, str, str] | None = None
    lines: bool = False

    def read(self, call: Ongoing) -> Steps[None]:
        count = 0
        while True:
            yield from call.reader.space()
            if not (yield from call.reader.literal(self.opens.strip())):
                break
            yield from self._argument(call, count)
            count += 1
        if not count:
            yield from self._nothing(call)
        call.write("}" if count else "{}")

    def fits(self, char: str) -> bool:
        return char != "" and self.opens.strip().startswith(char)

    def lark(self, tool: Tool, lark: Lark) -> str:
        schema = tool.schema
        properties = schema.get("properties")
        names = list(properties) if isinstance(properties, Mapping) else []
        required = schema.get("required") or ()
        parts = []
        for number, name in enumerate(names):
            body = f"{lark.space()} {self._head(tool, name, lark)} {self._value(tool, name, lark)}"
            rule = lark.rule(f"tool_{tool.number}_{number}", body)
            parts.append(rule if name in required else f"{rule}?")
        return " ".join(parts) or '""'

    def texts(self) -> tuple[str, ...]:
        middle = self.attribute[0] if self.attribute else self.middle
        return tuple(text.strip() for text in (self.opens, middle, self.closes))

    # -- reading --

    def _nothing(self, call: Ongoing) -> Steps[None]:
        """No argument came: fine where the call ends here."""
        if call.next_text and not (yield from call.reader.starts(call.next_text)):
            raise NoCall

    def _argument(self, call: Ongoing, count: int) -> Steps[None]:
        reader = call.reader
        key: list[str] = []
        before, *more = _LINE.split((self.attribute[0] if self.attribute else self.middle).strip())
        if not (yield from reader.until(Finder([before]), key.append)) or sum(map(len, key)) > MAX_NAME:
            if call.begun:
                return
            raise NoCall
        for text in more:
            yield from reader.space()
            yield from reader.literal(text)
        name = "".join(key).strip()
        kinds = types_of(call.schema, name)
        if self.attribute:
            said = yield from reader.run(_ATTRIBUTE, MAX_NAME)
            yield from reader.literal(self.middle.strip())
            kinds = frozenset(["string"]) if said == self.attribute[1] else kinds - {"string"}
        call.write(("{" if not count else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
        if is_text(kinds):
            call.write('"')
            if (yield from self._text(call, call.write)):
                call.write('"')
            return
        parts: list[str] = []
        if (yield from self._text(call, lambda text: parts.append(json.loads(f'"{text}"')))):
            call.write(json_of("".join(parts), kinds))

    def _text(self, call: Ongoing, emit: Emit) -> Steps[bool]:
        """Hands on a value as the inside of a JSON string; whether it ended.

        The end counts only where an argument or the rest of the call follows: a value may hold the same text.
        """
        reader = call.reader
        finder = Finder([self.closes.strip()])
        value = _Lines(emit, self.lines)
        while found := (yield from reader.until(finder, value.write)):
            space = yield from reader.space()
            if not (yield from reader.peek()) or (yield from self._follows(call)):
                return True
            value.write(found + space)
        return False

    def _follows(self, call: Ongoing) -> Steps[bool]:
        if (yield from call.reader.starts(self.opens.strip())):
            return True
        return not call.next_text or (yield from call.reader.starts(call.next_text))

    # -- Lark --

    def _head(self, tool: Tool, name: str, lark: Lark) -> str:
        middle = self.middle
        if self.attribute:
            before, text, other = self.attribute
            kinds = types_of(tool.schema, name)
            named = next(iter(kinds), other) if other in JSON_TYPES else other
            named = other if (named, other) == ("integer", "number") else named
            middle = before + (text if is_text(kinds) else named) + middle
        return f"{lark.text(self.opens)} {quoted(name)} {lark.text(middle)}"

    def _value(self, tool: Tool, name: str, lark: Lark) -> str:
        """A value and its end: text up to it, or JSON of the schema."""
        schema = tool.schema["properties"][name]
        end = lark.text(self.closes + self.between)
        values = _texts_of(schema)
        if values:
            return f"({' | '.join(map(quoted, values))}) {end}"
        kinds = types_of(tool.schema, name)
        odd = [key for key in _UNHELD if isinstance(schema, Mapping) and key in schema]
        if odd and tool.held and (not kinds or "string" in kinds):
            raise GGUFError(
                f"tools: {tool.name}.parameters.{name}.{odd[0]} cannot be held in the way that this model writes "
                "calls: leave it out"
            )
        if kinds == {"boolean"}:
            return f'("true" | "false" | "True" | "False") {end}'
        if kinds and "string" not in kinds:
            return f"{lark.schema(_with_definitions(schema, tool.schema))} {end}"
        mark = self.closes.strip()
        _, _, tail = (self.closes + self.between).partition(mark)
        if lark.is_token(mark):
            return f"{ANYTHING} {end}"
        rule = lark.rule(f"value_{tool.number}[lazy]", f"{ANYTHING} {quoted(mark)}")
        return f"{rule} {lark.text(tail)}" if tail.strip() else f"{rule} {lark.space()}"


class _Lines:
    """Hands on the inside of a JSON string for a value, without one line break at each end if `lines`: one at the end
    is held back until more follows."""

    def __init__(self, emit: Emit, lines: bool) -> None:
        self._emit = emit
        self._lines = lines
        self._begun = False
        self._held = ""

    def write(self, text: str) -> None:
        if not text:
            return
        if self._lines and not self._begun:
            text = text.removeprefix("\n")
        self._begun = True
        text = self._held + text
        self._held = ""
        if self._lines and text.endswith("\n"):
            text, self._held = text[:-1], "\n"
        if text:
            self._emit(json.dumps(text, ensure_ascii=False)[1:-1])


def _texts_of(schema: Any) -> list[str]:
    """The values of a schema that allows certain strings only."""
    if not isinstance(schema, Mapping):
        return []
    values = [schema["const"]] if "const" in schema else schema.get("enum") or []
    return list(values) if all(isinstance(value, str) for value in values) else []


def _with_definitions(schema: Any, root: Mapping[str, Any]) -> Any:
    """A part of a schema with the definitions that it may refer to."""
    found = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**found, **schema} if isinstance(schema, Mapping) else schema
