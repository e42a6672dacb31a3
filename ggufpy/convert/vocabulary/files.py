"""The files of a checkpoint that say how text becomes tokens, read and checked.

In: a folder. Out: `Sources`, whose parts are plain JSON values that nothing is known of but that they are objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufpy.convert.reading import checked_object, parsed, read_object, read_text
from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

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
    """Reads the JSON files of `folder`. Raises GGUFError for one that cannot be read, or is no JSON object."""
    if not folder.is_dir():
        raise GGUFError(f"{folder} is no folder; give the folder of a checkpoint")
    text = read_text(folder / "tokenizer.json")
    return Sources(
        folder=folder,
        text=text,
        description=None if text is None else checked_object(parsed(text, "tokenizer.json"), "tokenizer.json"),
        settings=read_optional(folder / "tokenizer_config.json"),
        special_map=read_optional(folder / "special_tokens_map.json"),
        added=read_optional(folder / "added_tokens.json"),
        generation=read_optional(folder / "generation_config.json"),
        config=config,
    )


def read_optional(path: Path) -> dict[str, Any]:
    """The object of a file of JSON; an empty one if there is no file."""
    return read_object(path) if path.is_file() else {}


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
