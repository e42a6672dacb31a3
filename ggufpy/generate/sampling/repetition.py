"""How long the repetitions are that a text ends with, kept up as tokens come.

In: tokens one by one, and what ends a repetition. Out: the tokens that would go on with one, and its length. A token
more costs a few passes over the window, whatever the text is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Sequences = Mapping[int, Set[tuple[int, ...]]]  # by its first token, what may follow that to make a breaker


class Text:
    """Token ids that grow at their end."""

    def __init__(self) -> None:
        self._room: Ints = np.empty(256, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, token: int) -> None:
        """One token more. What `ids` gave before stays as it is."""
        if self._count == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._count] = token
        self._count += 1

    @property
    def ids(self) -> Ints:
        """All of them (n,), to read."""
        ids = self._room[: self._count]
        ids.flags.writeable = False
        return ids


class Repetition:
    """What the newest `last_n` tokens of a text (-1: all) end with and had before."""

    def __init__(self, last_n: int) -> None:
        self._last_n = last_n
        self._text = Text()
        self._sequences: Sequences = {}
        self._newest: deque[int] = deque(maxlen=1)  # as many as a breaker may have
        self._breaker = (-1, -1)  # where the latest one begins and ends
        # for each token how many up to it are those that the first `_known` tokens end with
        self._lengths: Ints = np.zeros(256, np.int64)
        self._known = 0

    def break_at(self, sequences: Sequences) -> None:
        """What ends a repetition, ahead of the text."""
        self._sequences = sequences
        longest = max((len(rest) for each in sequences.values() for rest in each), default=0)
        self._newest = deque(maxlen=1 + longest)

    def add(self, token: int) -> None:
        """One token more."""
        self._text.add(token)
        if self._sequences:
            self._newest.append(token)
            self._find_breaker()

    def _find_breaker(self) -> None:
        """Note a breaker that ends here, unless the latest one begins behind its beginning."""
        end, count = len(self._text) - 1, len(self._newest)
        for size in range(count):
            if end - size < self._breaker[0]:
                return
            rest = self._sequences.get(self._newest[-1 - size])
            if rest is not None and tuple(islice(self._newest, count - size, count)) in rest:
                self._breaker = (end - size, end)
                return

    def continued(self, least: int) -> tuple[Ints, Ints]:
        """Ids (m,), each once, of tokens that would go on with a repetition of `least` tokens or more; lengths (m,).

        Those with all of a breaker are not among them.
        """
        nothing = np.empty(0, np.int64)
        count = len(self._text)
        start = 0 if self._last_n < 0 else max(count - self._last_n, 0)
        self._know(start)
        begin, end = self._breaker
        limit = count - 1 - end if begin >= start else count - start
        if count - start <= least or limit < least:
            return nothing, nothing
        lengths = np.minimum(self._lengths[start : count - 1], np.arange(1, count - start))
        lengths = np.minimum(lengths, limit)
        places = np.flatnonzero(lengths >= least)
        ids, which = np.unique(self._text.ids[start + 1 + places], return_inverse=True)
        longest = np.zeros(len(ids), np.int64)
        np.maximum.at(longest, which, lengths[places])
        kept = [i for i, token in enumerate(ids.tolist()) if () not in self._sequences.get(token, ())]
        return ids[kept], longest[kept]

    def _know(self, start: int) -> None:
        """Bring lengths up to the text's end; those before `start` do not matter."""
        count = len(self._text)
        if count > len(self._lengths):
            self._lengths = np.concatenate([self._lengths, np.zeros(count, np.int64)])
        ids, lengths = self._text.ids, self._lengths
        if count - self._known > 1:
            lengths[start : count - 1] = _suffixes(ids[start:count].tolist())
        elif count > self._known:
            same = np.flatnonzero(ids[start : count - 1] == ids[count - 1]) + start
            longer = np.where(same > 0, lengths[same - 1], 0) + 1
            lengths[start:count] = 0
            lengths[same] = longer
        self._known = count


def _suffixes(ids: list[int]) -> list[int]:
    """For each token but the last, how many up to it are those that `ids` ends with.

    The Z algorithm on the text in reverse (Gusfield 1997, 1.4): a stretch that is known to be repeated tells what is
    repeated within it, so no token is compared twice.
    """
    back = ids[::-1]
    count = len(back)
    lengths = [0] * count
    left = right = 0  # the stretch that reaches furthest
    for at in range(1, count):
        known = min(lengths[at - left], right - at) if at < right else 0
        while at + known < count and back[known] == back[at + known]:
            known += 1
        lengths[at] = known
        if at + known > right:
            left, right = at, at + known
    return lengths[:0:-1]
