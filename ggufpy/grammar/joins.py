"""How many patterns of a schema one string must fit at once: the library's work doubles with each of them.

In: a schema as `schema.py` rewrites it. Out: a number that is exact, or too high where alternatives are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Node = dict[str, Any]

MOST_JOINED = 8  # twelve can take half a second and 90 MB, fourteen seven seconds and 600 MB
_STEPS = 200_000
# Keywords that say something of a string, or lead to one.
_SAYS = frozenset({"pattern", "properties", "patternProperties", "additionalProperties", "items", "prefixItems"})


def too_many_patterns(schema: Node) -> bool:
    """Whether more than MOST_JOINED patterns meet in one string, or so much is joined that this is not looked for."""
    defs: Node = schema.get("$defs", {})
    todo: list[tuple[Any, ...]] = [({key: value for key, value in schema.items() if key != "$defs"},)]
    seen: set[frozenset[int]] = set()
    left = _STEPS
    while todo:
        parts, choices = _flat(todo.pop(), defs)
        if not parts and len(choices) == 1:
            todo += [(choice,) for choice in choices[0]]
            left -= len(choices[0])
            continue
        if choices:
            parts = _all(parts, choices, defs)
        key = frozenset(map(id, parts))
        left -= 1 + len(parts)
        if key in seen:
            continue
        seen.add(key)
        if sum("pattern" in part for part in parts) > MOST_JOINED:
            return True
        for group in _within(parts):
            todo.append(group)
            left -= len(group)
            if left < 0:
                return True
    return left < 0


def _flat(nodes: Iterable[Any], defs: Node) -> tuple[list[Node], list[list[Any]]]:
    """What must hold at once of these schemas, without references and allOf; and the alternatives beside it."""
    parts: dict[int, Node] = {}
    choices: list[list[Any]] = []
    todo = [*nodes]
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        if "$ref" in node:
            todo.append(defs[node["$ref"].removeprefix("#/$defs/")])
        todo += node.get("allOf", ())
        choices += [node[key] for key in ("anyOf", "oneOf") if key in node]
        if _SAYS & node.keys():
            parts[id(node)] = node
    return [*parts.values()], choices


def _all(parts: list[Node], choices: list[list[Any]], defs: Node) -> list[Node]:
    """These parts with every alternative, as if all held at once."""
    found = {id(part): part for part in parts}
    seen: set[int] = set()
    todo = [choice for each in choices for choice in each]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        more, others = _flat((node,), defs)
        found |= {id(part): part for part in more}
        todo += [choice for each in others for choice in each]
    return [*found.values()]


def _within(parts: list[Node]) -> Iterator[tuple[Any, ...]]:
    """The schemas that meet in each property and item of what all of `parts` describe."""
    for name in dict.fromkeys(name for part in parts for name in part.get("properties", ())):
        yield tuple(part.get("properties", {}).get(name, part.get("additionalProperties")) for part in parts)
    yield tuple(
        value for part in parts
        for value in (*part.get("patternProperties", {}).values(), part.get("additionalProperties"))
    )  # fmt: skip
    for i in range(1 + max((len(part.get("prefixItems", ())) for part in parts), default=0)):
        lists = [(part.get("prefixItems", []), part.get("items")) for part in parts]
        yield tuple(prefix[i] if i < len(prefix) else rest for prefix, rest in lists)
