"""What every kind of cache tells about itself."""

from __future__ import annotations

from ggufpy.backends.cpu.kernels.kv_types import PAGE

__all__ = ["PAGE", "Cache", "pages_of"]


def pages_of(positions: int) -> int:
    """How many pages so many positions take."""
    return -(-positions // PAGE)


class Cache:
    """A kind of cache. Two that are equal are one group of layers.

    A sequence has a list of pages by number of page. `n` is how many positions it has, `since` the first of them that
    is still held.
    """

    shifts = True  # whether positions in the middle can be forgotten
    checkpoints = False  # whether a way back further than `rewinds_to` takes a checkpoint

    @property
    def layers(self) -> str:
        """What layers are called, in messages."""
        raise NotImplementedError

    def most(self, positions: int, step: int) -> int:
        """Pages that a sequence of at most `positions` holds at once, in steps of at most `step` tokens."""
        raise NotImplementedError

    def end(self, n: int) -> int:
        """The page behind the last that n positions reach."""
        raise NotImplementedError

    def written(self, n: int, count: int, step: int) -> range:
        """The pages that `count` more positions are written to, as far as they are wanted at once."""
        raise NotImplementedError

    def reach(self, pages: int) -> int:
        """Positions that so many pages have room for."""
        raise NotImplementedError

    def first(self, n: int) -> int:
        """The first page that is still wanted, with a page to go back."""
        raise NotImplementedError

    def rewinds_to(self, since: int, n: int) -> int:
        """The least number of positions, from 1 to n, that can be gone back to; 0 where any can."""
        raise NotImplementedError

    def suffices(self, since: int, n: int) -> bool:
        """Whether with positions from `since` to n there is all that the next row sees."""
        return since == 0
