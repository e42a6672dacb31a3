"""The model card of an exported folder: README.md, whose head says what a GGUF file's `general.*` says.

In: metadata, which anybody may have written. Out: a text that `card.py` reads to the same keys. What is written is read
again before it goes out, and keys that do not come back as they are are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from ggufpy.convert.card import CARD_MAX, SOURCE_KEYS, card_in, hub_name, sources
from ggufpy.convert.general import GUESSED, SAMPLING, SOURCES, SOURCES_MAX, TEXTS, of_card
from ggufpy.format import Metadata
from ggufpy.format.values import Typed, shown

HEAD_MAX = CARD_MAX - 128  # bytes, with room for the lines around them and what is null
NAME_MAX = 200  # characters of a name in the text for people
NAMED_MAX = 8  # keys in a line for the user
# What a model is for, as the Hub files it (https://huggingface.co/docs/hub/models-tasks): the last of a file's tags.
TASKS = frozenset((
    "any-to-any", "audio-text-to-text", "automatic-speech-recognition", "feature-extraction", "fill-mask",
    "image-text-to-text", "image-to-text", "question-answering", "sentence-similarity", "summarization",
    "table-question-answering", "text-classification", "text-generation", "text-ranking", "text-to-audio",
    "text-to-speech", "text2text-generation", "token-classification", "translation", "video-text-to-text",
    "visual-document-retrieval", "visual-question-answering", "zero-shot-classification",
))  # fmt: skip
# What describes the file, not the model, or is said elsewhere in a folder.
_ELSEWHERE = re.compile(
    r"general\.(?:architecture|alignment|file_type|quantization_version|tensor_extra\..*|sampling\."
    rf"(?:{'|'.join(key for key, _, _ in SAMPLING)}))",
    re.DOTALL,
)
_MARKUP = re.compile(r"([\\`*_{}\[\]<>&#|~!$])")
_WIDTH = 1 << 30  # characters of a line: none is broken


def card_of(values: Metadata) -> tuple[str, list[str]]:
    """The text of README.md, "" where there is nothing to say, and lines for the user."""
    fields: dict[str, Any] = {}
    room = HEAD_MAX
    for name, value in _fields(values).items():
        size = len(_dumped({name: value})) if _characters(value) <= room else room + 1
        if size <= room:
            fields[name] = value
            room -= size
    text = _text_of(values, fields) if fields else ""
    card, notes = card_in(text)
    return text, [*notes, *_lost(values, of_card(card)[0])]


def _text_of(values: Metadata, fields: Mapping[str, Any]) -> str:
    silent = dict.fromkeys(name for name in GUESSED if name not in fields)  # null: nothing is to be guessed
    head = _dumped({**fields, **silent}).decode()
    return f"---\n{head}---\n\n{_line(_text(values, 'general.name') or '')}\n"


def _line(name: str) -> str:
    """The text for people, whatever the name: printable, and none of it is markup."""
    words = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    words = words if len(words) <= NAME_MAX else words[: NAME_MAX - 1] + "…"
    said = _MARKUP.sub(r"\\\1", words)
    return f"Exported from a GGUF file by ggufpy{': ' + said if said else ''}"


def _fields(values: Metadata) -> dict[str, Any]:
    """What a card says, by the Hub's names where it has some, else by llama.cpp's."""
    fields: dict[str, Any] = {}
    for key, names in TEXTS:
        text = _text(values, f"general.{key}")
        if text and text.strip():
            fields["model_name" if key == "name" else names[0]] = text
    languages, tags = _words(values, "general.languages"), _words(values, "general.tags")
    if languages:
        fields["language"] = languages
    if tags and tags[-1] in TASKS:
        fields["pipeline_tag"] = tags.pop()
    if tags:
        fields["tags"] = tags
    for key, names in SOURCES:
        entries = _entries(values, f"general.{key}")
        if entries and all(isinstance(entry, str) for entry in entries):
            fields[names[0]] = entries
        elif entries:  # the Hub takes names alone where it knows the field
            fields[names[-1]] = entries
    return fields


def _text(values: Metadata, key: str) -> str | None:
    """A text that can be written; None for anything else."""
    text = values[key] if key in values and values.type(key) == "string" else None
    if not isinstance(text, str) or len(text) > HEAD_MAX:
        return None
    return text if _is_unicode(text) else None


def _words(values: Metadata, key: str) -> list[str]:
    if key not in values or values.type(key) != "array[string]" or values.count(key) > HEAD_MAX:
        return []
    words = values.strings(key)
    if int(words.lengths.sum()) > HEAD_MAX:
        return []
    texts = words.decode()
    return texts if all(map(_is_unicode, texts)) else []


def _is_unicode(text: str) -> bool:
    """Whether it has no bytes that are no UTF-8, which GGUF's reader keeps as halves of characters."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _entries(values: Metadata, key: str) -> list[str | dict[str, str]]:
    """Models or data that a model was made of: "owner/name" where that says all of one, else an object."""
    entries: list[str | dict[str, str]] = []
    for i in range(SOURCES_MAX):
        said = {what: _text(values, f"{key}.{i}.{what}") for what in SOURCE_KEYS}
        entry = {what: text for what, text in said.items() if text is not None}
        if not entry:
            break
        name = hub_name(entry.get("repo_url", ""))
        entries.append(name if name and sources(name) == [entry] else entry)
    return entries


def _characters(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return len(value) if isinstance(value, str) else sum(map(_characters, value))


def _dumped(fields: Mapping[str, Any]) -> bytes:
    import yaml

    text = yaml.dump(dict(fields), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=_WIDTH)
    return str(text).encode()


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
        """Text that is not all printable stands on one line, in quotes and with escapes: no line of it ends a head."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')

    Dumper.add_representer(str, text)
    return Dumper


def _lost(values: Metadata, back: Mapping[str, Typed]) -> list[str]:
    """A line that names the keys of `general.*` which do not come back of a folder as they are."""
    known = {**back, "general.type": Typed("string", "model")}
    keys = [key for key in values if key.startswith("general.") and not _ELSEWHERE.fullmatch(key)]
    lost = [key for key in keys if not _is_empty(values, key) and not _is(values, key, known.get(key))]
    if not lost:
        return []
    more = f" and {len(lost) - NAMED_MAX} more" if len(lost) > NAMED_MAX else ""
    names = ", ".join(map(shown, lost[:NAMED_MAX])) + more
    return [f"a model card cannot say {names}; what is to come back is for convert --metadata"]


def _is_empty(values: Metadata, key: str) -> bool:
    """Whether it says nothing: a text of white space, an array of nothing."""
    kind = values.type(key)
    if kind == "string":
        return not str(values[key]).strip()
    return kind.startswith("array[") and values.count(key) == 0


def _is(values: Metadata, key: str, wanted: Typed | None) -> bool:
    if wanted is None or values.type(key) != wanted.type:
        return False
    if isinstance(wanted.value, list) and values.count(key) != len(wanted.value):
        return False
    return bool(values[key] == wanted.value)
