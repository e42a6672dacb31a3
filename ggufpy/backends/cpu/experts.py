"""Memory for lists of rows by expert, which `kernels/route.py` makes and products of experts read."""

from __future__ import annotations

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.kernels.route import PAIR

from .memory import Region


class ExpertLists:
    """Lists of at most `rows` rows that choose `count` of `experts` each."""

    def __init__(self, experts: int, count: int, rows: int) -> None:
        self.scores_stride = -(-experts // BLOCK) * BLOCK * 4
        self._tally, self._starts = Region(16, "counts of experts"), Region(8 * (experts + 2), "lists of experts")
        self._pairs = Region(PAIR * rows * count, "lists of experts")
        self._scores = Region(rows * self.scores_stride, "scores of experts")

    def addresses(self, experts: int, count: int, rows: int) -> dict[str, int]:
        """What kernels that read the lists are given. Raises ValueError for lists that do not fit."""
        starts, pairs = self._starts.at(0, 8 * (experts + 2)), self._pairs.at(0, PAIR * rows * count)
        return {"starts_ptr": starts, "pairs_ptr": pairs}

    def made_at(self, rows: int) -> dict[str, int]:
        """What the kernel that makes them is given too."""
        return {
            "tally_ptr": self._tally.at(0, 16), "scores_ptr": self._scores.at(0, rows * self.scores_stride),
            "scores_stride": self.scores_stride,
        }  # fmt: skip

    @property
    def tally(self) -> tuple[int, int]:
        """Experts that had rows, added up over all times that lists were made, and how many these were."""
        active, times = self._tally.view("i8", 2).tolist()
        return active, times
