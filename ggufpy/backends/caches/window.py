"""Keys and values of the latest positions: pages are given back as they fall behind the window.

A row at position p sees max(p + 1 - window, 0) to p. With window 512 and 5,000 positions, the next row sees 4,489 and
up; with a page (128) to go back, pages from position 4,361 on are held, which are those from 4,352 = 34 · 128.
"""

from __future__ import annotations

from ggufpy.support.records import dataclass

from .base import PAGE, pages_of
from .kv import Kv


@dataclass(frozen=True)
class WindowKv(Kv):
    """Pages of the window, of the step that is written, and of a page behind the window.

    What a step has written can be taken back, and before it a page of positions. Further back the window of the next
    row is no longer there: that takes a checkpoint.
    """

    window: int
    checkpoints = True

    @property
    def layers(self) -> str:
        return f"layers that see {self.window} positions"

    def most(self, positions: int, step: int) -> int:
        """What `first` keeps and a step writes, wherever pages begin; and one, for `Sequence.shift`."""
        held = self.window - 1 + PAGE + step
        return min(pages_of(held + PAGE - 1) + 1, pages_of(positions))

    def written(self, n: int, count: int, step: int) -> range:
        return super().written(n, min(count, step), step)

    def first(self, n: int) -> int:
        return max(n + 1 - self.window - PAGE, 0) // PAGE

    def rewinds_to(self, since: int, n: int) -> int:
        return since + self.window - 1 if since else 0

    def suffices(self, since: int, n: int) -> bool:
        return since <= max(n + 1 - self.window, 0)
