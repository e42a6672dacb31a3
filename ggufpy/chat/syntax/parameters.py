"""What a tool's schema says of a parameter, for syntaxes that write values without their types."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

_DEEPEST = 8
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = frozenset("\\'\"abfnrtvxuUN01234567\n")  # what Python has behind a backslash
_KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}

JSON_TYPES = frozenset([*_KINDS, "number"])


def types_of(schema: Any, name: str) -> frozenset[str]:
    """The JSON types that a parameter may have; none where the schema does not say."""
    root = schema if isinstance(schema, Mapping) else {}
    properties = root.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    if found is None and isinstance(root.get("additionalProperties"), Mapping):
        found = root["additionalProperties"]
    return _types(found, root, 0)


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return frozenset()
    if isinstance(schema.get("$ref"), str):
        return _types(_referred(schema["$ref"], root), root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset([kind])
    if isinstance(kind, (list, tuple)):
        return frozenset(one for one in kind if isinstance(one, str))
    if "const" in schema:
        return frozenset([_type(schema["const"])])
    if isinstance(schema.get("enum"), (list, tuple)):
        return frozenset(_type(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), (list, tuple)):
            found = [_types(one, root, depth + 1) for one in schema[key]]
            return frozenset().union(*found) if all(found) else frozenset()
    for one in schema.get("allOf") or ():
        if found_types := _types(one, root, depth + 1):
            return found_types
    return frozenset()


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    node: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _type(value: Any) -> str:
    if isinstance(value, float):
        return "number"
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, kind in _KINDS.items() if isinstance(value, kind)), "string")


def is_text(types: frozenset[str]) -> bool:
    """Whether a value of these types is a string whatever it looks like."""
    return types == {"string"}


def json_of(text: str, types: frozenset[str]) -> str:
    """The JSON of a value written without quotes: as JSON or a literal of Python where it is one that the types
    allow, else as a string."""
    found, value = _literal(text.strip())
    if not found or (isinstance(value, str) and "string" in types) or not _allowed(value, types):
        return json.dumps(text, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _allowed(value: Any, types: frozenset[str]) -> bool:
    kind = _type(value)
    return not types or "string" not in types or kind in types or (kind == "integer" and "number" in types)


def _literal(text: str) -> tuple[bool, Any]:
    """A value from JSON, else from Python. Both refuse what is too deep."""
    for read in (json.loads, _python):
        try:
            value = read(text)
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        return True, value
    return False, None


def _python(text: str) -> Any:
    """A literal of Python's. A backslash before a letter that it escapes nothing with is one, without a warning."""
    return ast.literal_eval(_ESCAPE.sub(_known, text))


def _known(escape: re.Match[str]) -> str:
    return escape[0] if escape[1] in _ESCAPED else "\\" + escape[0]


def from_python(text: str) -> str:
    """The JSON of a literal as Python or JSON writes it; the text as a string where it is none."""
    found, value = _literal(text.strip())
    return json.dumps(value if found else text, ensure_ascii=False)
