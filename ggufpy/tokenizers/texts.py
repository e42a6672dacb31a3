"""The bytes of all tokens of a vocabulary in one piece, to be searched in: which tokens hold a text, or end with one.

In: a tokenizer. Out: sets of ids. Reading all tokens takes some tenths of a second for 150,000 of them and is done
once; what was searched for is kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_KEPT = 256  # texts whose tokens are kept


class Tokens(Protocol):
    """What tokens stand for."""

    @property
    def n_vocab(self) -> int: ...
    def token_bytes(self, token: int, special: bool = True) -> bytes: ...


class TokenTexts:
    """What tokens stand for, control tokens their own texts; safe to share between threads."""

    def __init__(self, tokens: Tokens) -> None:
        pieces = [tokens.token_bytes(token) for token in range(tokens.n_vocab)]
        self._data = np.frombuffer(b"".join(pieces), np.uint8)
        self._ends: NDArray[np.int64] = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        self.containing = lru_cache(_KEPT)(self._containing)
        self.ending = lru_cache(_KEPT)(self._ending)

    def _containing(self, text: bytes) -> frozenset[int]:
        """Tokens that have all of `text`, which is not empty, in them."""
        at = np.flatnonzero(self._data == text[0])
        for i, byte in enumerate(text[1:], 1):
            at = at[at + i < len(self._data)]
            at = at[self._data[at + i] == byte]
        tokens = np.searchsorted(self._ends, at, side="right")
        return frozenset(tokens[at + len(text) <= self._ends[tokens]].tolist())

    def _ending(self, text: bytes) -> frozenset[int]:
        """Tokens that end with `text`, which is not empty."""
        sizes = np.diff(self._ends, prepend=0)
        tokens = np.flatnonzero(sizes >= len(text))
        for i, byte in enumerate(reversed(text), 1):
            tokens = tokens[self._data[self._ends[tokens] - i] == byte]
        return frozenset(tokens.tolist())
