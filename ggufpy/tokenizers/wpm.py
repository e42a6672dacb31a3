"""WordPiece (`tokenizer.ggml.model` = bert) over the `tokenizers` library.

In: texts and types of a GGUF file, where the beginning of a word is U+2581. Out: a Tokenizer that begins a text with
CLS (BOS) and ends it with SEP. Words are those of BERT (white space and punctuation separate, every CJK character is
one), in lower case and without accents where `tokenizer.ggml.normalizer.*` says so. Sources: src/llama-vocab.cpp of
llama.cpp; where its Unicode tables approximate BERT's normaliser and its limit of 100 characters a word, BERT's own
are taken.
"""

from __future__ import annotations

import json
from typing import Any

from ggufpy.tokenizers import pretokenizers
from ggufpy.tokenizers.base import Tokenizer, replace_invalid
from ggufpy.tokenizers.library import guarded, import_library
from ggufpy.tokenizers.vocab import CONTROL, SPACE, UNKNOWN, Described, Rules, Vocab, flag, load_vocab

_INNER = "##"
_HIDDEN = " "  # no word has a space
_LONGEST = 100  # characters of a word that is looked up; longer ones are unknown


class WPMTokenizer(Tokenizer):
    """Tokenizer of a `bert` vocabulary."""

    def __init__(self, vocab: Vocab, lowercase: bool, strip_accents: bool) -> None:
        super().__init__(vocab)
        self._backend = _backend(vocab, lowercase, strip_accents)

    def _frame(self) -> tuple[list[int], list[int]]:
        """CLS and SEP, whatever the file's flags say: as llama.cpp."""
        vocab = self.vocab
        return [] if vocab.bos is None else [vocab.bos], [] if vocab.sep is None else [vocab.sep]

    def _between(self) -> list[int]:
        """One SEP, which ends the first text."""
        return self._frame()[1]

    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        encoded = guarded(
            "the text cannot be tokenized",
            lambda: self._backend.encode(replace_invalid(text), add_special_tokens=False),
        )
        return [token for token in encoded.ids if token < self.n_vocab]


def load(file: Described, pre: str | None) -> WPMTokenizer:
    """The tokenizer of `file`; WordPiece has none to choose, so `pre` must be None or "default". Raises GGUFError."""
    pretokenizers.refuse(pre, "bert")
    rules = Rules(bos=101, eos=None, unknown=100, add_bos=True, add_space_prefix=False, sep=102)
    lowercase = flag(file.metadata, "normalizer.lowercase")
    strip = flag(file.metadata, "normalizer.strip_accents")
    lower = lowercase is None or lowercase
    return WPMTokenizer(load_vocab(file, rules), lower, lower if strip is None else strip)


def _backend(vocab: Vocab, lowercase: bool, strip_accents: bool) -> Any:
    library = import_library("tokenizers")
    entries = _entries(vocab)
    unknown = _HIDDEN
    if vocab.unknown is not None:
        unknown = f"{_HIDDEN}unknown"
        entries = {text: token for text, token in entries.items() if token != vocab.unknown}
    entries[unknown] = len(vocab.texts) if vocab.unknown is None else vocab.unknown
    model = {
        "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": _INNER,
        "max_input_chars_per_word": _LONGEST, "vocab": entries,
    }  # fmt: skip
    backend = guarded(
        "tokenizer.ggml.tokens make no WordPiece vocabulary",
        lambda: library.Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model})),
    )
    backend.normalizer = library.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return backend


def _entries(vocab: Vocab) -> dict[str, int]:
    """What the library looks up: beginnings of words as they are, what continues a word behind "##"."""
    entries: dict[str, int] = {}
    types = vocab.stored_types.tolist()
    for token, (text, kind) in enumerate(zip(vocab.texts, types, strict=True)):
        plain = text[1:] if text.startswith(SPACE) else _INNER + text
        if kind in (CONTROL, UNKNOWN) or replace_invalid(plain) != plain:
            entries[f"{_HIDDEN}{token}"] = token
        else:
            entries.setdefault(plain, token)
    return entries
