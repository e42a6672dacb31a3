"""One sequence of tokens: how many positions it has, and in which pages they are."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError

from .pages import PAGE, Pages, pages_of


class Sequence:
    """Made by `Engine.sequence`. Pages that another sequence holds too are copied before they are written.

    `positions` is how many it can have; `guard` is entered around every change, `move` copies positions down by a
    distance (`Engine`). A sequence that is dropped gives its pages back. Changes are single assignments: an interrupt
    finds them made or not.
    """

    def __init__(
        self, pages: Pages, positions: int, guard: Callable[[], Any], move: Callable[[Sequence, range, int], None]
    ) -> None:
        self._all, self._positions, self._guard, self._move = pages, positions, guard, move
        self.pages: tuple[int, ...] = ()
        self._table: NDArray[np.int64] = np.zeros(pages_of(positions), np.int64)
        self._listed: tuple[int, ...] = ()  # what the table holds
        self.n_past = 0
        self.scales: tuple[float, ...] = ()  # of adapters, the same for all of its tokens
        self.closed = False
        pages.register(self)

    @property
    def table(self) -> NDArray[np.int64]:
        """The page of every PAGE positions; the same array always, right until the next change."""
        if self._listed is not self.pages:
            self._table[: len(self.pages)] = self.pages
            self._listed = self.pages
        return self._table

    def belongs_to(self, pages: Pages) -> bool:
        return self._all is pages and not self.closed

    def reserve(self, count: int) -> None:
        """Makes sure of pages, its own, for `count` more positions. Raises GGUFError if there are not enough."""
        if self.n_past + count > self._positions:
            raise GGUFError(
                f"the context is full: {self.n_past} tokens and {count} more exceed {self._positions}; "
                "use a longer context (-c, n_ctx) or a shorter text"
            )
        if self.n_past % PAGE:
            self._own(self.n_past // PAGE)
        missing = pages_of(self.n_past + count) - len(self.pages)
        if missing > 0:
            self._all.assign(self, (*self.pages, *self._all.take(missing)))

    def wants(self, count: int) -> int:
        """Pages that `count` more positions may take."""
        grown = pages_of(self.n_past + count) - len(self.pages)
        return max(grown, 0) + (1 if self.n_past % PAGE else 0)  # the last one may have to be copied

    def _own(self, first: int) -> None:
        """From page `first` on, pages that nobody else holds."""
        for i in range(first, len(self.pages)):
            if self._all.shared(self.pages[i]):
                copy = self._all.copied(self.pages[i])
                self._all.assign(self, (*self.pages[:i], copy, *self.pages[i + 1 :]))

    def _resize(self, count: int) -> None:
        """Gives back pages beyond `count`."""
        if len(self.pages) > count:
            self._all.assign(self, self.pages[:count])

    def advance(self, count: int) -> None:
        """`count` positions have been written."""
        self.n_past += count

    def truncate(self, n: int) -> None:
        """Keeps the first n positions. Raises GGUFError if there are fewer."""
        with self._guard():
            if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 <= n <= self.n_past:
                raise GGUFError(f"cannot keep {n!r} positions of {self.n_past}")
            self.n_past = operator.index(n)
            self._resize(pages_of(self.n_past))

    def fork(self, n: int) -> Sequence:
        """A new sequence that begins with the first n positions of this one; their pages are shared."""
        with self._guard():
            if self.closed or not 0 <= n <= self.n_past:
                raise GGUFError(f"cannot begin with {n!r} positions of {self.n_past}")
            other = Sequence(self._all, self._positions, self._guard, self._move)
            self._all.assign(other, self.pages[: pages_of(n)])
            other.n_past, other.scales = n, self.scales
            return other

    def shift(self, keep: int, drop: int) -> None:
        """Forgets positions keep to keep + drop; those after them move down. Raises GGUFError if there are fewer."""
        with self._guard():
            if min(keep, drop) < 0 or keep + drop > self.n_past:
                raise GGUFError(f"cannot keep {keep} positions of {self.n_past} and drop {drop}")
            if drop:
                self._own(keep // PAGE)
                end = self.n_past
                self.n_past = keep  # an interrupt leaves what has not been touched
                self._move(self, range(keep + drop, end), drop)
                self.n_past = end - drop
                self._resize(pages_of(self.n_past))

    def close(self) -> None:
        """Gives its pages back. It cannot be used afterwards; closing twice is fine."""
        with self._guard():
            self.closed, self.n_past = True, 0
            self._resize(0)
