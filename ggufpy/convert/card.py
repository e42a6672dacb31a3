"""What a model's card says of it: the YAML at the head of README.md, and the name's own parts.

A card is for people, so nothing in it stops a conversion: what is not as expected is left out, and said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError

CARD_MAX = 1 << 20  # bytes of a head that is looked at
DEPTH_MAX = 64  # of values within values
_SIZE = re.compile(r"((?:\d+x)?\d+(?:[._]\d+)?[KMBT]|A\d+(?:\.\d+)?[MB]|small|mini|medium|large|x?xl)", re.IGNORECASE)
_VERSION = re.compile(r"(?:v|iter)?\d+(?:\.\d+)*", re.IGNORECASE)
_TUNED = re.compile(r"(?:chat|instruct|vision|it|base)", re.IGNORECASE)
_HUB = re.compile(r"https?://huggingface\.co/(?:datasets/)?([^/\s]+/[^/\s]+)/?")
# What GGUF can say of a model or of data that another was made of (ggml's docs/gguf.md).
SOURCE_KEYS = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")


def read_card(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The head of README.md as a mapping, and lines for the user; an empty one where there is none."""
    path = folder / "README.md"
    if not path.is_file():
        return {}, []
    try:
        with open(path, "rb") as file:
            text = file.read(CARD_MAX).decode("utf-8-sig", "replace")
            whole = not file.read(1)
    except OSError as e:
        return {}, [f"README.md cannot be read and was left out: {e.strerror or e}"]
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}, []
    end = next((i for i, line in enumerate(lines) if i and line.strip() == "---"), None)
    if end is None:
        return {}, [] if whole else [f"the head of README.md has more than {CARD_MAX:,} bytes and was left out"]
    return _loaded("\n".join(lines[1:end]).replace("\t", "  "))


def _loaded(text: str) -> tuple[dict[str, Any], list[str]]:
    """Every scalar as the text that it is: "no" is Norwegian, 1.0 a version."""
    import yaml

    loader = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader
    try:
        _check(yaml.parse(text, Loader=loader))
        value = yaml.load(text, Loader=loader)
        json.dumps(value, ensure_ascii=False).encode()  # an escape may stand for half a character
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return {}, ["the head of README.md is not plain YAML (damaged, or with aliases) and was left out"]
    return (value, []) if isinstance(value, dict) else ({}, ["the head of README.md says nothing and was left out"])


def _check(events: Iterable[Any]) -> None:
    """GGUFError for what no card has: aliases, by which a few lines stand for more than any memory, and values so deep
    that they would take all of a stack."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX or isinstance(event, yaml.AliasEvent):
            raise GGUFError("the head of README.md is nested too deep, or has aliases")


@dataclass(frozen=True)
class Parts:
    """The parts of a name such as "owner/Qwen3-0.6B-Instruct-v2": each as text, or None."""

    name: str
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size: str | None = None


def parts_of(name: str) -> Parts:
    """A model's name taken apart at its hyphens; what is no such name is a name alone.

    Up to the first size, version or word for tuning it is the base name; later words are the fine-tune.
    """
    owner, _, rest = name.rpartition("/")
    if " " in name or not rest or owner.startswith("."):
        return Parts(name)
    base: list[str] = []
    kinds: dict[str, list[str]] = {"size": [], "version": [], "finetune": []}
    for i, word in enumerate(word for word in rest.split("-") if word):
        kind = _kind(word) if i else ""
        if kind:
            kinds[kind].append(word.replace("_", ".").upper() if kind == "size" and word[0].isdigit() else word)
        elif any(kinds.values()):
            kinds["finetune"].append(word)
        else:
            base.append(word)
    said = {kind: "-".join(words) or None for kind, words in kinds.items()}
    basename = "-".join(base) if any(said.values()) else None
    return Parts(rest, owner or None, basename, said["finetune"], said["version"], said["size"])


def _kind(word: str) -> str:
    if _SIZE.fullmatch(word):
        return "size"
    if _VERSION.fullmatch(word):
        return "version"
    return "finetune" if _TUNED.fullmatch(word) else ""


def title(name: str) -> str:
    """Words for people: "smollm2-135M-instruct" is "Smollm2 135M Instruct"."""
    words = name.strip().replace("-", " ").split()
    return " ".join(
        w.title() if w.islower() and not re.match(r"(?:v\d+(?:\.\d+)*|\d.*)$", w) else w for w in words
    )


def sources(value: Any) -> list[dict[str, str]]:
    """base_model or datasets of a card as entries of SOURCE_KEYS."""
    made = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, Mapping):
            made.append({key: one[key] for key in SOURCE_KEYS if isinstance(one.get(key), str)})
        elif isinstance(one, str) and one.strip():
            made.append(_source(one.strip()))
    return [entry for entry in made if entry]


def _source(name: str) -> dict[str, str]:
    match = _HUB.fullmatch(name)
    if name.startswith(("http://", "https://", "ssh://")) and match is None:
        return {"repo_url": name}
    parts = parts_of(match[1] if match else name)
    entry = {"name": title(parts.name)}
    if parts.version:
        entry["version"] = parts.version
    if parts.organization:
        entry["organization"] = title(parts.organization)
        entry["repo_url"] = name if match else f"https://huggingface.co/{parts.organization}/{parts.name}"
    return entry
