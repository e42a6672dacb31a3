"""Which part of a schema the library cannot hold to: it says what, not where.

In: a document that it refused. Out: an error that names the smallest part that it refuses alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.grammar import library
from ggufpy.grammar.document import Document
from ggufpy.grammar.schema import enforced

Path = tuple[str, ...]

_SECONDS = 1.0  # after which the place that is found by then has to do
_PLAIN = (  # what the library says, and what it comes to
    ("oneOf constraints", "oneOf cannot be enforced: its cases may hold at once; write anyOf, or give each case a "
     "required property with a const of its own"),
    ("circular references", "$ref cannot be enforced where it leads back to itself beside other keywords"),
    ("min/maxProperties", "maxProperties and minProperties cannot be enforced beside optional properties; name the "
     "properties in required, or leave the count out"),
    ("Unsatisfiable schema: ", "nothing fits it: "),
    ("stack level", "allOf and $ref are joined too deeply to be enforced"),
    ("fuel", "its numbers or patterns are too complex to be enforced"),
    ("Unable to determine if regex is empty", "its patterns together are too complex to be enforced"),
    ("too large", "it is too large to be enforced"),
)  # fmt: skip


def explain(document: Document, message: str) -> GGUFError:
    """The error for a document of which the library says `message`."""
    path: Path = ()
    node: Any = document.root
    until = time.monotonic() + _SECONDS
    while (found := _first_fault(document, path, node, until)) is not None:
        path, node, message = found
    plain = next((meant for said, meant in _PLAIN if said in message), None)
    if plain is not None and plain.endswith(": "):
        plain += message.split("Unsatisfiable schema: ")[-1]
    return document.error(path, plain or f"it cannot be enforced: {message}")


def _first_fault(document: Document, path: Path, node: Any, until: float) -> tuple[Path, Any, str] | None:
    """The first part of a schema that is refused alone, with what is said of it."""
    for place, part in _parts(document, path, node):
        if time.monotonic() > until:
            return None
        if message := library.fault(library.json_grammar(json.dumps(enforced(document, place, part)))):
            return place, part, message
    return None


def _parts(document: Document, path: Path, node: Any) -> Iterator[tuple[Path, Any]]:
    """The schemas that a schema is made of; a reference leads to its own place."""
    if not isinstance(node, dict):
        return
    for name, part in node.get("properties", {}).items():
        yield (*path, "properties", name), part
    for key in ("allOf", "anyOf", "oneOf", "prefixItems", "items"):
        if isinstance(parts := node.get(key), list):
            yield from (((*path, key, str(i)), part) for i, part in enumerate(parts))
    for key in ("items", "additionalProperties", "additionalItems"):
        if isinstance(node.get(key), dict):
            yield (*path, key), node[key]
    if "$ref" in node:
        place, part = document.target(node["$ref"], path)
        if path[: len(place)] != place:  # not within what it refers to
            yield place, part
