"""One sequence of tokens: how many positions it has, and what it holds of them for each group of layers.

A sequence can do what all of its groups can; what one of them cannot is refused before anything changes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.program import PageTable, page_table
from ggufpy.errors import GGUFError

from .holding import Holding, Pool
from .pages import pages_of

Ints = NDArray[np.int64]
Shift = Callable[[int, tuple[Ints, Ints], range, int], None]


class Sequence:
    """Made by `Engine.sequence`. Pages that another sequence holds too are copied before they are written.

    `positions` is how many it can have; `guard` is entered around every change. `move(group, tables, positions, drop)`
    moves what is at some positions down, from the pages of one table to those of the other (`backends/program.py`). A
    sequence that is dropped gives its pages back. Changes are single assignments: an interrupt finds them made or not.
    """

    def __init__(self, pools: Items[Pool], positions: int, guard: Callable[[], Any], move: Shift) -> None:
        self._pools, self._positions, self._guard, self._move = pools, positions, guard, move
        self._holdings = [Holding(pool) for pool in pools]
        self._table = page_table(len(pools), pages_of(positions))
        self._ready = 0  # up to which position there are pages of its own to write to
        self._listed = True  # whether the table has them
        self.n_past = 0
        self.scales: tuple[float, ...] = ()  # of adapters, the same for all of its tokens
        self.closed = False

    @property
    def table(self) -> PageTable:
        """(groups, pages): the page of every PAGE positions; the same array always, right until the next change."""
        if not self._listed:
            for holding, row in zip(self._holdings, self._table, strict=True):
                holding.list_into(row)
            self._listed = True
        return self._table

    def belongs_to(self, pools: Items[Pool]) -> bool:
        return self._pools is pools and not self.closed

    def reserve(self, count: int) -> None:
        """Makes sure of pages, its own, for `count` more positions. Raises GGUFError if there are not enough.

        Where windows give pages back as a text goes on, those of one step are enough.
        """
        end = self.n_past + count
        if end <= self._ready:
            return
        if end > self._positions:
            raise GGUFError(
                f"the context is full: {self.n_past} tokens and {count} more exceed {self._positions}; "
                "use a longer context (-c, n_ctx) or a shorter text"
            )
        self._change()
        reach = [holding.reserve(self.n_past, count) for holding in self._holdings]
        self._ready = min([self._positions, *reach])

    def _change(self) -> None:
        """Its pages are about to change."""
        self._ready, self._listed = 0, False

    def wants(self, count: int) -> int:
        """Pages that `count` more positions may take, in the group that takes most."""
        return max((holding.wants(self.n_past, count) for holding in self._holdings), default=0)

    def advance(self, count: int) -> None:
        """`count` positions have been written."""
        self.n_past += count

    def rewinds_to(self) -> int:
        """The least number of positions, but for 0, that it can be cut to or forked at; 0 where any will do."""
        least = max((holding.cache.rewinds_to(holding.since, self.n_past) for holding in self._holdings), default=0)
        return min(least, self.n_past)

    def keepable(self, n: int) -> int:
        """n, if it can be cut to or forked at n positions, or 0, which is always possible."""
        return n if self.rewinds_to() <= n <= self.n_past else 0

    @property
    def needs_checkpoints(self) -> bool:
        """Whether there are positions that only a checkpoint leads back to, now or later."""
        return any(holding.cache.checkpoints for holding in self._holdings)

    def _check(self, n: object, what: str) -> int:
        """A number of positions that it can have again. Raises GGUFError for others."""
        if self.closed or isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 <= n <= self.n_past:
            raise GGUFError(f"cannot {what} {n!r} positions of {self.n_past}")
        count = operator.index(n)
        if count and count < (least := self.rewinds_to()):
            layers = next(
                holding.cache.layers for holding in self._holdings
                if holding.cache.rewinds_to(holding.since, self.n_past) > count
            )  # fmt: skip
            raise GGUFError(
                f"cannot {what} {count} positions of {self.n_past}: {layers} have forgotten what is before; "
                f"0 is possible, and {least} to {self.n_past}"
            )
        return count

    def truncate(self, n: int) -> None:
        """Keeps the first n positions. Raises GGUFError if there are fewer, or for less than `rewinds_to` but 0."""
        with self._guard():
            count = self._check(n, "keep")
            self._change()
            self.n_past = count
            for holding in self._holdings:
                holding.keep(count)

    def fork(self, n: int) -> Sequence:
        """A new sequence that begins with the first n positions of this one; their pages are shared.

        Of a windowed group it holds the window behind n. Raises GGUFError as `truncate` does.
        """
        with self._guard():
            count = self._check(n, "begin with")
            other = Sequence(self._pools, self._positions, self._guard, self._move)
            self._ready = 0  # what it would write to is shared
            other._change()
            for holding, its in zip(self._holdings, other._holdings, strict=True):
                its.share(holding, count)
            other.n_past, other.scales = count, self.scales
            return other

    def wanted(self, n: int) -> list[tuple[int, tuple[int, ...]]]:
        """Of each group, the first position that is still wanted of the first n, and the pages from its own on.

        Raises GGUFError as `truncate` does.
        """
        count = self._check(n, "save")
        return [holding.wanted(count) for holding in self._holdings]

    def begin(self, since: Items[int], n: int) -> list[tuple[int, ...]]:
        """Pages to write positions `since` (of each group) to n to, in place of what it held; then `advance` by n."""
        self._change()
        self.n_past = 0
        return [holding.begin(first, n) for holding, first in zip(self._holdings, since, strict=True)]

    def checkpoint(self) -> Sequence:
        """A fork of all that there is now, for `restore`. It holds its pages until it is closed or dropped."""
        return self.fork(self.n_past)

    def restore(self, checkpoint: Sequence) -> None:
        """Becomes again what it was when the checkpoint was made, which can be restored again and from others too.

        Raises GGUFError for one that is closed or of another model.
        """
        with self._guard():
            if self.closed or not checkpoint.belongs_to(self._pools):
                raise GGUFError("the checkpoint has been closed, or belongs to another model")
            self._change()
            checkpoint._ready = 0  # what it would write to is shared
            count = checkpoint.n_past
            self.n_past = 0  # an interrupt leaves nothing
            for holding, its in zip(self._holdings, checkpoint._holdings, strict=True):
                holding.share(its, count)
            self.n_past = count

    def shift(self, keep: int, drop: int) -> None:
        """Forgets positions keep to keep + drop; those after them move down.

        Raises GGUFError if there are fewer, or where layers cannot do so: then nothing has changed. What a windowed
        group has forgotten of the first `keep` stays forgotten.
        """
        with self._guard():
            if min(keep, drop) < 0 or keep + drop > self.n_past:
                raise GGUFError(f"cannot keep {keep} positions of {self.n_past} and drop {drop}")
            if not drop:
                return
            self._change()
            end = self.n_past
            moves = [holding.moved(keep, drop, end) for holding in self._holdings]
            whole = all(holding.since <= keep for holding in self._holdings)
            source = self.table.copy()
            self.n_past = keep if whole else 0  # an interrupt leaves what has not been touched
            self._change()
            for holding, move in zip(self._holdings, moves, strict=True):
                holding.become(move)
            target = self.table
            for group, move in enumerate(moves):
                self._move(group, (source[group], target[group]), move.positions, drop)
            self.n_past = end - drop
            for holding in self._holdings:
                holding.keep(self.n_past)

    def close(self) -> None:
        """Gives its pages back. It cannot be used afterwards; closing twice is fine."""
        with self._guard():
            self._change()
            self.closed, self.n_past = True, 0
            for holding in self._holdings:
                holding.keep(0)
