"""Keywords of objects: which properties there may be, which there must be, and how many.

An object that names properties is closed unless the schema says otherwise; where several schemas are joined, the whole
is, over the names of all of them.
"""

from __future__ import annotations

from typing import Any, Protocol

from ggufpy.grammar.document import Document, Schema
from ggufpy.grammar.patterns import none_of
from ggufpy.support import checks

Path = tuple[str, ...]

MOST_PROPERTIES = 10_000
MOST_EXCLUDED = 4_000  # characters of names that additional properties must not have


class Rewriter(Protocol):
    """What rewrites the schemas within (`schema.py`)."""

    document: Document

    def schema(self, node: Any, path: Path, open_: bool) -> Schema: ...
    def count(self, value: Any, key: str, path: Path, most: int) -> int: ...


def limits(rewriter: Rewriter, node: dict[str, Any], path: Path, open_: bool) -> dict[str, Any]:
    """The object keywords of one schema as the library holds to them."""
    error = rewriter.document.error
    properties = _properties(rewriter.document, node, path)
    required = _required(rewriter.document, node, path)
    made: dict[str, Any] = {
        "properties": {
            key: rewriter.schema(value, (*path, "properties", key), False) for key, value in properties.items()
        }
    }
    rest = node.get("additionalProperties")
    if rest is None and node.get("unevaluatedProperties") is False:
        rest = False
    if rest is None and (properties or required) and not open_:
        made["properties"] |= {name: True for name in required if name not in properties}
        made["additionalProperties"] = False
    elif rest is not None and not isinstance(rest, bool | dict):
        raise error(path, f"additionalProperties is {checks.shown(rest)}; it must be a schema, true or false")
    elif rest is not None:
        within = rewriter.schema(rest, (*path, "additionalProperties"), False)
        if within is not False and not open_ and sum(map(len, (*properties, *required))) > MOST_EXCLUDED:
            raise error(path, f"additionalProperties cannot be enforced beside names of {MOST_EXCLUDED:,} characters")
        made |= _others(made["properties"], within, [name for name in required if name not in properties], open_)
    if required:
        made["required"] = required
    made |= _counts(rewriter, node, path, made)
    return {key: value for key, value in made.items() if key != "properties" or value}


def _others(named: dict[str, Any], within: Schema, required: list[str], open_: bool) -> dict[str, Any]:
    """Properties beside those that are named.

    The library takes an escaped name ("\\u0061") for another one than the same name in plain letters, but not where
    names are a regular expression: so others are those that are none of the names.
    """
    if within is False:
        return {"additionalProperties": False}
    properties = named | dict.fromkeys(required, within)
    if not properties or open_:  # what is joined must stay as it is for the library to join it
        return {"properties": properties, "additionalProperties": within}
    return {
        "properties": properties,
        "patternProperties": {f"^{none_of(list(properties))}$": within},
        "additionalProperties": False,
    }


def _properties(document: Document, node: dict[str, Any], path: Path) -> dict[str, Any]:
    value = node.get("properties", {})
    if not isinstance(value, dict):
        raise document.error(path, f"properties is {checks.shown(value)}; it must be an object of schemas")
    return value


def _required(document: Document, node: dict[str, Any], path: Path) -> list[str]:
    value = node.get("required", [])
    if isinstance(value, bool):
        raise document.error(path, "required is a bool, as in draft 3; list the names in the object's required")
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise document.error(path, f"required is {checks.shown(value)}; it must be a list of names")
    return list(dict.fromkeys(value))


def _counts(rewriter: Rewriter, node: dict[str, Any], path: Path, made: dict[str, Any]) -> dict[str, Any]:
    """`minProperties` and `maxProperties`, where they can be held to or follow from the rest."""
    counts: dict[str, Any] = {}
    required = len(made.get("required", ()))
    if "minProperties" in node:
        least = rewriter.count(node["minProperties"], "minProperties", path, MOST_PROPERTIES)
        if least > 1 and least > required:  # the same name may come twice, and counts once
            raise rewriter.document.error(path, "minProperties cannot be enforced; name them in required")
        if least > required:
            counts["minProperties"] = least
    if "maxProperties" in node:
        most = rewriter.count(node["maxProperties"], "maxProperties", path, MOST_PROPERTIES)
        closed = made.get("additionalProperties") is False and "patternProperties" not in made
        if not closed or most < len(made["properties"]):
            counts["maxProperties"] = most
    return counts


def names(document: Document, node: Any, path: Path) -> list[str] | None:
    """All names that a schema and those it is joined with give; None where others are allowed by name."""
    found: dict[str, None] = {}
    todo: list[tuple[Path, Any]] = [(path, node)]
    seen: set[Path] = set()
    while todo:
        path, node = todo.pop()
        if not isinstance(node, dict) or path in seen:
            continue
        seen.add(path)
        if node.get("additionalProperties") not in (None, False):
            return None
        found |= dict.fromkeys(_properties(document, node, path))
        found |= dict.fromkeys(_required(document, node, path))
        if "$ref" in node:
            todo.append(document.target(node["$ref"], path))
        for key in ("oneOf", "anyOf", "allOf"):
            parts = node.get(key, [])
            if isinstance(parts, list):
                todo += [((*path, key, str(i)), part) for i, part in reversed([*enumerate(parts)])]
    return list(found)


def productive(schema: dict[str, Any]) -> bool:
    """Whether a rewritten schema has an end: one that must hold itself for ever has none."""
    defs: dict[str, Any] = schema.get("$defs", {})
    ended: set[str] = set()
    while True:
        more = {name for name, node in defs.items() if name not in ended and _ends(node, ended)}
        if not more:
            return _ends({key: value for key, value in schema.items() if key != "$defs"}, ended)
        ended |= more


def _ends(node: Any, ended: set[str]) -> bool:
    """Whether something finite fits, if all references but those to `ended` lead nowhere."""
    if not isinstance(node, dict):
        return True
    if "$ref" in node and node["$ref"].removeprefix("#/$defs/") not in ended:
        return False
    if not all(_ends(part, ended) for part in node.get("allOf", ())):
        return False
    for key in ("anyOf", "oneOf"):
        if key in node and not any(_ends(part, ended) for part in node[key]):
            return False
    kind = node.get("type")
    if kind not in ("object", "array"):
        return True
    properties = node.get("properties", {})
    if kind == "object":
        return all(_ends(properties.get(name, True), ended) for name in node.get("required", ()))
    least, prefix = node.get("minItems", 0), node.get("prefixItems", [])
    needed = prefix[:least] + ([node.get("items", True)] if least > len(prefix) else [])
    return all(_ends(item, ended) for item in needed)
