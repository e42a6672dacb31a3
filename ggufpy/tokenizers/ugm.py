"""Unigram language models (`tokenizer.ggml.model` = t5) over the `tokenizers` library.

In: texts, scores and types of a GGUF file, and SentencePiece's table of character replacements
(`tokenizer.ggml.precompiled_charsmap`). Out: a Tokenizer. White space is treated here, as in src/llama-vocab.cpp of
llama.cpp: `remove_extra_whitespaces` makes a text words with one U+2581 before each, otherwise every space is one,
with one more before the first word where `add_space_prefix` is set. The pieces are those of the best sum of scores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.tokenizers import pretokenizers
from ggufpy.tokenizers.base import Tokenizer, looked_up, replace_invalid
from ggufpy.tokenizers.library import guarded, import_library
from ggufpy.tokenizers.vocab import NORMAL, SPACE, USER_DEFINED, Described, Rules, Vocab, flag, load_vocab

if TYPE_CHECKING:
    from ggufpy.format.metadata import Metadata

_HIDDEN = " "  # no text that is looked up has a space
_CHARSMAP = "tokenizer.ggml.precompiled_charsmap"
_WORDS = re.compile(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+")
_CROSSING = re.compile(f"[^{SPACE}]{SPACE}")
_PARTS = re.compile(r"[^ ]+")


class UGMTokenizer(Tokenizer):
    """Tokenizer of a `t5` vocabulary."""

    def __init__(self, vocab: Vocab, charsmap: bytes, merge_spaces: bool) -> None:
        super().__init__(vocab)
        self._merge_spaces = merge_spaces
        self._normalizer = _normalizer(charsmap)
        pieces = _pieces(vocab)
        self._by_words = not any(_CROSSING.search(text) for text, _ in pieces)
        self._backend = _backend(pieces, vocab.unknown)

    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        text = replace_invalid(text)
        if self._normalizer is not None:
            text = guarded("the text cannot be normalised", lambda: self._normalizer.normalize_str(text))
        text = self._spaced(text)
        # No piece reaches over the beginning of a word: then each different word is looked up once.
        words = _WORDS.findall(text) if self._by_words else [text] if text else []
        return self._known(looked_up(words, self._encode_words))

    def _encode_words(self, words: list[str]) -> Iterable[list[int]]:
        encoded = guarded(
            "the text cannot be tokenized",
            lambda: self._backend.encode_batch_fast(words, add_special_tokens=False),
        )
        return (piece.ids for piece in encoded)

    def _spaced(self, text: str) -> str:
        if self._merge_spaces:
            return "".join([SPACE + word for word in _PARTS.findall(text)])
        prefix = SPACE if self.vocab.add_space_prefix and text.strip(" ") else ""
        return prefix + text.replace(" ", SPACE)

    def _known(self, ids: list[int]) -> list[int]:
        """Without unknown pieces where the vocabulary has no token for them, and with one for a run of them."""
        unknown = self.vocab.unknown
        if unknown is None:
            return [token for token in ids if token < self.n_vocab]
        return [token for i, token in enumerate(ids) if token != unknown or i == 0 or ids[i - 1] != unknown]


def load(file: Described, pre: str | None) -> UGMTokenizer:
    """The tokenizer of `file`; Unigram has no pre-tokenizer, so `pre` must be None or "default". Raises GGUFError."""
    pretokenizers.refuse(pre, "t5")
    metadata = file.metadata
    rules = Rules(bos=None, eos=1, unknown=2, add_bos=False, add_space_prefix=False, add_eos=True)
    merge_spaces = flag(metadata, "remove_extra_whitespaces")
    return UGMTokenizer(load_vocab(file, rules), _charsmap(metadata), bool(merge_spaces))


def _charsmap(metadata: Metadata) -> bytes:
    """The table of replacements; nothing if it is not there. Its head is checked here, the rest by the library."""
    if _CHARSMAP not in metadata:
        return b""
    array = metadata.array(_CHARSMAP)
    if array.dtype.itemsize != 1 or array.dtype.kind not in "iu":
        raise GGUFError(f"{_CHARSMAP} is {metadata.type(_CHARSMAP)}; it must be bytes (array[uint8])")
    data = array.tobytes()
    if len(data) < 4 or int.from_bytes(data[:4], "little") + 4 >= len(data) or data[:4] == b"\0\0\0\0":
        raise GGUFError(f"{_CHARSMAP} is cut short or damaged; write the vocabulary again from its source")
    return data


def _normalizer(charsmap: bytes) -> Any:
    if not charsmap:
        return None
    library = import_library("tokenizers")

    def make() -> Any:
        made = library.normalizers.Precompiled(charsmap)
        made.normalize_str("a \u00e9\uff21")  # a table whose entries lead nowhere fails here rather than in a text
        return made

    return guarded(f"{_CHARSMAP} is damaged", make)


def _pieces(vocab: Vocab) -> list[tuple[str, float]]:
    """Pieces with scores for the library: texts out of reach for tokens that are not found in plain text.

    What is out of reach takes the best score, so that the library's score for what is unknown (10 below the worst of
    all) depends on normal tokens alone. Unused tokens, which pad a vocabulary, are out of reach too.
    """
    normal = vocab.stored_types == NORMAL
    top = float(vocab.scores[normal].max()) if normal.any() else 0.0
    user = vocab.stored_types == USER_DEFINED
    reachable = (normal | user).tolist()
    scores = np.where(user, 0.0, vocab.scores.astype(np.float64)).tolist()
    if not np.isfinite(vocab.scores[normal]).all():
        raise GGUFError("tokenizer.ggml.scores: a score is not finite; write the vocabulary again from its source")
    pieces: list[tuple[str, float]] = []
    for token, text in enumerate(vocab.texts):
        fit = reachable[token] and vocab.ids[text] == token and replace_invalid(text) == text
        pieces.append((text, scores[token]) if fit else (f"{_HIDDEN}{token}", top))
    if vocab.unknown is None:
        pieces.append((_HIDDEN, top))
    return pieces


def _backend(pieces: list[tuple[str, float]], unknown: int | None) -> Any:
    library = import_library("tokenizers")
    unk_id = len(pieces) - 1 if unknown is None else unknown
    model = {"type": "Unigram", "unk_id": unk_id, "vocab": pieces, "byte_fallback": False}
    return guarded(
        "tokenizer.ggml.tokens make no Unigram vocabulary",
        lambda: library.Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model})),
    )
