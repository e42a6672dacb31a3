"""Special tokens: which ids begin, end, separate or fill a text, and which are put around it.

In: the files of a folder and text → id. Out: keys of GGUF. What a post-processor says of BOS and EOS comes before
tokenizer_config.json, as in gguf-py's `SpecialVocab` (gguf/vocab.py of llama.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from ggufpy.convert.vocabulary.files import Sources, part, steps
from ggufpy.convert.vocabulary.tokens import content
from ggufpy.format.values import Typed

_KEY = "tokenizer.ggml."
# What tokenizer_config.json calls a token, and what GGUF does, in the order in which llama.cpp writes them.
_NAMES = (
    ("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"), ("pad", "padding"), ("cls", "cls"),
    ("mask", "mask"), ("eot", "eot"), ("eom", "eom"), ("prefix", "fim_pre"), ("suffix", "fim_suf"),
    ("middle", "fim_mid"),
)  # fmt: skip
_FLAGS = ("bos", "eos", "sep")


@dataclass
class _Special:
    """Texts by the names of tokenizer_config.json, ids that are known as such, and what is put around a text."""

    texts: dict[str, str]
    ids: dict[str, int] = field(default_factory=dict)
    adds: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def special_keys(
    sources: Sources, ids: Mapping[str, int], n: int, own: Mapping[str, int]
) -> tuple[dict[str, Typed], list[str]]:
    """Keys of special tokens among `n`, and lines for the user.

    `ids` are texts as they stand in the files; `own` are special ids that the model names, which come last.
    """
    special = _Special(_named_texts(sources))
    _from_processor(special, sources)
    for name in _FLAGS:
        flag = sources.settings.get(f"add_{name}_token")
        if isinstance(flag, bool):
            special.adds.setdefault(name, flag)
    if sources.description is not None:  # which says all that is put around a text
        special.adds = {"bos": False, "eos": False} | special.adds
    special.ids |= {name: ids[text] for name, text in special.texts.items() if ids.get(text, n) < n}
    _from_configs(special, sources, n)
    special.ids = {name: token for name, token in own.items() if token < n} | special.ids
    keys = {f"{_KEY}{key}_token_id": Typed("uint32", special.ids[name]) for name, key in _NAMES if name in special.ids}
    for name in _FLAGS:
        if name in special.adds:
            there = name in special.ids or not special.adds[name]
            keys[f"{_KEY}add_{name}_token"] = Typed("bool", special.adds[name] and there)
            if not there:
                special.notes.append(
                    f"the tokenizer puts {name.upper()} to a text, but has no such token: it is left out"
                )
    return keys, special.notes


def _named_texts(sources: Sources) -> dict[str, str]:
    texts: dict[str, str] = {}
    for settings in (sources.settings, sources.special_map):
        for name, _ in _NAMES:
            text = content(settings.get(f"{name}_token"))
            if text:
                texts.setdefault(name, text)
    for name, stand_in in (("bos", "cls"), ("eos", "sep")):
        if stand_in in texts:
            texts.setdefault(name, texts[stand_in])
    return texts


def _from_processor(special: _Special, sources: Sources) -> None:
    description = sources.description or {}
    for step in steps(description.get("post_processor"), "processors"):
        kind = step.get("type")
        if kind == "ByteLevel":
            special.adds.setdefault("bos", False)
            special.adds.setdefault("eos", False)
        elif kind in ("RobertaProcessing", "BertProcessing"):
            special.adds |= {"bos": True, "eos": True, "sep": True}
            for name, stand_in in (("cls", "bos"), ("sep", "eos")):
                text = _first(step.get(name))
                if text:
                    special.texts.setdefault(name, text)
                    special.texts.setdefault(stand_in, text)
        elif kind == "TemplateProcessing":
            _from_template(special, step)
    if part(description, "model", "tokenizer.json").get("type") == "WordPiece":  # BERT's frame is CLS and SEP
        for name, stand_in in (("cls", "bos"), ("sep", "eos")):
            if stand_in in special.texts:
                special.texts.setdefault(name, special.texts[stand_in])


def _first(value: object) -> str | None:
    first = value[0] if isinstance(value, list) and value else None
    return first if isinstance(first, str) else None


def _from_template(special: _Special, step: Mapping[str, Any]) -> None:
    single = [_entry(item) for item in _list(step.get("single"))]
    special.notes += _framed_twice(single)
    texts = special.texts
    first = single[0][1] if len(single) > 1 and single[0][0] else None
    last = single[-1][1] if len(single) > 1 and single[-1][0] else None
    if first is not None:
        texts.setdefault("bos", first)
        if first != texts["bos"]:
            texts.setdefault("cls", first)
        special.adds["bos"] = first in (texts["bos"], texts.get("cls"))
        if not special.adds["bos"]:
            special.notes.append(f"a text begins with {first!r}, which is neither BOS nor CLS: it is left out")
    if last is not None:
        ended = texts.get("eos")
        if ended is not None and ended != last:  # what ends a turn stays known as such
            texts.setdefault("eot" if "eot" not in texts else "eom", ended)
        texts["eos"] = last
        special.adds["eos"] = True
    middle = _between([_entry(item) for item in _list(step.get("pair"))])
    if middle:
        separators = (texts.get("sep"), texts.get("eos"))
        one, two = middle[0] in separators and last is None, len(middle) == 2 and middle[1] in separators
        special.adds["sep"] = one or two
        if special.adds["sep"]:
            texts.setdefault("sep", texts.get("eos", middle[0]))


def _framed_twice(single: list[tuple[bool, str]]) -> list[str]:
    """A line where several tokens are put before a text, or behind it: GGUF has a word for one each."""
    before = list(takewhile(_is_special, single))
    behind = list(takewhile(_is_special, reversed(single))) if len(before) < len(single) else []
    return [
        f"{len(tokens)} tokens are put {where} a text, and GGUF can say one: {', '.join(t for _, t in tokens)[:80]}"
        for where, tokens in (("before", before), ("behind", behind[::-1])) if len(tokens) > 1
    ]  # fmt: skip


def _is_special(entry: tuple[bool, str]) -> bool:
    return entry[0]


def _between(pair: list[tuple[bool, str]]) -> list[str]:
    """Special tokens between the two texts of a pair."""
    places = [i for i, (special, _) in enumerate(pair) if not special]
    if len(places) != 2:
        return []
    return [text for _, text in pair[places[0] + 1 : places[1]]]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _entry(item: object) -> tuple[bool, str]:
    """Whether an item of a template is a special token, and its text (or the name of the sequence)."""
    if isinstance(item, dict):
        for key, special in (("SpecialToken", True), ("Sequence", False)):
            inner = item.get(key)
            if isinstance(inner, dict) and isinstance(inner.get("id"), str):
                return special, inner["id"]
    return False, ""


def _from_configs(special: _Special, sources: Sources, n: int) -> None:
    """Ids of config.json and generation_config.json: the first that is none yet; further ends as EOT and EOM."""
    texts = sources.config.get("text_config")
    places: list[Mapping[str, Any]] = [sources.config, texts if isinstance(texts, dict) else {}, sources.generation]
    for place in places:
        for name, _ in _NAMES:
            for token in _ids([place.get(f"{name}_token_id")], n):
                special.ids.setdefault(name, token)
    ends = [token for place in places for token in _ids(_list(place.get("eos_token_id")), n)]
    ends += [token for place in places for token in _ids([place.get("eod_token_id")], n)]  # Hunyuan's end of a document
    for token in dict.fromkeys(ends):
        if token in (special.ids.get("eos"), special.ids.get("eot"), special.ids.get("eom")):
            continue
        free = next((name for name in ("eos", "eot", "eom") if name not in special.ids), None)
        if free is None:
            special.notes.append(f"token {token} ends a text too, but GGUF has no further key for that")
        else:
            special.ids[free] = token


def _ids(values: list[Any], n: int) -> list[int]:
    """Those of `values` that are ids of a vocabulary of n tokens."""
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < n]
