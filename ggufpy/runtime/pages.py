"""Pages of a group of layers: who has which. What is in them, and where, the backend knows.

A page is room for PAGE positions in every layer of the group. Several sequences may have the same one; it is copied
before one of them writes to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from ggufpy.backends.caches.base import PAGE, pages_of
from ggufpy.errors import GGUFError

__all__ = ["FORGOTTEN", "PAGE", "Owner", "Pages", "pages_of"]

FORGOTTEN = -1  # in the place of a page that is held no more


class Owner(Protocol):
    """What holds pages: a sequence, by group. FORGOTTEN stands for none."""

    pages: tuple[int, ...]

    def __hash__(self) -> int: ...


def _is_page(page: int) -> bool:
    return page != FORGOTTEN


class Pages:
    """`count` pages, each with the number of its owners; `copy(source, target)` copies one.

    Counts follow what owners list. An interrupt in the middle of a change, or an owner that is dropped, leaves them to
    be counted anew.
    """

    def __init__(self, count: int, copy: Callable[[int, int], None]) -> None:
        self.count, self._copy = count, copy
        self._owners: weakref.WeakSet[Owner] = weakref.WeakSet()
        self._users: list[int] = []
        self._free: dict[int, None] = {}  # pages that belong to nobody; those used first are last
        self._changing, self._dropped = True, False  # whether counts may be wrong, and whether an owner is gone

    def register(self, owner: Owner) -> None:
        """From now on the owner's pages are taken, until it has none or is gone."""
        self._owners.add(owner)
        weakref.finalize(owner, self._forget).atexit = False

    def _forget(self) -> None:
        self._dropped = True

    def _count(self) -> None:
        """Makes sure of the counts."""
        if not (self._changing or self._dropped):
            return
        self._dropped = False  # before counting, so that an owner dropped meanwhile is noticed
        self._users = [0] * self.count
        for owner in self._owners:
            for page in filter(_is_page, owner.pages):
                self._users[page] += 1
        self._free = {page: None for page in reversed(range(self.count)) if not self._users[page]}
        self._changing = False

    @property
    def free(self) -> int:
        """Pages that belong to nobody."""
        self._count()
        return len(self._free)

    def assign(self, owner: Owner, pages: tuple[int, ...]) -> None:
        """The owner has these pages from now on, in place of those that it had."""
        self._count()
        self._changing = True
        before, owner.pages = owner.pages, pages
        both = min(len(before), len(pages))
        same = next((i for i in range(both) if before[i] != pages[i]), both)
        for page in filter(_is_page, pages[same:]):
            self._free.pop(page, None)
            self._users[page] += 1
        for page in filter(_is_page, before[same:]):
            self._users[page] -= 1
            if not self._users[page]:
                self._free[page] = None
        self._changing = False

    def take(self, count: int) -> tuple[int, ...]:
        """Pages that nobody has, to be assigned. Raises GGUFError if there are fewer."""
        if self.free < count:
            raise GGUFError(
                f"the key/value cache is full: all of its {self.count * PAGE} positions are taken; "
                "end a sequence, or load the model with a longer context (-c, n_ctx) or more sequences (n_parallel)"
            )
        return tuple(islice(reversed(self._free), count))

    def shared(self, page: int) -> bool:
        """Whether a page has several owners: it is not to be written to."""
        self._count()
        return self._users[page] > 1

    def copied(self, page: int) -> int:
        """A page that nobody has, to be assigned, with what is in `page`. Raises GGUFError if there is none."""
        (copy,) = self.take(1)
        self._copy(page, copy)
        return copy
