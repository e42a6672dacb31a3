"""A JSON schema as a document: read from text, bounded in size and depth, with what its references point to.

In: a mapping, a bool or JSON text. Out: plain Python values, and the schema that a `$ref` names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ggufpy.errors import GGUFError
from ggufpy.support import checks

MOST_VALUES = 50_000
MOST_DEPTH = 100
MOST_CHARACTERS = 4_000_000

Schema = dict[str, Any] | bool
_DATA = frozenset({"enum", "const", "default", "examples", "example"})  # what stands there is no schema


class Document:
    """A whole schema; `root` is it, `anchors` are subschemas by `$anchor`. Raises GGUFError that begins with `name`."""

    def __init__(self, schema: Mapping[str, Any] | bool | str, name: str) -> None:
        self.name = name
        value = self._loaded(schema) if isinstance(schema, str) else schema
        self.root: Schema = self._plain(value)
        self._anchors: dict[str, tuple[str, ...]] = {}
        self._nested_ids: list[str] = []
        draft = str(self.root.get("$schema")) if isinstance(self.root, dict) else ""
        self._id = "id" if "draft-04" in draft else "$id"
        for path, node in self._objects(self.root):
            if isinstance(node.get("$anchor"), str):
                self._anchors[node["$anchor"]] = path
            if path and isinstance(node.get(self._id), str):
                self._nested_ids.append(".".join(path))

    def error(self, path: Sequence[str], message: str) -> GGUFError:
        """An error at a place of the document."""
        at = ".".join(path)
        return GGUFError(f"{self.name}: {at}: {message}" if at else f"{self.name}: {message}")

    def target(self, ref: Any, path: Sequence[str]) -> tuple[tuple[str, ...], Any]:
        """The place and schema that a `$ref` at `path` names. Raises GGUFError if there is none in this document."""
        if not isinstance(ref, str):
            raise self.error(path, f"$ref is {checks.shown(ref)}; it must be a text such as '#/$defs/name'")
        base = self.root.get(self._id) if isinstance(self.root, dict) else None
        local = ref.removeprefix(base.rstrip("#")) if isinstance(base, str) and base else ref
        if not local.startswith("#"):
            raise self.error(
                path, f"$ref {ref!r:.80} is not in this schema, and nothing is fetched; copy it into $defs"
            )
        if self._nested_ids:
            raise self.error(path, f"$ref cannot be followed where {self._nested_ids[0]} has an $id; remove that $id")
        pointer = unquote(local[1:])
        if not pointer.startswith("/") and pointer:
            if pointer not in self._anchors:
                raise self.error(path, f"$ref {ref!r:.80}: there is no $anchor {pointer!r:.60}")
            keys = self._anchors[pointer]
        else:
            keys = tuple(key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:])
        node: Any = self.root
        for key in keys:
            if isinstance(node, dict) and key in node:
                node = node[key]
            elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            else:
                raise self.error(path, f"$ref {ref!r:.80}: there is no {key!r:.60}")
        return keys, node

    def _loaded(self, text: str) -> Any:
        if len(text) > MOST_CHARACTERS:
            raise self.error((), f"the text has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
        try:
            return json.loads(text)
        except RecursionError as error:
            raise self.error((), f"it is more than {MOST_DEPTH} deep; use $defs") from error
        except ValueError as error:
            raise self.error((), f"this is not JSON: {error}; a schema looks like {{'type': 'object'}}") from error

    def _plain(self, schema: Any) -> Schema:
        """A copy of plain values, in the order that they have. Raises GGUFError for what JSON does not have."""
        if not isinstance(schema, Mapping | bool):
            raise self.error((), f"a schema is an object or true or false, not {checks.shown(schema)}")
        self._left = MOST_VALUES
        made = self._copy(schema, ())
        assert isinstance(made, dict | bool)
        return made

    def _copy(self, value: Any, path: tuple[str, ...]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self.error((), f"it has more than {MOST_VALUES:,} values")
        if len(path) > MOST_DEPTH:
            raise self.error(path[:4], f"it is more than {MOST_DEPTH} deep; use $defs")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise self.error(path, f"the name {checks.shown(key)} is not a text")
            return {key: self._copy(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._copy(item, (*path, str(i))) for i, item in enumerate(value)]
        if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and abs(value) < 1e308):
            return value
        raise self.error(path, f"{checks.shown(value)} is no value of JSON")

    def _objects(self, value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        todo: list[tuple[tuple[str, ...], Any]] = [(path, value)]
        while todo:
            path, value = todo.pop()
            if isinstance(value, dict):
                yield path, value
                todo += [((*path, key), item) for key, item in value.items() if key not in _DATA]
            elif isinstance(value, list):
                todo += [((*path, str(i)), item) for i, item in enumerate(value)]
