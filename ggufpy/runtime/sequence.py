"""One sequence of tokens: how many positions it has, and in which pages they are."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.kernels.kv_types import CHUNK

from .cache import KvCache


class Sequence:
    """Made by `Engine.sequence`. Pages that another sequence holds too are copied before they are written.

    `guard` is entered around every change, `move` copies positions down by a distance (`Engine`). A sequence that is
    dropped gives its pages back. Changes are single assignments: an interrupt finds them made or not.
    """

    def __init__(self, cache: KvCache, guard: Callable[[], Any], move: Callable[[Sequence, range, int], None]) -> None:
        self._cache, self._guard, self._move = cache, guard, move
        self.pages: list[int] = []
        self._table: NDArray[np.int64] = np.zeros(cache.shape.chunks, np.int64)
        self.n_past = 0
        self.closed = False
        cache.register(self)

    @property
    def table(self) -> int:
        """The address of the page of every chunk."""
        self._table[: len(self.pages)] = self.pages
        return int(self._table.ctypes.data)

    def belongs_to(self, cache: KvCache) -> bool:
        return self._cache is cache and not self.closed

    def reserve(self, count: int) -> None:
        """Makes sure of pages, its own, for `count` more positions. Raises GGUFError if there are not enough."""
        if self.n_past + count > self._cache.shape.positions:
            raise GGUFError(
                f"the context is full: {self.n_past} tokens and {count} more exceed {self._cache.shape.positions}; "
                "use a longer context (-c, n_ctx) or a shorter text"
            )
        if self.n_past % CHUNK:
            self._own(self.n_past // CHUNK)
        missing = _pages(self.n_past + count) - len(self.pages)
        if missing > 0:
            self.pages = [*self.pages, *self._cache.take(missing)]

    def wants(self, count: int) -> int:
        """Pages that `count` more positions may take."""
        grown = _pages(self.n_past + count) - len(self.pages)
        return max(grown, 0) + (1 if self.n_past % CHUNK else 0)  # the last one may have to be copied

    def _own(self, first: int) -> None:
        """From page `first` on, pages that nobody else holds."""
        for i in range(first, len(self.pages)):
            self.pages[i] = self._cache.own(self.pages[i])

    def _resize(self, count: int) -> None:
        """Gives back pages beyond `count`."""
        if len(self.pages) > count:
            self.pages = self.pages[:count]

    def advance(self, count: int) -> None:
        """`count` positions have been written."""
        self.n_past += count

    def truncate(self, n: int) -> None:
        """Keeps the first n positions. Raises GGUFError if there are fewer."""
        with self._guard():
            if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 <= n <= self.n_past:
                raise GGUFError(f"cannot keep {n!r} positions of {self.n_past}")
            self.n_past = operator.index(n)
            self._resize(_pages(self.n_past))

    def fork(self, n: int) -> Sequence:
        """A new sequence that begins with the first n positions of this one; their pages are shared."""
        with self._guard():
            if self.closed or not 0 <= n <= self.n_past:
                raise GGUFError(f"cannot begin with {n!r} positions of {self.n_past}")
            other = Sequence(self._cache, self._guard, self._move)
            other.pages, other.n_past = self.pages[: _pages(n)], n
            return other

    def shift(self, keep: int, drop: int) -> None:
        """Forgets positions keep to keep + drop; those after them move down. Raises GGUFError if there are fewer."""
        with self._guard():
            if min(keep, drop) < 0 or keep + drop > self.n_past:
                raise GGUFError(f"cannot keep {keep} positions of {self.n_past} and drop {drop}")
            if drop:
                self._own(keep // CHUNK)
                end = self.n_past
                self.n_past = keep  # an interrupt leaves what has not been touched
                self._move(self, range(keep + drop, end), drop)
                self.n_past = end - drop
                self._resize(_pages(self.n_past))

    def close(self) -> None:
        """Gives its pages back. It cannot be used afterwards; closing twice is fine."""
        with self._guard():
            self.closed, self.pages, self.n_past = True, [], 0


def _pages(positions: int) -> int:
    return -(-positions // CHUNK)
