"""Logits of a text by position, as far as they are known.

In: rows, as they are computed. Out: rows of the same text, or of a longer or shorter one that shares its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.runtime.prefixes import common

Floats = NDArray[np.float32]


class Scores:
    """Rows (n_vocab,) behind the tokens of one text: those from `first` on. Threads may use it together."""

    def __init__(self, n_vocab: int) -> None:
        self._lock = Lock()
        self._first = 0
        self._text: list[int] = []
        self._none: Floats = np.empty((0, n_vocab), np.float32)
        self._rows = self._none

    def clear(self) -> None:
        """Nothing is known, and no memory is held."""
        with self._lock:
            self._text, self._first, self._rows = [], 0, self._none

    def only(self, text: Sequence[int], row: Floats) -> None:
        """The row behind the last token of a text is known, and no other."""
        with self._lock:
            self._text, self._first, self._rows = list(text), len(text) - 1, row[None]

    def add(self, text: Sequence[int], at: int, rows: Floats) -> None:
        """The rows behind tokens from number `at` of a text on. Those before stay, if they are of the same text."""
        with self._lock:
            known = common(self._text, text[:at])
            if known < at or known < self._first:  # what is between is not known
                self._first, known = at, at
            end = at + len(rows)
            self._reserve(end - self._first, known - self._first)
            self._rows[at - self._first : end - self._first] = rows
            self._text = list(text[:end])

    def rows(self, text: Sequence[int], first: int) -> Floats | None:
        """The rows behind tokens from number `first` to the end of a text, where all are known.

        They stay as they are until rows of another text are added.
        """
        with self._lock:
            if first < self._first or len(text) > len(self._text) or self._text[: len(text)] != list(text):
                return None
            return self._rows[first - self._first : len(text) - self._first]

    def _reserve(self, count: int, kept: int) -> None:
        """Room for so many rows; the first `kept` stay."""
        if count <= len(self._rows):
            return
        before = self._rows
        size = max(count, 2 * len(before) if kept else 0)
        try:
            self._rows = np.empty((size, before.shape[1]), np.float32)
        except MemoryError:
            raise GGUFError(
                f"not enough memory for the logits of {size:,} tokens: load the model without logits_all, or shorten "
                "the text"
            ) from None
        self._rows[:kept] = before[:kept]
