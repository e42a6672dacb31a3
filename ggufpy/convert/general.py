"""`general.*`: what a file says of the model as a whole, from its card, its generation_config.json and its name.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What the user says wins over what is found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggufpy.convert.card import SOURCE_KEYS, Parts, parts_of, read_card, sources, title
from ggufpy.convert.reading import read_object
from ggufpy.errors import GGUFError
from ggufpy.format.encode import infer
from ggufpy.format.rows import Rows
from ggufpy.format.values import Typed, shown

SAMPLING = (
    ("temp", "temperature", "float32"), ("top_k", "top_k", "int32"), ("top_p", "top_p", "float32"),
    ("min_p", "min_p", "float32"), ("penalty_repeat", "repetition_penalty", "float32"),
    ("xtc_probability", "xtc_probability", "float32"), ("xtc_threshold", "xtc_threshold", "float32"),
    ("penalty_last_n", "penalty_last_n", "int32"), ("mirostat", "mirostat", "int32"),
    ("mirostat_tau", "mirostat_tau", "float32"), ("mirostat_eta", "mirostat_eta", "float32"),
)  # fmt: skip
_MOST = {"int32": 2**31 - 1, "float32": float(np.finfo(np.float32).max)}
SOURCES_MAX = 256  # models, or sets of data, that another was made of
_ON_HUB = re.compile(r"[^./][^/]*(?:/[^/]*)?")  # "owner/model", or "model"
# Keys of general.* that are texts, and what cards call them, the first that is there.
TEXTS = (
    ("name", ("name", "model_name")),
    ("author", ("author", "model_author", "model_creator")), ("version", ("version", "model_version")),
    ("organization", ("organization", "model_organization")), ("finetune", ("finetune", "model_finetune")),
    ("basename", ("basename", "model_basename")), ("description", ("description", "model_description")),
    ("size_label", ("size_label", "model_size_label")), ("license", ("license",)), ("license.name", ("license_name",)),
    ("license.link", ("license_link",)), ("source.url", ("url", "model_url")), ("source.doi", ("doi", "model_doi")),
    ("source.uuid", ("uuid", "model_uuid")), ("source.repo_url", ("repo_url", "model_repo_url")),
)  # fmt: skip
GUESSED = ("version", "finetune", "basename", "size_label")  # of a folder's name, where a card does not say null
_LISTS = (("tags", ("tags", "pipeline_tag")), ("languages", ("languages", "language")))
SOURCES = (
    ("base_model", ("base_model", "base_models", "base_model_sources")),
    ("dataset", ("datasets", "dataset", "dataset_sources")),
)


def general(
    folder: Path, config: Mapping[str, Any], name: str | None, tensors: Collection[Rows]
) -> tuple[dict[str, Typed], list[str]]:
    """The keys of a checkpoint in `folder`, and lines for the user; `name` is what the user calls it."""
    card, notes = read_card(folder)
    said, more = of_card(card)
    parts = _named(folder, config, sum(math.prod(rows.shape) for rows in tensors))
    guessed = {"name": title(parts.name), "version": parts.version, "finetune": parts.finetune,
               "basename": parts.basename, "organization": title(parts.organization) if parts.organization else None,
               "size_label": parts.size or size_label(tensors)}  # fmt: skip
    nowhere = _nowhere(card)
    texts = {f"general.{key}": Typed("string", text) for key, text in guessed.items() if text and key not in nowhere}
    texts = {"general.name": Typed("string", ""), **texts, **said}
    if name:
        texts["general.name"] = Typed("string", name)
    keys = {"general.type": Typed("string", "model"), **_sampling(folder)}
    order = [f"general.{key}" for key, _ in TEXTS]
    keys |= {key: texts[key] for key in order if key in texts}
    return {**keys, **{key: value for key, value in said.items() if key not in keys}}, [*notes, *more]


def of_card(card: Mapping[str, Any]) -> tuple[dict[str, Typed], list[str]]:
    """The keys that a card says, and lines for the user."""
    texts = {key: _text(card, names) for key, names in TEXTS}
    texts["license"] = texts["license"] or ",".join(_words(card.get("license"))).strip()
    keys = {f"general.{key}": Typed("string", text) for key, text in texts.items() if text}
    notes = []
    for key, several in SOURCES:
        entries = sources(next((card[name] for name in several if card.get(name)), []))
        keys |= _entries(key, entries[:SOURCES_MAX])
        if len(entries) > SOURCES_MAX:
            notes.append(f"README.md names {len(entries)} of {several[0]}; the file has the first {SOURCES_MAX}")
    for key, pair in _LISTS:
        words = [word for name in pair for word in _words(card.get(name))]
        if words:
            keys[f"general.{key}"] = Typed("array[string]", words)
    return keys, notes


def _nowhere(card: Mapping[str, Any]) -> list[str]:
    """What a card says there is nothing to say of: null is an answer, and nothing is guessed."""
    return [key for key, names in TEXTS if key in GUESSED and any(card.get(name, "") is None for name in names)]


def _named(folder: Path, config: Mapping[str, Any], weights: int) -> Parts:
    """The name that config.json has for the model, if it is none of a folder somewhere; else the folder's."""
    said = config.get("_name_or_path")
    if isinstance(said, str) and said.isprintable() and _ON_HUB.fullmatch(said):
        return parts_of(said, weights)
    return parts_of(folder.resolve().name, weights)


