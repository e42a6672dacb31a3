"""Unigram vocabularies of a tokenizer.json, as `t5`.

In: the parsed tokenizer.json, whose vocabulary is a list of texts and scores. Out: `Pieces`.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from math import isfinite
from typing import Any

from ggufpy.convert.vocabulary.files import Sources, part, steps
from ggufpy.convert.vocabulary.tokens import Pieces, Table, added_tokens, checked_vocabulary, is_byte, table
from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed
from ggufpy.tokenizers.vocab import BYTE, NORMAL, UNKNOWN

_NAME = "tokenizer.json"


def pieces(sources: Sources, size: int | None) -> list[Pieces]:
    """What the vocabulary is in GGUF: with its own flags for white space, and with those that may mean the same.

    Raises GGUFError for a damaged tokenizer.json.
    """
    description = sources.description or {}
    model = part(description, "model", _NAME)
    scores = _scores(model.get("vocab"))
    base = checked_vocabulary({text: i for i, (text, _) in enumerate(scores)}, _NAME)
    if len(base) != len(scores):
        raise GGUFError(f"{_NAME}: two entries of the vocabulary have the same text; it is damaged")
    made = table(base, added_tokens(sources, base), size, _NAME, {i: score for i, (_, score) in enumerate(scores)})
    types = list(made.types)
    unknown = model.get("unk_id")
    if isinstance(unknown, int) and 0 <= unknown < len(types):
        types[unknown] = UNKNOWN
    if model.get("byte_fallback") is True:
        for token, text in enumerate(made.texts):
            if types[token] == NORMAL and is_byte(text):
                types[token] = BYTE
    values = list(made.scores)
    for token in (token for token, kind in enumerate(types) if kind not in (NORMAL, BYTE) and token < len(scores)):
        values[token] = scores[token][1]
    built = Table(made.texts, types, values, made.dropped)
    specials = {"unk": unknown} if UNKNOWN in types and isinstance(unknown, int) else {}
    return [
        Pieces("t5", "default", built, None, True, _keys(description, prefix, merge), specials, sources.text)
        for prefix, merge in _ways(description)
    ]


def _ways(description: Mapping[str, Any]) -> list[tuple[bool, bool]]:
    """(add_space_prefix, remove_extra_whitespaces), the likeliest first; which one is right, the comparison says."""
    kinds = {str(step.get("type")) for step in steps(description.get("pre_tokenizer"), "pretokenizers")}
    kinds |= {str(step.get("type")) for step in steps(description.get("normalizer"), "normalizers")}
    merging = bool(kinds & {"WhitespaceSplit", "Replace", "Strip"})
    never = any(
        step.get("type") == "Metaspace" and step.get("prepend_scheme") == "never"
        for step in steps(description.get("pre_tokenizer"), "pretokenizers")
    )
    return list(dict.fromkeys([(not never, merging), (not never, not merging), (never, merging)]))


def _keys(description: Mapping[str, Any], prefix: bool, merge: bool) -> dict[str, Typed]:
    keys = {
        "tokenizer.ggml.add_space_prefix": Typed("bool", prefix),
        "tokenizer.ggml.remove_extra_whitespaces": Typed("bool", merge),
    }
    charsmap = _charsmap(description)
    if charsmap:
        keys["tokenizer.ggml.precompiled_charsmap"] = Typed("array[uint8]", list(charsmap))
    return keys


def _charsmap(description: Mapping[str, Any]) -> bytes:
    for step in steps(description.get("normalizer"), "normalizers"):
        coded = step.get("precompiled_charsmap")
        if step.get("type") == "Precompiled" and coded is not None:
            try:
                return b64decode(coded, validate=True)
            except (Base64Error, TypeError, ValueError) as error:
                raise GGUFError(f"{_NAME}: 'precompiled_charsmap' is not base64 ({error}); it is damaged") from error
    return b""


def _scores(vocab: object) -> list[tuple[str, float]]:
    if not isinstance(vocab, list):
        raise GGUFError(f"{_NAME}: the vocabulary is a {type(vocab).__name__}, and must be a list of texts and scores")
    scores: list[tuple[str, float]] = []
    for i, entry in enumerate(vocab):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise GGUFError(
                f"{_NAME}: entry {i} of the vocabulary is {str(entry)[:40]!r}, and must be a text and a score"
            )
        score = entry[1]
        if (
            isinstance(score, bool)
            or not isinstance(score, (int, float))
            or not abs(score) < 3e38
            or not isfinite(score)
        ):
            raise GGUFError(f"{_NAME}: the score of entry {i} is {str(score)[:40]}, and must be a finite number")
        scores.append((entry[0], float(score)))
    return scores
