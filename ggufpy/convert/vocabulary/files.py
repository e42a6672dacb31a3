"""The files of a checkpoint that say how text becomes tokens, read and checked.

In: a folder. Out: `Sources`, whose parts are plain JSON values that nothing is known of but that they are objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError

LIMIT = 100_000_000  # bytes of any of these files
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True)
class Sources:
    """What a folder has: `text` and `description` are tokenizer.json as it stands and parsed (None: there is none);
    `settings` is tokenizer_config.json; the others are empty where the file is missing."""

    folder: Path
    text: str | None
    description: dict[str, Any] | None
    settings: dict[str, Any]
    special_map: dict[str, Any]
    added: dict[str, Any]
    generation: dict[str, Any]
    config: Mapping[str, Any]


def read_sources(folder: Path, config: Mapping[str, Any]) -> Sources:
    """Reads the JSON files of `folder`. Raises GGUFError for one that is too large, or is no JSON object."""
    if not folder.is_dir():
        raise GGUFError(f"{folder} is no folder; give the folder of a checkpoint")
    text = read_text(folder / "tokenizer.json")
    return Sources(
        folder=folder,
        text=text,
        description=None if text is None else parsed(text, "tokenizer.json"),
        settings=read_json(folder / "tokenizer_config.json") or {},
        special_map=read_json(folder / "special_tokens_map.json") or {},
        added=read_json(folder / "added_tokens.json") or {},
        generation=read_json(folder / "generation_config.json") or {},
        config=config,
    )


def read_bytes(path: Path) -> bytes | None:
    """A file, or None if there is none. Raises GGUFError if it is larger than LIMIT, or cannot be read."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise GGUFError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > LIMIT:
        raise GGUFError(f"{path.name} is larger than {LIMIT:,} bytes, the most that a tokenizer's file may have")
    return data


def read_text(path: Path) -> str | None:
    """As `read_bytes`, as text. Raises GGUFError if it is not UTF-8."""
    data = read_bytes(path)
    try:
        return None if data is None else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GGUFError(f"{path.name} is not UTF-8 text (byte {error.start}); download it again") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """As `read_text`, parsed. Raises GGUFError if it is no JSON object."""
    text = read_text(path)
    return None if text is None else parsed(text, path.name)


def parsed(text: str, name: str) -> dict[str, Any]:
    """The JSON object `text`; `name` is what errors call it."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise GGUFError(f"{name} is nested too deep; it is no file of a tokenizer") from error
    except ValueError as error:
        raise GGUFError(f"{name} is not valid JSON ({str(error)[:120]}); download it again") from error
    if not isinstance(value, dict):
        raise GGUFError(f"{name} holds a {type(value).__name__}, and must hold a JSON object")
    return value


def part(source: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    """The object under `key`, empty if there is none (or null). Raises GGUFError for anything else."""
    value = source.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GGUFError(f"{name}: {key!r} is a {type(value).__name__}, and must be an object")
    return value


def steps(node: object, key: str) -> list[dict[str, Any]]:
    """A normaliser, pre-tokenizer, decoder or processor of tokenizer.json as the list of its steps.

    `key` is where a sequence has its members ("normalizers", "pretokenizers", "processors", "decoders"). What is not
    of that form is left out: the library has the last word on it.
    """
    listed: list[dict[str, Any]] = []
    waiting: list[object] = [node]  # the next one last
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict):
            continue
        members = item.get(key)
        if item.get("type") == "Sequence" and isinstance(members, list):
            waiting += reversed(members)
        else:
            listed.append(item)
    return listed