def _text(card: Mapping[str, Any], names: Iterable[str]) -> str | None:
    values = (card.get(name) for name in names)
    return next((str(v) for v in values if isinstance(v, str | int | float) and str(v).strip()), None)


def _words(value: Any) -> list[str]:
    words = value if isinstance(value, list) else [value]
    return [str(word) for word in words if isinstance(word, str | int) and str(word)]


def _entries(key: str, entries: Sequence[Mapping[str, str]]) -> dict[str, Typed]:
    if not entries:
        return {}
    keys = {f"general.{key}.count": Typed("uint32", len(entries))}
    for i, entry in enumerate(entries):
        keys |= {f"general.{key}.{i}.{what}": Typed("string", text) for what, text in entry.items()}
    return keys


def _sampling(folder: Path) -> dict[str, Typed]:
    """What the model's makers recommend to sample with."""
    path = folder / "generation_config.json"
    said = read_object(path) if path.is_file() else {}
    keys = {}
    for key, name, kind in SAMPLING:
        value = said.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST[kind]:
            keys[f"general.sampling.{key}"] = Typed(kind, int(value) if kind == "int32" else float(value))
    return keys


def size_label(tensors: Iterable[Rows]) -> str | None:
    """How many weights there are, "135M"; of a mixture of experts its experts and the weights of one, "8x7B"."""
    dense = each = experts = 0
    for rows in tensors:
        count = math.prod(rows.shape)
        if len(rows.shape) == 3:
            experts = max(experts, rows.shape[0])
            each += count // max(rows.shape[0], 1)
        else:
            dense += count
    if not dense + each:
        return None
    return f"{experts}x{_rounded(dense + each)}" if experts else _rounded(dense)


def _rounded(count: int) -> str:
    """A count in two digits or more: 135M, 7.2B."""
    for limit, scale, unit in ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e6, 1e6, "M"), (0, 1e3, "K")):
        if count > limit:
            value = count / scale
            return f"{value:.{max(2 - len(str(round(value))), 0)}f}{unit}"
    return "0K"


def overriding(path: Path) -> dict[str, Typed]:
    """Keys of a file of JSON that the user gives, as `--metadata`: texts, numbers, flags and lists of texts.

    general.base_models and general.datasets are lists of objects, as in llama.cpp. Raises GGUFError for other values,
    and for the architecture, which follows from config.json.
    """
    keys: dict[str, Typed] = {}
    for key, value in read_object(path).items():
        if key in ("general.base_models", "general.datasets"):
            keys |= _entries("base_model" if "base" in key else "dataset", _listed(value, path, key))
        elif key == "general.architecture":
            raise GGUFError(f"{path}: {key} follows from config.json: leave it out")
        elif isinstance(value, bool):
            keys[key] = Typed("bool", value)
        elif isinstance(value, str):
            keys[key] = Typed("string", value)
        elif isinstance(value, int) and -(2**63) <= value < 2**64:
            keys[key] = infer(value, key)
        elif isinstance(value, float) and abs(value) <= _MOST["float32"]:
            keys[key] = Typed("float32", value)
        elif isinstance(value, list) and all(isinstance(word, str) for word in value):
            keys[key] = Typed("array[string]", value)
        else:
            raise GGUFError(f"{path}: {shown(key)} is no text, number, flag or list of texts")
    return keys


def _listed(value: Any, path: Path, key: str) -> list[dict[str, str]]:
    """The objects of a list, whose names are SOURCE_KEYS and whose values texts. GGUFError for anything else."""
    if not isinstance(value, list) or not all(
        isinstance(one, dict) and all(name in SOURCE_KEYS and isinstance(one[name], str) for name in one)
        for one in value
    ):
        raise GGUFError(f"{path}: {key} is no list of objects of texts by these names: {', '.join(SOURCE_KEYS)}")
    return value
