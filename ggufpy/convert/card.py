"""What a model's card says of it: the YAML at the head of README.md, and the name's own parts.

A card is for people, so nothing in it stops a conversion: what is not as expected is left out, and said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

CARD_MAX = 1 << 20  # bytes of a head that is looked at
DEPTH_MAX = 64  # of values within values
_NULL = "tag:yaml.org,2002:null"
_SIZE = re.compile(r"(?:(?:A|\d+x)?\d+(?:[._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl)", re.IGNORECASE)
_COUNT = re.compile(r"\d+(?:\.\d+)?[KMBT]")
_VERSION = re.compile(r"(?:v|iter)?\d+(?:\.\d+)*", re.IGNORECASE)
_TYPE = re.compile(r"i?q\d(?:_\w)*|b?fp?(?:16|32)", re.IGNORECASE)
_TUNED = re.compile(r"(?:chat|instruct|vision|lora)", re.IGNORECASE)
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
    return card_in(text, whole)


def card_in(text: str, whole: bool = True) -> tuple[dict[str, Any], list[str]]:
    """The same of the text of a README.md, or of CARD_MAX bytes at its start where that is not the `whole` of it."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}, []
    end = next((i for i, line in enumerate(lines) if i and line.strip() == "---"), None)
    if end is None:
        return {}, [] if whole else [f"the head of README.md has more than {CARD_MAX:,} bytes and was left out"]
    return _loaded("\n".join(lines[1:end]).replace("\t", "  "))


def _loaded(text: str) -> tuple[dict[str, Any], list[str]]:
    """Every scalar as the text that it is, "no" is Norwegian and 1.0 a version, but for null, which is None."""
    import yaml

    loader = _loader()
    try:
        _check(yaml.parse(text, Loader=loader))
        value = yaml.load(text, Loader=loader)
        json.dumps(value, ensure_ascii=False).encode()  # an escape may stand for half a character
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return {}, ["the head of README.md is not plain YAML (damaged, or with aliases) and was left out"]
    return (value, []) if isinstance(value, dict) else ({}, ["the head of README.md says nothing and was left out"])


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader):  # type: ignore[misc]
        """Of all that YAML's scalars can be, text and null."""

    Loader.add_implicit_resolver(_NULL, re.compile(r"(?:~|null|Null|NULL)?\Z"), ["~", "n", "N", ""])
    Loader.add_constructor(_NULL, lambda loader, node: None)
    return Loader


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


def parts_of(name: str, weights: int = 0) -> Parts:
    """A model's name taken apart at its hyphens; what is no such name is a name alone.

    The base name goes up to the first size or word for tuning, with versions in it but for one at the end of all; later
    words are the fine-tune. A size that is far from how many `weights` there are is rather that of a context. As
    llama.cpp has it (gguf-py/gguf/metadata.py).
    """
    owner, slash, rest = name.partition("/")
    if not slash:
        owner, rest = "", name
    if " " in name or not rest:
        return Parts(name)
    marked = [_marked(word, i == 0, weights) for i, word in enumerate(word for word in rest.split("-") if word)]
    if any(kind == "size" and not word.isalpha() for kind, word in marked):
        marked = [("" if kind == "size" and word.isalpha() else kind, word) for kind, word in marked]
    count = 0
    while count < len(marked) and _is_base(*marked[count]):
        count += 1
    if count == len(marked):
        while count and marked[count - 1][0] == "version":
            count -= 1
    base, tail = marked[:count], marked[count:]
    size = "-".join(dict.fromkeys(word for kind, word in tail if kind == "size"))
    tuned = "-".join(word for kind, word in tail if kind in ("", "finetune"))
    version = "-".join(word for kind, word in tail if kind == "version")
    basename = "-".join(word for _, word in base) if size or tuned or version else ""
    owner = "" if owner.startswith(".") else owner
    return Parts(rest, owner or None, basename or None, tuned or None, version or None, size or None)


def _is_base(kind: str, word: str) -> bool:
    return kind == "version" or (not kind and word[0].isalpha())


def _marked(word: str, first: bool, weights: int) -> tuple[str, str]:
    """What kind of word it is, "" for none of those known, and the word as it is written."""
    if _VERSION.fullmatch(word):
        return "version", word
    if _TYPE.fullmatch(word):
        return "type", word
    if not first and _SIZE.fullmatch(word):
        return _sized(word.replace("_", "."), weights)
    return "finetune" if not first and _TUNED.fullmatch(word) else "", word


def _sized(word: str, weights: int) -> tuple[str, str]:
    if word[-1].isdecimal():
        word = f"{word[:-2]}.{word[-1]}{word[-2]}"  # BLOOM's 7b1
    if word[-2].isdecimal():
        word = word[:-1] + word[-1].upper()
    if weights and _COUNT.fullmatch(word):
        said = float(word[:-1]) * 1000.0 ** (" KMBT".index(word[-1]))
        if abs(said - weights) > 7 * weights // 8:
            return "finetune", word[:-1] + word[-1].lower()
    return "size", word


def title(name: str) -> str:
    """Words for people: "smollm2-135M-instruct" is "Smollm2 135M Instruct"."""
    words = name.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not re.match(r"(?:v\d+(?:\.\d+)*|\d.*)$", w) else w for w in words)


def sources(value: Any) -> list[dict[str, str]]:
    """base_model or datasets of a card as entries of SOURCE_KEYS."""
    made = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, Mapping):
            made.append({key: one[key] for key in SOURCE_KEYS if isinstance(one.get(key), str)})
        elif isinstance(one, str) and one.strip():
            made.append(_source(one.strip()))
    return [entry for entry in made if entry]


def hub_name(url: str) -> str | None:
    """ "owner/name" of an address on the Hub."""
    match = _HUB.fullmatch(url)
    return match[1] if match else None


def _source(name: str) -> dict[str, str]:
    hub = hub_name(name)
    if name.startswith(("http://", "https://", "ssh://")) and hub is None:
        return {"repo_url": name}
    parts = parts_of(hub or name)
    entry = {"name": title(parts.name)}
    if parts.version:
        entry["version"] = parts.version
    if parts.organization:
        entry["organization"] = title(parts.organization)
        entry["repo_url"] = name if hub else f"https://huggingface.co/{parts.organization}/{parts.name}"
    return entry
