"""Which of GGUF's pre-tokenizers a tokenizer.json has: by its expressions, or by what it does.

In: the parsed tokenizer.json and the library's tokenizer made of it. Out: the name for `tokenizer.ggml.pre`, or None.
A list of expressions that stands in the table of `tokenizers/pretokenizers.py` has its name; for any other one the
library's pre-tokenizer and every entry of the table cut some hundred texts, and the entry that cuts all of them alike
is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from ggufpy.convert.vocabulary import probes
from ggufpy.convert.vocabulary.files import steps
from ggufpy.tokenizers import pretokenizers
from ggufpy.tokenizers.bpe import cutter
from ggufpy.tokenizers.library import guarded, import_library
from ggufpy.tokenizers.pretokenizers import PreTokenizer

_PROBES = 400
_GPT2 = pretokenizers.get("gpt-2").patterns[0]
_FOLDED = re.compile(r"\(\?i:([^()\[\]]*)\)")


def recognise(description: Mapping[str, Any], made: Any) -> tuple[PreTokenizer | None, bool]:
    """The entry of the table that cuts as this tokenizer does, or None; and whether its expressions stand there.

    `made` is the library's tokenizer of `description`, whose pre-tokenizer may be None.
    """
    model = description.get("model")
    ignores = isinstance(model, dict) and model.get("ignore_merges") is True
    spec = _specification(description.get("pre_tokenizer"))
    if spec is not None:
        known = [entry for entry in pretokenizers.TABLE if _normal(entry.patterns) == _normal(spec)]
        if known:
            return _preferred(known, ignores, made), True
    return _probed(made, ignores), False


def _preferred(entries: list[PreTokenizer], ignores: bool, made: Any) -> PreTokenizer:
    """The first entry that takes whole pieces as the tokenizer does; the first one where merges lead to all tokens."""
    alike = next((entry for entry in entries if entry.ignore_merges == ignores), entries[0])
    return entries[0] if alike is not entries[0] and _merges_suffice(made) else alike


def _merges_suffice(made: Any) -> bool:
    """Whether the text of every token, cut by merges alone, is that token again."""
    model = made.model
    before = model.ignore_merges
    model.ignore_merges = False
    try:
        return all(len(model.tokenize(text)) == 1 for text in made.get_vocab(with_added_tokens=False))
    finally:
        model.ignore_merges = before


def _specification(node: object) -> tuple[str, ...] | None:
    """The expressions by which a text is cut before its bytes are encoded; None for other ways of cutting."""
    patterns: list[str] = []
    of_bytes = False
    for step in steps(node, "pretokenizers"):
        kind = step.get("type")
        if kind == "ByteLevel" and not of_bytes and step.get("add_prefix_space") is False:
            of_bytes = True
            patterns += [_GPT2] if step.get("use_regex", True) is True else []
        elif kind == "Digits":
            patterns.append(r"\p{N}" if step.get("individual_digits") is True else r"\p{N}+")
        elif kind == "Split" and not of_bytes and (pattern := _split(step)) is not None:
            patterns.append(pattern)
        else:
            return None
    return tuple(patterns) if of_bytes else None


def _split(step: Mapping[str, Any]) -> str | None:
    """The expression of a Split whose matches, and what lies between them, are pieces."""
    way = (str(step.get("behavior")).lower(), step.get("invert"))
    pattern = step.get("pattern")
    if way not in (("isolated", False), ("isolated", None), ("removed", True)) or not isinstance(pattern, dict):
        return None
    regex = pattern.get("Regex")
    if isinstance(regex, str):
        return regex
    plain = pattern.get("String")
    return re.escape(plain) if isinstance(plain, str) else None


def _normal(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Expressions with what is written in several ways written in one."""
    same = (("{1}", ""), ("\r", r"\r"), ("\n", r"\n"), (r"\"", '"'))
    written_alike = [_expanded(pattern) for pattern in patterns]
    for written, meant in same:
        written_alike = [pattern.replace(written, meant) for pattern in written_alike]
    return tuple(written_alike)


def _expanded(pattern: str) -> str:
    """Alternatives without regard to case, "(?i:'s|'ll)", as classes, "(?:'[sS]|'[lL][lL])"."""

    def both(match: re.Match[str]) -> str:
        inner = "".join([f"[{c.lower()}{c.upper()}]" if c.isascii() and c.isalpha() else c for c in match[1]])
        return f"(?:{inner})"

    return _FOLDED.sub(both, pattern)


def _probed(made: Any, ignores: bool) -> PreTokenizer | None:
    """The entry that cuts the probes as the library's pre-tokenizer does. Raises GGUFError for one that fails on some,
    as expressions do whose search has no end."""
    own = made.pre_tokenizer
    if own is None:
        return None
    texts = probes.texts(_PROBES, seed=2)
    name = "tokenizer.json: its pre-tokenizer fails on a text"
    wanted = guarded(name, lambda: [_pieces(own, text) for text in texts])
    entries = [entry for entry in pretokenizers.TABLE if _cuts_alike(entry, texts, wanted)]
    return _preferred(entries, ignores, made) if entries else None


def _cuts_alike(entry: PreTokenizer, texts: list[str], wanted: list[list[str]]) -> bool:
    own = _cutter(entry)
    return all(_pieces(own, text) == pieces for text, pieces in zip(texts, wanted, strict=True))


@cache
def _cutter(entry: PreTokenizer) -> Any:
    return cutter(import_library("tokenizers"), entry)


def _pieces(own: Any, text: str) -> list[str]:
    return [piece for piece, _ in own.pre_tokenize_str(text)]
