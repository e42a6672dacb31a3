"""Arguments as JSON: by themselves behind the name, or with the name in an object around them."""

from __future__ import annotations

from ggufpy.chat.syntax.json_text import decoded, short_string, value
from ggufpy.chat.syntax.lark import Lark, Tool, quoted
from ggufpy.chat.syntax.ongoing import Ongoing
from ggufpy.chat.syntax.reader import NoCall, Steps
from ggufpy.support.records import dataclass

_NAMES = ("name", "tool_name", "function", "function_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_IDS = ("id", "tool_call_id", "call_id")


@dataclass(frozen=True)
class Json:
    """A JSON object. Left out or null it is {}; as a string that holds JSON it is what that says."""

    def read(self, call: Ongoing) -> Steps[None]:
        yield from call.reader.space()
        yield from arguments(call)

    def fits(self, char: str) -> bool:
        return char in ("{", '"')

    def lark(self, tool: Tool, lark: Lark) -> str:
        return lark.schema(tool.schema)

    def texts(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Wrapped:
    """An object that has name and arguments, and perhaps an id, under keys. Parsers also take the other usual keys,
    in any order, and an object `function` around both.

    keyed: the name itself is the key of the arguments. id_key: "" for none; id_first says where the id stands.
    """

    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str = ""
    id_first: bool = False
    id_pattern: str = "[a-zA-Z0-9_-]{1,40}"
    keyed: bool = False

    def read(self, call: Ongoing) -> Steps[None]:
        yield from call.reader.space()
        if not (yield from call.reader.literal("{")):
            raise NoCall
        yield from self._members(call, 0)
        if not call.begun:
            call.begin()
            call.write("{}")

    def fits(self, char: str) -> bool:
        return char == "{"

    def lark(self, tool: Tool, lark: Lark) -> str:
        space, arguments = lark.space(), lark.schema(tool.schema)
        if self.keyed:
            return f'"{{" {space} {quoted(quoted(tool.name) + ":")} {space} {arguments} {space} "}}"'
        members = [(self.name_key, quoted(quoted(tool.name))), (self.arguments_key, arguments)]
        if self.id_key:
            members.insert(0 if self.id_first else 2, (self.id_key, f'/"{self.id_pattern}"/'))
        (first, value), *rest = members
        # One terminal: where nothing marks a call it competes with free text.
        start = rf'/\{{[ \t\n]{{0,16}}"{first}":/ {space} {value}'
        body = "".join(f' {space} "," {space} {quoted(quoted(key) + ":")} {space} {value}' for key, value in rest)
        return f'{start}{body} {space} "}}"'

    def texts(self) -> tuple[str, ...]:
        return ()

    def _members(self, call: Ongoing, depth: int) -> Steps[None]:
        """The members of an object whose { is taken, and its }. What is wrong behind the arguments is let be."""
        reader = call.reader
        while True:
            yield from reader.space()
            if (yield from reader.literal("}")):
                return
            key = yield from short_string(reader)
            yield from reader.space()
            if not (yield from reader.literal(":")):
                raise NoCall
            yield from reader.space()
            yield from self._member(call, key, depth)
            if call.begun and not (yield from self._goes_on(call)):
                return
            if not call.begun:
                yield from reader.space()
                yield from reader.literal(",")

    def _goes_on(self, call: Ongoing) -> Steps[bool]:
        """Behind the arguments: whether there is another member; takes the end of the object."""
        reader = call.reader
        yield from reader.space()
        if (yield from reader.literal(",")):
            yield from reader.space()
            return (yield from reader.peek()) == '"'
        yield from reader.literal("}")
        return False

    def _member(self, call: Ongoing, key: str, depth: int) -> Steps[None]:
        reader = call.reader
        first = yield from reader.peek()
        if self.keyed and not call.named:
            call.name(key)
            yield from arguments(call)
        elif key in (self.arguments_key, *_ARGUMENTS) and not call.begun:
            yield from arguments(call)
        elif key == "function" and first == "{" and depth == 0:
            reader.take(1)
            yield from self._members(call, 1)
        elif key in (self.name_key, *_NAMES) and first == '"' and not call.named:
            call.name((yield from short_string(reader)))
            call.catch_up()
        elif key in _IDS and first == '"' and not call.begun:
            call.id = yield from short_string(reader)
        elif not (yield from value(reader, lambda text: None)):
            raise NoCall


def arguments(call: Ongoing) -> Steps[None]:
    """The JSON object of arguments, or a string that holds one. Raises NoCall if there is none of these and the call
    was not yet said."""
    reader = call.reader
    first = yield from reader.peek()
    if first == "{":
        yield from value(reader, call.write)
    elif first == '"':
        yield from _within_string(call)
    elif (yield from reader.literal("null")) or (
        call.next_text and call.named and (yield from reader.starts(call.next_text))
    ):
        call.write("{}")
    else:
        raise NoCall


def _within_string(call: Ongoing) -> Steps[None]:
    """A string that says an object, "" for none."""
    begun = False

    def emit(text: str) -> None:
        nonlocal begun
        text = text if begun else text.lstrip()
        if text and not begun and not text.startswith("{"):
            raise NoCall
        begun = begun or bool(text)
        if text:
            call.write(text)

    yield from decoded(call.reader, emit)
    if not begun:
        call.write("{}")
