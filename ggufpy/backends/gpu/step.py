"""What a step says to kernels, in device memory at addresses that stay: positions and page tables of its rows.

The host writes all of it with one upload, so that work which was recorded once serves every step of its shape.
"""

from __future__ import annotations

from ggufpy.support.records import dataclass

TILE = 64  # rows of one sequence that attend together, at most, in bulk


@dataclass(frozen=True)
class StepShape:
    """Rows of a step: `few` exact ones from row 0 on, then `many` in bulk from row `first` on, which come from `spans`
    pieces of texts. Work is made once for each shape."""

    few: int
    first: int = 0
    many: int = 0
    spans: int = 0

    @property
    def end(self) -> int:
        """The row behind the last."""
        return max(self.few, self.first + self.many)

    @property
    def tiles(self) -> int:
        """How many tiles of rows attend together in bulk, at most."""
        return -(-self.many // TILE) + self.spans if self.many else 0


@dataclass(frozen=True)
class StepAddresses:
    """Of int32 by row: its position, and how many positions its sequence has behind this step; where its page table
    begins in `pages` (`tables` has a row of them for each group of layers, `table_stride` entries apart).
    `tiles` has pairs (first row, count) of rows that attend together, `tile_count` how many there are.
    `sources` says which rows of the body a head's rows are, `scales` (float32, a row of `table_stride` for each
    adapter) how much an adapter counts.
    """

    positions: int
    ends: int
    tables: int
    table_stride: int
    pages: int
    tiles: int
    tile_count: int
    sources: int
    scales: int
