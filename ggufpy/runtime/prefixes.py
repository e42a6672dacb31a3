"""Which of many texts begins as a new one does: found by hashes of whole pages, then token by token.

The hash of a page is of its tokens and of the hash of the page before it, so that equal hashes stand for equal texts
from the beginning on. A lookup hashes the new text once; texts that share many pages with it are not read for them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from collections.abc import Sequence as Items
from typing import Generic, TypeVar

from .pages import PAGE

T = TypeVar("T", bound=Hashable)
START = 0  # the hash of no page


def _chain(tokens: Items[int], last: int = START, page: int = 0) -> Iterator[int]:
    """The hashes of whole pages from `page` on, `last` being that of the page before."""
    while (page + 1) * PAGE <= len(tokens):
        last = hash((last, *tokens[page * PAGE : (page + 1) * PAGE]))
        yield last
        page += 1


class Prefixes(Generic[T]):
    """Texts by owner. A text may grow; it is added and grown with all of its tokens."""

    def __init__(self) -> None:
        self._texts: dict[T, Items[int]] = {}
        self._chains: dict[T, list[int]] = {}
        self._owners: dict[int, dict[T, None]] = {START: {}}  # by the hash of a page: whose texts have it

    def __len__(self) -> int:
        return len(self._texts)

    def grow(self, owner: T, tokens: Items[int]) -> None:
        """The owner's text is now this one, which begins as before."""
        chain = self._chains.setdefault(owner, [])
        self._texts[owner] = tokens
        self._owners[START][owner] = None
        for page in _chain(tokens, chain[-1] if chain else START, len(chain)):
            chain.append(page)
            self._owners.setdefault(page, {})[owner] = None

    def remove(self, owner: T) -> None:
        """Forgets a text, if there is one."""
        self._texts.pop(owner, None)
        for page in (START, *self._chains.pop(owner, [])):
            owners = self._owners.get(page, {})
            owners.pop(owner, None)
            if not owners and page != START:
                self._owners.pop(page, None)

    def longest(self, tokens: Items[int]) -> tuple[T, int] | None:
        """An owner whose text has most of the tokens in common with these from the beginning on, and how many.

        None if no text shares any. The one that was added first, of several.
        """
        pages, last = 0, START
        for page in _chain(tokens):
            if page not in self._owners:
                break
            pages, last = pages + 1, page
        best, most = None, 0
        for owner in self._owners[last]:
            rest = slice(pages * PAGE, (pages + 1) * PAGE)  # a whole page more would have been found
            count = pages * PAGE + common(self._texts[owner][rest], tokens[rest])
            if count > most:
                best, most = owner, count
        if best is None:
            return None
        text = self._texts[best][:most]
        if list(text) != list(tokens[:most]):  # hashes that are equal by accident
            most = common(text, tokens)
        return (best, most) if most else None


def common(a: Items[int], b: Items[int]) -> int:
    """How many tokens are the same from the beginning on."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
