"""BPE over the `tokenizers` library: of bytes (`tokenizer.ggml.model` = gpt2), or of text with bytes for the rest
(gemma4, and some pre-tokenizers of gpt2).

In: texts, types and merges of a GGUF file and the name of its pre-tokenizer. Out: a Tokenizer. The library
is fed its own JSON form, which it reads faster than lists of Python objects: 280,147 merges in 0.3 s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.tokenizers import pretokenizers
from ggufpy.tokenizers.base import Tokenizer, looked_up, replace_invalid
from ggufpy.tokenizers.library import guarded, import_library
from ggufpy.tokenizers.strings import decode_strings
from ggufpy.tokenizers.vocab import CONTROL, SPACE, UNKNOWN, Described, Rules, Vocab, flag, load_vocab

_MERGES = "tokenizer.ggml.merges"
_LONG = 4096  # characters; longer texts are cut first, at places where every expression of the table cuts
_AT_SPACES = re.compile(r"(?<=\S)(?= \S)")
_AT_LINES = re.compile(r"(?<=[A-Za-z])(?=\n)")
_CUTS = {"spaces": _AT_SPACES, "lines": _AT_LINES}
_LINE_ENDS = re.compile(r"(\n+)")
FORM_KEY = "tokenizer.ggml.normalizer.unicode_form"  # of this package alone: a model's NFC, which llama.cpp leaves out
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_NOT_JSON = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")  # needs more than quotes and backslashes escaped
_HIDDEN = "\uffff"  # not in the byte alphabet, so in no text that is looked up


class BPETokenizer(Tokenizer):
    """Tokenizer of a `gpt2` vocabulary."""

    def __init__(
        self, vocab: Vocab, merges: list[str], pre: pretokenizers.PreTokenizer, form: str | None = None
    ) -> None:
        super().__init__(vocab)
        self._backend = _backend(vocab, merges, pre, form)
        self._cut = _CUTS.get(pre.cuts)
        self._raw = pre.raw
        self._line_ends = pre.line_ends
        self._words = pre.words

    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        text = replace_invalid(text)
        if self._raw and not self._words:
            text = text.replace(" ", SPACE)
        if not self._line_ends or "\n" not in text:
            return self._encode_plain(text)
        ids: list[int] = []
        for i, part in enumerate(_LINE_ENDS.split(text)):
            token = self.vocab.ids.get(part) if i % 2 else None
            ids += self._encode_plain(part) if token is None else [token]
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        if len(text) < _LONG or self._cut is None:
            return next(iter(self._encoded([text])))
        return looked_up(self._cut.split(text), self._encoded)  # most words of a long text come again

    def _encoded(self, texts: list[str]) -> Iterator[list[int]]:
        encoded = guarded(
            "the text cannot be tokenized",
            lambda: self._backend.encode_batch_fast(texts, add_special_tokens=False),
        )
        return (piece.ids for piece in encoded)

    def _normal_bytes(self, text: str) -> bytes:
        return super()._normal_bytes(text) if self._raw else bytes_of(text)


def load(file: Described, pre: str | None) -> BPETokenizer:
    """The tokenizer of `file`; `pre` replaces `tokenizer.ggml.pre`. Raises GGUFError."""
    metadata = file.metadata
    gemma = metadata.get("tokenizer.ggml.model") == "gemma4"  # which has its own pre-tokenizer, whatever the file says
    name = pre if pre is not None else "gemma4" if gemma else metadata.get("tokenizer.ggml.pre")
    if name is not None and not isinstance(name, str):
        raise GGUFError(f"tokenizer.ggml.pre must be a text, not {type(name).__name__}; name one with --pre NAME")
    entry = pretokenizers.get(name)
    usual = None if gemma else 11
    bos = None if entry.no_bos else usual
    rules = Rules(bos=bos, eos=usual, unknown=None, add_bos=entry.add_bos, add_space_prefix=False)
    vocab = load_vocab(file, rules)
    if gemma and vocab.bos is not None:
        vocab = replace(vocab, add_bos=True)  # as llama.cpp: files that say otherwise are wrong
    if _MERGES not in metadata:
        raise GGUFError(
            f"{_MERGES} is missing: a gpt2 vocabulary needs its merges; write the file again from its source"
        )
    lower = pre is None and entry.words and flag(metadata, "normalizer.lowercase")
    form = "Lowercase" if lower else _form(metadata.get(FORM_KEY))
    return BPETokenizer(vocab, decode_strings(metadata.strings(_MERGES)), entry, form)


def _form(value: object) -> str | None:
    if value is None or value in FORMS:
        return None if value is None else str(value)
    raise GGUFError(f"{FORM_KEY} is {str(value)[:40]!r}; it must be one of {', '.join(FORMS)}, or left out")


def _backend(vocab: Vocab, merges: list[str], pre: pretokenizers.PreTokenizer, form: str | None) -> Any:
    library = import_library("tokenizers")
    entries = _entries(vocab)
    head = f'{{"type":"BPE","ignore_merges":{json.dumps(pre.ignore_merges)},"byte_fallback":{json.dumps(pre.raw)},'
    tail = '"version":"1.0","added_tokens":[],"model":'

    def make(vocab_json: str, merges_json: str) -> Any:
        return guarded(
            f"tokenizer.ggml.tokens and {_MERGES} make no BPE vocabulary",
            lambda: library.Tokenizer.from_str(f'{{{tail}{head}"vocab":{vocab_json},"merges":{merges_json}}}}}'),
        )

    def make_of_known() -> Any:
        pairs = list(_known_pairs(merges, entries))
        return make(json.dumps({text: i for i, text in _unique(entries)}), json.dumps(pairs))

    def cut(backend: Any) -> Any:
        backend.pre_tokenizer = cutter(library, pre)
        if form is not None:
            backend.normalizer = getattr(library.normalizers, form)()
        return backend

    if _longest(merges) - 1 > _longest(entries):  # the library panics where a merge makes no token, and prints that
        backend = make_of_known()
    else:
        try:
            backend = make(_vocab_json(entries), _merges_json(merges))
        except GGUFError:  # most likely a merge of tokens that are not there
            backend = make_of_known()
    return guarded(f"the pre-tokenizer {pre.names[0]!r} does not work", lambda: cut(backend))


def cutter(library: Any, pre: pretokenizers.PreTokenizer) -> Any:
    """The pre-tokenizer of the `tokenizers` library that an entry of the table describes."""
    cutters = library.pre_tokenizers
    if pre.words:
        return cutters.WhitespaceSplit()
    splits = [cutters.Split(library.Regex(pattern), "isolated") for pattern in pre.patterns]
    if not pre.raw:
        splits.append(cutters.ByteLevel(add_prefix_space=False, use_regex=False))
    return cutters.Sequence(splits)


def _longest(texts: list[str]) -> int:
    """Bytes of the longest text (of the longest line, where texts hold line ends)."""
    data = np.frombuffer("\n".join(texts).encode("utf-8", "surrogatepass"), np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    return int(np.diff(ends, prepend=-1, append=len(data)).max()) - 1


def _entries(vocab: Vocab) -> list[str]:
    """The text under which each token may be found in plain text; a text out of reach for the others."""
    entries = list(vocab.texts)
    for token in ((vocab.stored_types == CONTROL) | (vocab.stored_types == UNKNOWN)).nonzero()[0].tolist():
        entries[token] = f"{_HIDDEN}{token}"
    if len(vocab.ids) != len(entries):
        entries = [text if vocab.ids.get(text, i) == i else f"{_HIDDEN}{i}" for i, text in enumerate(entries)]
    return entries


def _unique(entries: list[str]) -> Iterator[tuple[int, str]]:
    """Entries that the library can hold: those that are valid Unicode."""
    return ((i, text) for i, text in enumerate(entries) if replace_invalid(text) == text)


def _vocab_json(entries: list[str]) -> str:
    """{"text": id, ...} by a few passes over one long string."""
    joined = _escaped("\n".join(entries), len(entries) - 1)
    if joined is None:
        return json.dumps({text: i for i, text in _unique(entries)})
    template = '{"' + joined.replace("%", "%%").replace("\n", '":%d,"') + '":%d}'
    return template % tuple(range(len(entries)))


def _merges_json(merges: list[str]) -> str:
    """["left right", ...]"""
    if not merges:
        return "[]"
    joined = _escaped("\n".join(merges), len(merges) - 1)
    return json.dumps(merges) if joined is None else '["' + joined.replace("\n", '","') + '"]'


def _escaped(joined: str, line_ends: int) -> str | None:
    """`joined` escaped for JSON but for the line ends between entries; None if some entry needs more than
    that."""
    if joined.count("\n") != line_ends or _NOT_JSON.search(joined) is not None:
        return None
    return joined.replace("\\", "\\\\").replace('"', '\\"')


def _known_pairs(merges: list[str], entries: list[str]) -> Iterator[tuple[str, str]]:
    """Merges as pairs, without those that need a token which is not in the vocabulary."""
    known = {text for _, text in _unique(entries)}
    for merge in merges:
        space = merge.find(" ", 1)
        left, right = merge[:space], merge[space + 1 :]
        if space > 0 and left in known and right in known and left + right in known:
            yield left, right


@cache
def _bytes_of_characters() -> dict[int, int]:
    """GPT-2's byte alphabet, reversed: printable Latin-1 stands for itself, the other bytes for U+0100 and
    on.

    Source: encoder.py of OpenAI's GPT-2. Latin-1 characters outside the alphabet map to one that does not
    encode.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = dict.fromkeys(others, 0xFFFD)
    return table | {256 + i: byte for i, byte in enumerate(others)}


@cache
def byte_letters() -> dict[int, int]:
    """Byte → its letter in GPT-2's alphabet, for those that do not stand for themselves."""
    return {byte: letter for letter, byte in _bytes_of_characters().items() if byte < 256}


def bytes_of(text: str) -> bytes:
    """The bytes that a text in GPT-2's byte alphabet stands for."""
    try:
        return text.translate(_bytes_of_characters()).encode("latin-1")
    except UnicodeEncodeError:  # characters outside the byte alphabet stand for themselves
        return b"".join([_character_bytes(character) for character in text])


def _character_bytes(character: str) -> bytes:
    try:
        return character.translate(_bytes_of_characters()).encode("latin-1")
    except UnicodeEncodeError:
        return character.encode("utf-8", "surrogateescape")
