"""Keys and values of all positions: whatever has been written can be cut, forked and shifted."""

from __future__ import annotations

from ggufpy.support.records import dataclass

from .base import PAGE, Cache, pages_of


@dataclass(frozen=True)
class Kv(Cache):
    """Pages of all positions."""

    @property
    def layers(self) -> str:
        return "layers that see all positions"

    def most(self, positions: int, step: int) -> int:
        return pages_of(positions)

    def end(self, n: int) -> int:
        return pages_of(n)

    def written(self, n: int, count: int, step: int) -> range:
        return range(n // PAGE, pages_of(n + count))

    def reach(self, pages: int) -> int:
        return pages * PAGE

    def first(self, n: int) -> int:
        return 0

    def rewinds_to(self, since: int, n: int) -> int:
        return 0


@dataclass(frozen=True)
class FixedKv(Kv):
    """Keys that something has changed after they were turned: they cannot be turned on to other positions."""

    shifts = False

    @property
    def layers(self) -> str:
        return "layers that change keys after they have been turned"
