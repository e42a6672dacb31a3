"""Grammars of values that are not written as JSON, from a JSON schema.

What is held: type, properties, required, items, enum, const, anyOf, oneOf, and references within the schema. Any other
keyword that says something of a value is refused where the schema must be held, and else lets any value through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ggufpy.chat.syntax.lark import Lark, Tool, quoted
from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

_HELD = ("type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "$ref")
_SAYS_NOTHING = (
    *("$schema", "$id", "$defs", "definitions", "$comment", "title", "description", "default", "examples"),
    *("deprecated", "readOnly", "writeOnly", "additionalProperties", "strict"),
)
_DEEPEST = 16
_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")


@dataclass(frozen=True)
class Notation:
    """How values are written. `text`: Lark of any string. quote: Lark of one string; key: of a member's key."""

    text: str
    quote: Callable[[str], str]
    key: Callable[[str], str]
    words: tuple[str, str, str]  # true, false, null
    comma: str
    by_name: bool = False  # members come in the order of their names


class Values:
    """Writes the rules for one tool's arguments."""

    def __init__(self, tool: Tool, notation: Notation, lark: Lark) -> None:
        self._tool = tool
        self._notation = notation
        self._lark = lark

    def arguments(self, opens: str, key: Callable[[str], str], closes: str) -> str:
        """All arguments between two texts, each with the Lark of its key before it."""
        return self._object(self._tool.schema, f"{self._tool.name}.parameters", 0, (opens, key, closes))

    def value(self, schema: Any, where: str, depth: int = 0) -> str:
        """A rule for values of a schema; `where` is what errors call it."""
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            return self._any()
        odd = [key for key in schema if key not in _HELD and key not in _SAYS_NOTHING]
        if odd:
            return self._unheld(where, odd[0])
        if "$ref" in schema:
            found = _referred(schema["$ref"], self._tool.schema)
            return self.value(found, where, depth + 1) if found is not None else self._unheld(where, "$ref")
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, (list, tuple)) and values:
            return self._rule(" | ".join(self._literal(value, where) for value in values))
        for keyword in ("anyOf", "oneOf"):
            if isinstance(schema.get(keyword), (list, tuple)):
                parts = [self.value(one, f"{where}.{keyword}", depth + 1) for one in schema[keyword]]
                return self._rule(" | ".join(parts))
        kinds = schema.get("type")
        names = [kinds] if isinstance(kinds, str) else list(kinds or ())
        if not names or any(name not in _TYPES for name in names):
            return self._any()
        return self._rule(" | ".join(self._of_type(name, schema, where, depth) for name in names))

    # -- kinds --

    def _of_type(self, name: str, schema: Mapping[str, Any], where: str, depth: int) -> str:
        notation = self._notation
        if name == "string":
            return notation.text
        if name == "integer":
            return "/-?(0|[1-9][0-9]{0,18})/"
        if name == "number":
            return _NUMBER
        if name == "boolean":
            return f"{quoted(notation.words[0])} | {quoted(notation.words[1])}"
        if name == "null":
            return quoted(notation.words[2])
        if name == "array":
            item = self.value(schema["items"], f"{where}[]", depth + 1) if "items" in schema else self._any()
            return f'"[" ({item} ({quoted(notation.comma)} {item})*)? "]"'
        if not isinstance(schema.get("properties"), Mapping):
            return self._any_object()
        return self._object(schema, where, depth, ('"{"', notation.key, '"}"'))

    def _object(
        self, schema: Mapping[str, Any], where: str, depth: int, form: tuple[str, Callable[[str], str], str]
    ) -> str:
        """Members in the order of the schema, those that are not required left out or not."""
        opens, key, closes = form
        properties = schema.get("properties") or {}
        required = schema.get("required") or ()
        members = [
            (f"{key(name)} {self.value(one, f'{where}.{name}', depth + 1)}", name in required)
            for name, one in (sorted(properties.items()) if self._notation.by_name else properties.items())
        ]
        return f"{opens} {self._members(members)} {closes}"

    def _members(self, members: Sequence[tuple[str, bool]]) -> str:
        """Rules from the last member to the first: one for what follows another member, one for what begins."""
        comma, nothing = quoted(self._notation.comma), '""'
        following, beginning = nothing, nothing
        for body, required in reversed(members):
            first = self._rule(f"{body} {following}" + ("" if required else f" | {beginning}"))
            following = self._rule(f"{comma} {body} {following}" + ("" if required else f" | {following}"))
            beginning = first
        return beginning

    def _literal(self, value: Any, where: str) -> str:
        true, false, null = self._notation.words
        if isinstance(value, str):
            return self._notation.quote(value)
        if value is None or isinstance(value, bool):
            return quoted(null if value is None else true if value else false)
        if isinstance(value, (int, float)):
            return quoted(str(value))
        return self._unheld(where, "enum")

    # -- anything --

    def _any(self) -> str:
        """Any value."""
        lark, notation = self._lark, self._notation
        words = " | ".join(quoted(word) for word in notation.words)
        lark.rule("any_word", f"{_NUMBER} | {words}")
        lark.rule("any_list", f'"[" (any_value ({quoted(notation.comma)} any_value)*)? "]"')
        self._any_object()
        return lark.rule("any_value", f"{notation.text} | any_word | any_list | any_object")

    def _any_object(self) -> str:
        lark, notation = self._lark, self._notation
        one = f"{notation.key('')} any_value"
        lark.rule("any_object", f'"{{" ({one} ({quoted(notation.comma)} {one})*)? "}}"')
        if not lark.has("any_value"):
            lark.rule("any_value", notation.text)
            self._any()
        return "any_object"

    def _unheld(self, where: str, keyword: str) -> str:
        """Any value instead of what a keyword asks for. Raises GGUFError where the schema must be held."""
        if self._tool.held:
            raise GGUFError(
                f"tools: {where}.{keyword} cannot be held in the way that this model writes calls: leave it out"
            )
        return self._any()

    def _rule(self, body: str) -> str:
        return self._lark.fresh("value", body)


_NUMBER = r"/-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,3})?/"


def _referred(reference: Any, root: Mapping[str, Any]) -> Any:
    """What a reference within a schema names; None if nothing."""
    node: Any = root
    for part in str(reference).removeprefix("#").strip("/").split("/"):
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node
