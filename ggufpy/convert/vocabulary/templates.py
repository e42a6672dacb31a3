"""Chat templates of a folder: chat_template.jinja, chat_template.json, or those in tokenizer_config.json.

In: the folder's files. Out: keys of GGUF: `tokenizer.chat_template`, and `tokenizer.chat_template.<name>` for further
ones. A file of its own comes before what tokenizer_config.json has, as in transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufpy.convert.reading import read_text
from ggufpy.convert.vocabulary.files import Sources, read_optional
from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

KEY = "tokenizer.chat_template"
NAMES = "tokenizer.chat_templates"
_LIMIT = 1 << 20  # characters of a template
_MOST = 64  # templates
_ODD = re.compile(r"[^A-Za-z0-9]")


def template_keys(sources: Sources) -> tuple[dict[str, Typed], list[str]]:
    """Keys of the templates, and lines for the user. Raises GGUFError for one that is too long, or no text at all."""
    notes: list[str] = []
    by_name = _own_files(sources.folder)
    listed = _listed(sources.settings.get("chat_template"), notes)
    if "default" in by_name and listed.get("default", by_name["default"]) != by_name["default"]:
        notes.append("chat_template.jinja is taken; tokenizer_config.json has another template")
    by_name = listed | by_name
    if len(by_name) > _MOST:
        raise GGUFError(f"{len(by_name)} chat templates are too many; {_MOST} are allowed")
    further: dict[str, str] = {}
    for name, text in by_name.items():
        _check(name, text)
        known = _ODD.sub("_", name)
        if name != "default" and further.setdefault(known, text) != text:
            notes.append(f"the chat template {name[:40]!r} is left out: GGUF knows another by the name {known[:40]!r}")
    keys = {f"{KEY}.{name}": Typed("string", text) for name, text in further.items()}
    if further:
        keys[NAMES] = Typed("array[string]", list(further))
    if "default" in by_name:
        keys[KEY] = Typed("string", by_name["default"])
    return keys, notes


def _check(name: str, text: str) -> None:
    if len(text) > _LIMIT:
        raise GGUFError(f"the chat template {name[:40]!r} has {len(text):,} characters; {_LIMIT:,} are allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GGUFError(f"the chat template {name[:40]!r} is not valid Unicode") from None


def _own_files(folder: Path) -> dict[str, str]:
    """Templates that are files: the default one, and those in additional_chat_templates."""
    by_name: dict[str, str] = {}
    text = read_text(folder / "chat_template.jinja")
    if text is None:
        inner = read_optional(folder / "chat_template.json").get("chat_template")
        text = inner if isinstance(inner, str) else None
    if text is not None:
        by_name["default"] = text
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))[: _MOST + 1]:
        by_name[path.stem] = read_text(path) or ""
    return by_name


def _listed(value: Any, notes: list[str]) -> dict[str, str]:
    """The templates of tokenizer_config.json: a text, or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    entries = (
        value
        if isinstance(value, list)
        else [{"name": k, "template": v} for k, v in value.items()]
        if isinstance(value, dict)
        else []
    )
    by_name: dict[str, str] = {}
    for entry in entries:
        pair = (entry.get("name"), entry.get("template")) if isinstance(entry, Mapping) else (None, None)
        if isinstance(pair[0], str) and pair[0] and isinstance(pair[1], str):
            by_name[pair[0]] = pair[1]
    if not by_name:
        notes.append(
            "tokenizer_config.json: 'chat_template' is neither a text nor a list of named texts: it is left out"
        )
    return by_name
