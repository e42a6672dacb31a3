"""What a sequence holds of one group of layers: its pages, and from which position on they have something."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.caches.base import Cache
from ggufpy.errors import GGUFError

from .pages import FORGOTTEN, PAGE, Pages


class Pool(NamedTuple):
    """The pages of a group of layers, and the largest step that is written to them."""

    cache: Cache
    pages: Pages
    step: int


class Move(NamedTuple):
    """Positions that are to move down, the pages that they have then, and the first that is held then."""

    positions: range
    pages: tuple[int, ...]
    since: int


class Holding:
    """`pages[i]` has the positions from i · PAGE on, or is FORGOTTEN; positions before `since` are not held.

    Changes are single assignments: an interrupt finds them made or not.
    """

    def __init__(self, pool: Pool) -> None:
        self.cache, self._all, self._step = pool
        self.pages: tuple[int, ...] = ()
        self.since = 0
        self._listed: tuple[int, ...] = ()
        self._all.register(self)

    def list_into(self, table: NDArray[np.int64]) -> None:
        """Writes the pages to a table, if it does not have them. What is forgotten gets a page that is there."""
        if self._listed is not self.pages:
            held = table[: len(self.pages)]
            held[:] = self.pages
            held[held == FORGOTTEN] = 0
            self._listed = self.pages

    def reserve(self, n: int, count: int) -> int:
        """Makes sure of pages, its own, for what is written behind n positions; how far they reach.

        Gives back what is no longer wanted. Raises GGUFError if there are not enough pages.
        """
        if not n:
            self.since = 0
            if FORGOTTEN in self.pages[:1]:  # an interrupt has left these
                self._assign(())
        self.forget(n)
        written = self.cache.written(n, count, self._step)
        self.own(written.start, written.stop)
        if len(self.pages) < written.stop:
            self._assign((*self.pages, *self._all.take(written.stop - len(self.pages))))
        return self.cache.reach(written.stop)

    def wants(self, n: int, count: int) -> int:
        """Pages that it may take to reserve as many; those that it would give back before are not counted."""
        written = self.cache.written(n, count, self._step)
        copied = 1 if written.start < len(self.pages) else 0  # the last one may be another's too
        return max(written.stop - len(self.pages), 0) + copied

    def forget(self, n: int) -> None:
        """Gives back pages that are no longer wanted with n positions."""
        first = min(self.cache.first(n), len(self.pages))
        if first and self.pages[first - 1] != FORGOTTEN:
            self.since = max(self.since, first * PAGE)
            self._assign((FORGOTTEN,) * first + self.pages[first:])

    def own(self, start: int, stop: int) -> None:
        """From page `start` to `stop`, as far as there are, pages that nobody else holds."""
        for i in range(start, min(stop, len(self.pages))):
            page = self.pages[i]
            if page == FORGOTTEN or self._all.shared(page):
                other = self._all.take(1)[0] if page == FORGOTTEN else self._all.copied(page)
                self._assign((*self.pages[:i], other, *self.pages[i + 1 :]))

    def keep(self, n: int) -> None:
        """Gives back pages behind n positions."""
        end = self.cache.end(n)
        if len(self.pages) > end:
            self._assign(self.pages[:end])
        if not n:
            self.since = 0

    def share(self, other: Holding, n: int) -> None:
        """Holds what another does of the first n positions, in place of what it had."""
        self.since = max(self.since, other.since)
        self._assign(other.pages[: other.cache.end(n)])
        self.since = other.since if n else 0

    def wanted(self, n: int) -> tuple[int, tuple[int, ...]]:
        """The first position that is still wanted of the first n, and the pages from its own on."""
        since = max(self.since, self.cache.first(n) * PAGE)
        return since, self.pages[since // PAGE : self.cache.end(n)]

    def begin(self, since: int, n: int) -> tuple[int, ...]:
        """Holds new pages for positions `since` to n, in place of what it had; those pages."""
        first = since // PAGE
        pages = self._all.take(max(self.cache.end(n) - first, 0))
        self.since = since
        self._assign((FORGOTTEN,) * first + pages)
        return pages

    def moved(self, keep: int, drop: int, n: int) -> Move:
        """What becomes of n positions when `drop` of them behind the first `keep` are forgotten.

        Raises GGUFError where not all that the next row sees is held then. Pages that are to be written are its own
        afterwards; nothing else has changed.
        """
        if not self.cache.shifts:
            raise GGUFError(f"{self.cache.layers} cannot forget what is in the middle of a text")
        low = max(self.since, keep + drop)
        since = self.since if self.since <= keep else low - drop
        if self.cache.rewinds_to(since, n - drop) > n - drop:
            raise GGUFError(
                f"cannot forget {drop} of {n} positions behind the first {keep}: {self.cache.layers} do not hold those "
                f"before {self.since} any more, and what is left is less; forget fewer, or keep none"
            )
        if self.since <= keep:
            self.own(keep // PAGE, len(self.pages))
            return Move(range(low, n), self.pages, since)
        # Pages go down by whole pages, what is in them by the rest: page i + by becomes page i.
        by, first = drop // PAGE, (low - drop) // PAGE
        self.own(first + by, len(self.pages))
        return Move(range(low, n), (FORGOTTEN,) * first + self.pages[first + by :], since)

    def become(self, move: Move) -> None:
        """Holds what `moved` has said."""
        self.since = max(self.since, move.since)
        self._assign(move.pages)
        self.since = move.since

    def _assign(self, pages: tuple[int, ...]) -> None:
        self._all.assign(self, pages)
