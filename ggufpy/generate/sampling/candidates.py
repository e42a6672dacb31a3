"""The tokens that may still be drawn, as the steps of the chain hand them on.

They begin as the logits of all tokens, float32 by id, and stay so until a step wants them in order: `sort` is the one
expensive thing here, and sorts no more than must be. From then on they are few, float64, the likeliest first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.generate.sampling.largest import below_top, largest

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_SLACK = 1e-3  # floors and shares are compared in float32 here, and in float64 by the steps whose they are
_ENOUGH = (256, 4096)  # how many candidates are tried to have a share
_LARGE = 1e30  # logits that penalties cannot make infinite


class Candidates:
    """Tokens `ids` with their `logits`, (n,) each; `whole` are the logits of all tokens, (n_vocab,), as they came.

    `floor` is how far below the largest logit no candidate can be drawn (`Cut.floor`); `random` are the numbers of the
    text, for steps that leave something to chance.
    """

    def __init__(self, logits: Floats, random: np.random.Generator, floor: float | None = None) -> None:
        self.whole = logits
        self.logits: NDArray[Any] = logits
        self.random = random
        self._ids: Ints | None = None  # None: token i has logit i
        self._floor = floor
        self._sorted = False
        self._left_out = 0.0  # the probability of what was below the floor, until a step has taken that away

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def ids(self) -> Ints:
        """The token ids, in the order of `logits`."""
        return np.arange(len(self)) if self._ids is None else self._ids

    def keep(self, places: Ints) -> None:
        """Keep those at `places` of the present order, in the order of `places`."""
        self._ids = places if self._ids is None else self._ids[places]
        self.logits = self.logits[places]

    def only(self, token: int) -> None:
        """Leave `token` alone, whether it is a candidate or not."""
        self._ids, self.logits, self._sorted = np.array([token]), np.zeros(1), True

    def first(self, count: int) -> None:
        """Keep the first `count` of sorted candidates."""
        if count < len(self):
            self._left_out = 0.0
            self._ids, self.logits = self.ids[:count], self.logits[:count]

    def first_with(self, share: float, least: int) -> None:
        """Keep the first that have `share` of the probability, of unsorted candidates too; `least` stay."""
        if least > 1:
            self.sort()
        else:
            self.cover(share)
        reached = self.shares().cumsum()
        self.first(max(int(reached.searchsorted(share)) + 1, least))
        if reached[-1] >= share:
            self._left_out = 0.0  # what was left out would go now

    def first_above(self, floor: float, least: int = 1) -> None:
        """Keep those of sorted candidates whose logit is at most -`floor` below the largest; `least` stay."""
        self.first(max(int(np.count_nonzero(self.logits >= self.logits[0] + floor)), least))
        self._left_out = 0.0

    def after(self, count: int) -> None:
        """Drop the first `count` of sorted candidates."""
        self._ids, self.logits = self.ids[count:], self.logits[count:]

    def find(self, tokens: Ints) -> tuple[Ints, Ints]:
        """Places of those of `tokens` (each once) that are candidates: here, and among `tokens`."""
        if self._ids is None:
            which = np.flatnonzero(tokens < len(self))
            return tokens[which], which
        _, places, which = np.intersect1d(self._ids, tokens, assume_unique=True, return_indices=True)
        return places, which

    def change(self, places: Ints, logits: NDArray[Any]) -> None:
        """New logits at `places`; candidates are in the order of their ids then, as before they were sorted."""
        self.logits = self.logits.copy()
        self.logits[places] = logits
        if self._ids is not None:
            self.keep(np.argsort(self._ids))
        self._sorted = False

    def cool(self, temperature: float) -> None:
        """Divide logits by a temperature above 0; the order stays."""
        logits = self.logits.astype(np.float64)
        best = logits[0] if self._sorted else logits.max()
        if abs(best) > _LARGE * temperature:
            logits -= best  # which is 0 then, whatever the temperature is
        self.logits = logits / temperature

    def shares(self) -> NDArray[np.float64]:
        """The probability of each of sorted candidates, (n,)."""
        weights: NDArray[np.float64] = np.exp(self.logits - self.logits.max())
        weights /= weights.sum()
        return weights * (1 - self._left_out) if self._left_out else weights

    def largest(self, count: int) -> NDArray[Any]:
        """The `count` largest logits, largest first; fewer where others are -inf."""
        return self.logits[largest(self.logits, count)]

    def draw(self, weights: NDArray[np.float64] | None = None) -> int:
        """Leave one candidate, drawn by `weights` (n,) or else by probability; returns the place that it had.

        By probability as many are sorted as it takes to reach the one that is drawn.
        """
        at = self.random.random()
        if weights is None:
            self.cover(at)
            weights = self.shares()
        reached = weights.cumsum()
        place = int(reached.searchsorted(at * (reached[-1] + self._left_out), side="right"))
        place = min(place, len(self) - 1)
        self.after(place)
        self.first(1)
        return place

    def cover(self, share: float) -> None:
        """Sort as many candidates as have more than `share` of the probability, or all; others are left out."""
        if self._sorted or self._floor is not None:
            return self.sort()
        best = self.logits.max()
        weights = np.exp(self.logits - best, dtype=np.float32)
        least = (share + _SLACK) * float(weights.sum(dtype=np.float64))
        for count in _ENOUGH:
            if 2 * count < len(self):
                bound = float(below_top(self.logits, count))
                if weights[self.logits >= bound].sum(dtype=np.float64) >= least:
                    self._floor = bound - float(best)
                    break
        return self.sort()

    def sort(self, most: int = 0) -> None:
        """Order candidates, largest logit first, equals by id, unless they are; -inf is left out.

        `most` above 0: no more than so many stay. Else those far below the floor are left out.
        """
        if self._sorted:
            if most:
                self.first(most)
            return
        logits: Floats = self.logits
        if not most and self._floor is not None:
            order = self._above_floor(logits, self._floor)
        else:
            order = largest(logits, most)
        self._sorted, self._floor = True, None  # a step that changes logits may come before the next sort
        self.keep(order)
        self.logits = self.logits.astype(np.float64)

    def _above_floor(self, logits: Floats, floor: float) -> Ints:
        """Places of what is not below the floor, in order; notes the probability of all others."""
        best = float(logits.max())
        places = np.flatnonzero(logits >= best + floor - _SLACK)
        places = places[np.argsort(-logits[places], kind="stable")]
        weights = np.exp(logits - logits.max(), dtype=np.float32)
        whole = weights.sum(dtype=np.float64)
        self._left_out = 1 - float(weights[places].sum(dtype=np.float64) / whole)
        return places
