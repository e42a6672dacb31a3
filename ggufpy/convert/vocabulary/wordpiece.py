"""WordPiece vocabularies of a tokenizer.json, as `bert`.

In: the parsed tokenizer.json. Out: `Pieces`, whose texts are those of llama.cpp (conversion/bert.py): the beginning of
a word is marked by U+2581, and what continues one is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.convert.vocabulary.files import Sources, part, steps
from ggufpy.convert.vocabulary.tokens import SPACE, Pieces, Table, added_tokens, checked_vocabulary, distinct, table
from ggufpy.format.values import Typed
from ggufpy.tokenizers.vocab import CONTROL, UNUSED

_NAME = "tokenizer.json"
_INNER = "##"


def pieces(sources: Sources, size: int | None) -> list[Pieces]:
    """What the vocabulary is in GGUF. Raises GGUFError for a damaged tokenizer.json."""
    description = sources.description or {}
    model = part(description, "model", _NAME)
    base = checked_vocabulary(model.get("vocab"), _NAME)
    made = table(base, added_tokens(sources, base), size, _NAME)
    marked = {i: _marked(text, kind) for i, (text, kind) in enumerate(zip(made.texts, made.types, strict=True))}
    types = list(made.types)
    texts = distinct(marked, types)
    unknown = model.get("unk_token")
    specials = {"unk": base[unknown]} if isinstance(unknown, str) and unknown in base else {}
    count = sources.config.get("type_vocab_size")
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count < 1 << 32:
        count = 1
    extra = {"tokenizer.ggml.token_type_count": Typed("uint32", count)} | _normalizer(description)
    return [
        Pieces(
            "bert",
            "default",
            Table(texts, types, made.scores, made.dropped),
            extra=extra,
            specials=specials,
            description=sources.text,
        )
    ]


def _marked(text: str, kind: int) -> str:
    if kind in (CONTROL, UNUSED):
        return text
    return text[len(_INNER) :] if text.startswith(_INNER) else SPACE + text


def _normalizer(description: Mapping[str, Any]) -> dict[str, Typed]:
    """Lower case and accents, as the steps of the normaliser have them."""
    lowercase: bool | None = None
    strip: bool | None = None
    for step in steps(description.get("normalizer"), "normalizers"):
        kind = step.get("type")
        if kind == "Lowercase":
            lowercase = True
        elif kind == "StripAccents":
            strip = True
        elif kind == "BertNormalizer":
            lowercase = step.get("lowercase") is not False
            strip = step["strip_accents"] if isinstance(step.get("strip_accents"), bool) else strip
    keys = {"tokenizer.ggml.normalizer.lowercase": Typed("bool", bool(lowercase))}
    if strip is not None or not lowercase:
        keys["tokenizer.ggml.normalizer.strip_accents"] = Typed("bool", bool(strip))
    return keys
