"""A model's tokens as llguidance takes them: the bytes of each, which are special, and how a text is written in them.

In: a tokenizer and how many rows of logits the model has. Out: one object a model, which its texts share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.grammar.library import guarded, import_library
from ggufpy.tokenizers.vocab import CONTROL, UNKNOWN

if TYPE_CHECKING:
    from ggufpy.tokenizers import Tokenizer

_LINE_ENDS = (b"\n", b"\n\n", b"\r\n", b"\r\n\r\n")
_MOST_MARKERS = 64  # places within markers whose tokens are remembered
_MASK_THREADS = 2  # masks of several texts at once; one takes about 0.1 ms


class Vocabulary:
    """The tokens of one model, built once (0.1 to 1 s for 32,000 to 150,000 tokens) and safe to share between threads.

    `n_vocab` is how many logits the model has; rows beyond the tokenizer's are padding, which no mask ever allows.
    Raises GGUFError for a tokenizer without an end token: no constrained text could end.
    """

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        self.tokenizer = tokenizer
        self.n_vocab = n_vocab
        self.n_known = min(n_vocab, tokenizer.n_vocab)
        self.ends = tuple(sorted(token for token in tokenizer.end_tokens if token < self.n_known))
        if not self.ends:
            raise GGUFError(
                "a grammar needs an end token, and this vocabulary has none: write tokenizer.ggml.eos_token_id "
                "into the file (ggufpy edit), or leave the grammar out"
            )
        self.bytes_of = [tokenizer.token_bytes(token) for token in range(self.n_known)]
        self.special = frozenset(self.ends) | self._control()  # never within a text unless a grammar names them
        self._over: dict[tuple[bytes, int], tuple[int, ...]] = {}
        library = import_library()
        self.writer = _Writer(self)
        self.library_tokenizer: Any = guarded(
            "the vocabulary cannot be used with a grammar",
            lambda: library.LLTokenizer(_Wrapper(self, self.writer), eos_token=list(self.ends)),
        )
        self.workers = ThreadPoolExecutor(_MASK_THREADS, "ggufpy-grammar")  # its threads end with this object

    def _control(self) -> frozenset[int]:
        """Tokens that are no text, by the file or by what their text is; those that a user defined are text."""
        vocab = self.tokenizer.vocab
        kinds = np.stack([vocab.types, vocab.stored_types])[:, : self.n_known]
        return frozenset(np.isin(kinds, (CONTROL, UNKNOWN)).any(axis=0).nonzero()[0].tolist())

    def named(self, text: str) -> int | None:
        """The token whose text is exactly `text`, None without one."""
        token = self.tokenizer.vocab.ids.get(text)
        if token is None:
            found = self.tokenizer.encode(text, parse_special=True)
            token = found[0] if len(found) == 1 else None
        return token if token is not None and token < self.n_known else None

    def alike(self, token: int) -> list[int]:
        """Tokens of the same bytes, where they are text: of an "A" its byte token too."""
        if token in self.special:
            return []
        data = self.bytes_of[token]
        return [other for other, bytes_ in enumerate(self.bytes_of) if bytes_ == data and other not in self.special]

    @cached_property
    def line_ends(self) -> frozenset[int]:
        """Tokens of one or two line ends and nothing else."""
        return frozenset(t for t, data in enumerate(self.bytes_of) if data in _LINE_ENDS and t not in self.special)

    def running_over(self, marker: bytes, begun: int) -> tuple[int, ...]:
        """Tokens that complete `marker`, whose first `begun` bytes are there, and go on behind it with more than
        line ends."""
        key = (marker, begun)
        if key not in self._over:
            if len(self._over) >= _MOST_MARKERS:
                self._over.clear()
            self._over[key] = tuple(self._find_over(marker, begun))
        return self._over[key]

    def _find_over(self, marker: bytes, begun: int) -> Iterator[int]:
        before = marker[:begun]
        for token, data in enumerate(self.bytes_of):
            _, found, behind = (before + data).partition(marker)
            if found and behind and behind not in _LINE_ENDS:
                yield token


class _Wrapper:
    """What llguidance reads of a tokenizer, by the names that it has for it."""

    is_tokenizer_wrapper = True

    def __init__(self, vocabulary: Vocabulary, writer: _Writer) -> None:
        special = vocabulary.special
        self.eos_token_id = vocabulary.ends[0]
        self.bos_token_id = vocabulary.tokenizer.bos
        names = vocabulary.tokenizer.vocab.texts
        self.tokens = [
            names[token].encode("utf-8", "surrogateescape") if token in special else data
            for token, data in enumerate(vocabulary.bytes_of)
        ]
        self.special_token_ids = sorted(special)
        self._writer = writer

    def __call__(self, text: str) -> list[int]:
        return self._writer.tokens(text)


class _Writer:
    """Writes a text in tokens as the model would; their bytes are always those of the text.

    llguidance takes forced text in these tokens. Where the tokenizer adds or changes something (a space before the
    text, NFC), the longest tokens are taken one after the other.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer, self._n_known = vocabulary.tokenizer, vocabulary.n_known
        self._bytes_of, self._special = vocabulary.bytes_of, vocabulary.special

    def tokens(self, text: str) -> list[int]:
        """Ids of `text`."""
        data = text.encode("utf-8", "surrogateescape")
        ids = self._tokenizer.encode(text)
        if self._is(ids, data):
            return ids
        line = self._tokenizer.encode("\n")
        ids = self._tokenizer.encode("\n" + text)  # no space is put between a line end and what follows
        if ids[: len(line)] == line and self._is(ids[len(line) :], data):
            return ids[len(line) :]
        return self._longest(data)

    def _is(self, ids: Iterable[int], data: bytes) -> bool:
        parts = [self._bytes_of[i] if i < self._n_known and i not in self._special else None for i in ids]
        return None not in parts and b"".join(part for part in parts if part is not None) == data

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {data: t for t, data in reversed([*enumerate(self._bytes_of)]) if data and t not in self._special}

    def _longest(self, data: bytes) -> list[int]:
        most = max(map(len, self._ids), default=0)
        ids: list[int] = []
        at = 0
        while at < len(data):
            lengths = range(min(most, len(data) - at), 0, -1)
            length = next((n for n in lengths if data[at : at + n] in self._ids), 0)
            if not length:  # a byte that no token has: nothing that contains it can be written
                return ids
            ids.append(self._ids[data[at : at + length]])
            at += length
        return ids
