"""What a recurrent layer has made of everything so far: of a fixed size, written anew by every step.

It is one page, so that forks share it until one of them goes on. There is no way back but to a checkpoint.
"""

from __future__ import annotations

import sys

from ggufpy.support.records import dataclass

from .base import Cache


@dataclass(frozen=True)
class State(Cache):
    """One page for any number of positions."""

    shifts = False
    checkpoints = True

    @property
    def layers(self) -> str:
        return "recurrent layers"

    def most(self, positions: int, step: int) -> int:
        return 1

    def end(self, n: int) -> int:
        return min(n, 1)

    def written(self, n: int, count: int, step: int) -> range:
        return range(1)

    def reach(self, pages: int) -> int:
        return sys.maxsize if pages else 0

    def first(self, n: int) -> int:
        return 0

    def rewinds_to(self, since: int, n: int) -> int:
        return n
