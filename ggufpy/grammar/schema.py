"""JSON schemas as llguidance enforces them: every keyword is either rewritten to what it holds to, or refused by name.

In: a schema of any draft. Out: one that has nothing but types, properties, items, bounds, and regular expressions for
whole strings, with all that references point to under `$defs`. What comes out never allows more than what went in; it
allows less where noted:
- Properties come in the order of the schema. An object that names properties has no others, unless
  `additionalProperties` says so (as llama.cpp has it): else small models write names without end.
- Whole numbers have at most 16 digits (what every reader keeps, RFC 8259), and are not written as 1.0.
- Multiples of a fraction have as many digits as it: of 0.25 there is 0.50.
- Formats are those of `formats.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.grammar import objects, scalars
from ggufpy.grammar.document import Document, Schema
from ggufpy.grammar.joins import MOST_JOINED, too_many_patterns
from ggufpy.grammar.keywords import ENFORCED, NOTES, REFUSED, meant
from ggufpy.support import checks

Path = tuple[str, ...]

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
MOST_ITEMS = 10_000
MOST_SCHEMAS = 20_000  # with those that several cases of oneOf share counted for each
_JOINS = ("$ref", "allOf", "anyOf", "oneOf")
_OBJECT = frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"})
_ARRAY = frozenset({"items", "prefixItems", "additionalItems", "minItems", "maxItems"})


def check_schema(schema: Mapping[str, Any] | bool | str, name: str) -> None:
    """Raise GGUFError, which begins with `name`, for a schema that cannot be enforced as it stands."""
    from ggufpy.grammar.grammar import Grammar

    Grammar.from_json_schema(schema, name)


def enforced(document: Document, path: Path = (), node: Any = None) -> dict[str, Any]:
    """The schema that llguidance is given, of a whole document or of its part `node` at `path`.

    Raises GGUFError with the place of what cannot be held to.
    """
    return _Rewriter(document).whole(path, document.root if node is None else node)


class _Rewriter:
    """Rewrites a document from its root, and what references name as it is met.

    `open_` is said of a schema that others are joined with: what it does not name may still be named by them, so it
    stays open, and the whole is closed.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self._names: dict[tuple[Path, bool], str] = {}
        self._todo: deque[tuple[str, Path, Any, bool]] = deque()
        self._left = MOST_SCHEMAS
        self._steps: set[float] = set()  # all multipleOf
        self._joins = False  # whether anything is joined, so that these may come together

    def whole(self, path: Path, node: Any) -> dict[str, Any]:
        """One schema with all that its references point to."""
        root = self.schema(node, path, False)
        defs: dict[str, Any] = {}
        while self._todo:
            name, path, node, open_ = self._todo.popleft()
            defs[name] = self.schema(node, path, open_)
        if self._joins and scalars.common_step([*self._steps]) > scalars.MOST_STEP:
            raise self.document.error((), "multipleOf cannot be enforced: joined, they have too many remainders")
        made: dict[str, Any] = {"allOf": [root]} if isinstance(root, bool) or "$ref" in root else dict(root)
        if defs:
            made["$defs"] = defs
        if self._joins and too_many_patterns(made):
            told = f"allOf cannot be enforced: more than {MOST_JOINED} patterns meet in one text; write one pattern"
            raise self.document.error((), told)
        return made

    def schema(self, node: Any, path: Path, open_: bool) -> Schema:
        """A schema rewritten."""
        self._left -= 1
        if self._left < 0:
            raise self.document.error((), f"it comes to more than {MOST_SCHEMAS:,} schemas; use oneOf and $ref less")
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise self.document.error(path, f"a schema is an object or true or false, not {checks.shown(node)}")
        self._check_keywords(node, path)
        joins = [key for key in _JOINS if key in node]
        own = {key: value for key, value in node.items() if key in ENFORCED and key not in (*_JOINS, "nullable")}
        if not joins:
            made = self._plain(own, path, open_)
        elif len(joins) == 1 and not own and not (joins == ["allOf"] and len(_listed(node["allOf"])) != 1):
            made = self._join(joins[0], node[joins[0]], path, open_)
        else:
            made = self._joined(node, own, path, open_)
        return {"anyOf": [made, {"type": "null"}]} if self._flag(node, "nullable", path) else made

    def _check_keywords(self, node: dict[str, Any], path: Path) -> None:
        for key in node:
            if key in REFUSED:
                raise self.document.error(path, f"{key} cannot be enforced; {REFUSED[key]}")
            if key not in ENFORCED and key not in NOTES and (keyword := meant(key)) is not None:
                raise self.document.error(path, f"{key} is no keyword; write {keyword}, or x-{key} for a note")
        if self._flag(node, "uniqueItems", path):
            raise self.document.error(
                path, "uniqueItems cannot be enforced; remove it, or list what may be there as properties"
            )
        if node.get("unevaluatedItems", True) is not True:
            raise self.document.error(path, "unevaluatedItems cannot be enforced; write items behind prefixItems")
        rest = node.get("unevaluatedProperties", True)
        if rest is not True and (rest is not False or "anyOf" in node or "oneOf" in node):
            raise self.document.error(
                path, "unevaluatedProperties cannot be enforced here; write additionalProperties in each case"
            )

    def _flag(self, node: dict[str, Any], key: str, path: Path) -> bool:
        value = node.get(key, False)
        if not isinstance(value, bool):
            raise self.document.error(path, f"{key} is {checks.shown(value)}; it must be true or false")
        return value

    # -- schemas that are made of others --

    def _joined(self, node: dict[str, Any], own: dict[str, Any], path: Path, open_: bool) -> Schema:
        """All of several parts, in the order in which the schema has them; closed as a whole."""
        self._joins = True
        parts: list[Schema] = []
        for key in node:
            if key in _JOINS:
                parts.append(self._join(key, node[key], path, True))
            elif own:
                parts.append(self._plain(own, path, True))
                own = {}
        names = None if open_ else objects.names(self.document, node, path)
        if names:
            parts.append({"properties": dict.fromkeys(names, True), "additionalProperties": False})
        return {"allOf": parts}

    def _join(self, key: str, value: Any, path: Path, open_: bool) -> Schema:
        if key == "$ref":
            return self._reference(value, path, open_)
        if not isinstance(value, list) or not value:
            raise self.document.error(path, f"{key} is {checks.shown(value)}; it must be a list of schemas")
        if key == "oneOf":
            return self._one_of(value, path, open_)
        return {key: [self.schema(part, (*path, key, str(i)), open_) for i, part in enumerate(value)]}

    def _reference(self, ref: Any, path: Path, open_: bool) -> Schema:
        """What a `$ref` names, under one name however often it is used."""
        place, node = self.document.target(ref, path)
        seen = {place}
        while isinstance(node, dict) and "$ref" in node and not (set(node) & ENFORCED - {"$ref"}):
            place, node = self.document.target(node["$ref"], place)
            if place in seen:
                raise self.document.error(path, f"$ref {ref!r:.80} leads back to itself and says nothing")
            seen.add(place)
        if (place, open_) not in self._names:
            name = f"d{len(self._names)}"
            self._names[place, open_] = name
            self._todo.append((name, place, node, open_))
        return {"$ref": f"#/$defs/{self._names[place, open_]}"}

    def _one_of(self, options: list[Any], path: Path, open_: bool) -> Schema:
        """Exactly one: what the library can tell apart, and lists of different values."""
        values = [value for option in options for value in scalars.listed_values(option)]
        if len(values) >= len(options) and all(scalars.listed_values(option) for option in options):
            keys = [scalars.canonical(value) for value in values]
            if len(set(keys)) == len(keys):
                return {"anyOf": [self.schema(o, (*path, "oneOf", str(i)), open_) for i, o in enumerate(options)]}
        made: list[Schema] = []
        for i, option in enumerate(options):
            place: Path = (*path, "oneOf", str(i))
            seen: set[Path] = set()
            while isinstance(option, dict) and "$ref" in option and not (set(option) & ENFORCED - {"$ref"}):
                if place in seen:
                    raise self.document.error(path, "oneOf leads back to itself and says nothing")
                seen.add(place)
                place, option = self.document.target(option["$ref"], place)  # the library looks into no reference
            made.append(self.schema(option, place, open_))
        return {"oneOf": made}

    # -- schemas of their own --

    def _plain(self, node: dict[str, Any], path: Path, open_: bool) -> Schema:
        """A schema without parts that others say."""
        error = self.document.error
        types = self._types(node, path)
        made: dict[str, Any] = {}
        if types is not None:
            made["type"] = types[0] if len(types) == 1 else types
        for key in ("enum", "const"):
            if key in node:
                made[key] = scalars.values(key, node[key], lambda message: error(path, message))
        known = TYPES if types is None else types
        if "object" in known and (_OBJECT & node.keys() or "unevaluatedProperties" in node):
            made |= objects.limits(self, node, path, open_)
        if "array" in known:
            made |= self._items(node, path)
        if "string" in known:
            made |= scalars.string(node, lambda message: error(path, message))
        if "number" in known or "integer" in known:
            made |= scalars.numbers(node, types or (), lambda message: error(path, message))
            self._steps |= {made["multipleOf"]} if "multipleOf" in made else set()
        return made

    def _types(self, node: dict[str, Any], path: Path) -> list[str] | None:
        """The types that are meant: those of `type`, or the one whose keywords there are; None for any."""
        value = node.get("type")
        if value is None and "type" not in node:
            if "enum" in node or "const" in node:
                return None
            for only, keys in (("object", _OBJECT), ("array", _ARRAY)):
                if keys & node.keys():
                    return [only]
            return None
        given = value if isinstance(value, list) else [value]
        for kind in given:
            if kind not in TYPES:
                raise self.document.error(path, f"type is {checks.shown(kind)}; it must be one of {', '.join(TYPES)}")
        if not given:
            raise self.document.error(path, "type is an empty list: nothing is of no type")
        if "number" in given and "integer" in given:
            given = [kind for kind in given if kind != "integer"]
        return list(dict.fromkeys(given))

    def _items(self, node: dict[str, Any], path: Path) -> dict[str, Any]:
        items, prefix, rest = node.get("items"), node.get("prefixItems"), node.get("additionalItems")
        if isinstance(items, list):  # before 2020-12
            prefix, items, where, behind = items, rest, "items", "additionalItems"
        else:
            where, behind = "prefixItems", "items"
        made: dict[str, Any] = {}
        if prefix is not None:
            if not isinstance(prefix, list):
                raise self.document.error(path, f"{where} is {checks.shown(prefix)}; it must be a list of schemas")
            made["prefixItems"] = [self.schema(x, (*path, where, str(i)), False) for i, x in enumerate(prefix)]
        if items is not None:
            made["items"] = self.schema(items, (*path, behind), False)
        for key in ("minItems", "maxItems"):
            if key in node:
                made[key] = self.count(node[key], key, path, MOST_ITEMS)
        return made

    def count(self, value: Any, key: str, path: Path, most: int) -> int:
        """A keyword's whole number."""
        try:
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            number = checks.whole(key, value, 0)
        except GGUFError as error:
            raise self.document.error(path, str(error)) from None
        if number > most:
            raise self.document.error(path, f"{key} is {checks.shown(number)}; at most {most:,} can be counted")
        return number


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
