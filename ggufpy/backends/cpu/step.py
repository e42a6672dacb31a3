"""What a step is made of, in memory that kernels read: how many rows, where each goes, and which belong together."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufpy.kernels.attention import RECORD, RECORDS

from .memory import Region

FEW = 4  # spans that are quicker one by one than all together: 22 µs of a step of one row
NOWHERE = -1  # the position of a row that only fills up


@dataclass(frozen=True)
class Span:
    """Consecutive rows of one sequence: the first, how many, the first's position and the address of the page table.

    `tiled`: attention takes them by tiles.
    """

    row: int
    count: int
    position: int
    table: int
    tiled: bool = False

    @property
    def kind(self) -> int:
        """Single rows, runs, and what is tiled stand in this order."""
        return 2 if self.tiled else int(self.count > 1)


class Step:
    """Numbers of one step of at most `rows` rows. All addresses that kernels get from it are constant."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._counts = Region(64, "the step's counts")
        self._places = Region(16 * rows, "the step's places")
        self._spans = Region(RECORDS + 8 * RECORD * rows, "the step's spans")
        self._sources = Region(8 * rows, "the step's rows")
        self._count_view = self._counts.view(np.int64, 5)
        self.places: NDArray[np.int64] = self._places.view(np.int64, rows, 2)
        self._span_view = self._spans.view(np.int64, RECORDS // 8 + RECORD * rows)
        self.sources: NDArray[np.int64] = self._sources.view(np.int64, rows)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Rows of the step: all up to the last, exact ones, bulk ones."""
        return int(self._count_view[0]), int(self._count_view[1]), int(self._count_view[3])

    def spans(self, tiled: bool) -> NDArray[np.int64]:
        """Of every span that is tiled, or of the others, the first row, how many, and the first's position: (n, 3)."""
        first = RECORDS // 8
        singles, runs, others = self._span_view[:first].tolist()
        count = singles + runs + others
        found = self._span_view[first : first + RECORD * count].reshape(count, RECORD)[:, :3]
        return found[singles + runs :] if tiled else found[: singles + runs]

    @property
    def all_rows(self) -> int:
        """The address of the number of rows."""
        return self._counts.at(0, 8)

    @property
    def exact_rows(self) -> int:
        """The address of the number of rows, from the first, whose products do not depend on their company."""
        return self._counts.at(8, 8)

    @property
    def bulk_rows(self) -> int:
        """The address of the first of the other rows, and of how many there are."""
        return self._counts.at(16, 16)

    @property
    def places_address(self) -> int:
        return self._places.at(0, self._places.nbytes)

    @property
    def spans_address(self) -> int:
        return self._spans.at(0, self._spans.nbytes)

    @property
    def sources_address(self) -> int:
        """The rows of another step that this one's are copies of."""
        return self._sources.at(0, self._sources.nbytes)

    def set_rows(self, exact: int, bulk_first: int, bulk: int) -> None:
        """Rows of the next step: `exact` from 0, and `bulk` from `bulk_first`. Raises ValueError for too many."""
        rows = bulk_first + bulk if bulk else exact
        if not 0 < rows <= self._rows or exact < 0 or bulk < 0 or (bulk and bulk_first < exact):
            raise ValueError(f"a step of {exact} rows and {bulk} from {bulk_first}, of {self._rows}")
        self._count_view[:4] = (rows, exact, bulk_first, bulk)

    def set_spans(self, spans: Items[Span], parts: NDArray[np.int64]) -> None:
        """By kind, single rows each with the address of its parts. Rows of no span go nowhere."""
        kinds = [span.kind for span in spans]
        if kinds != sorted(kinds) or len(parts) != kinds.count(0):
            raise ValueError(f"spans of kinds {kinds} with {len(parts)} parts")
        first = RECORDS // 8
        self._span_view[:first] = [kinds.count(kind) for kind in range(3)]
        records = np.array([(span.row, span.count, span.position, span.table, 0) for span in spans], np.int64)
        row, count, position, table = records.T[:4]
        if row.min() < 0 or (row + count).max() > self._rows:
            raise ValueError(f"spans of {count.tolist()} rows from {row.tolist()}, of {self._rows}")
        records[: len(parts), 4] = parts
        self._span_view[first : first + records.size] = records.reshape(-1)
        self.places[:, 0] = NOWHERE
        if len(spans) < FEW:
            for span in spans:
                rows = self.places[span.row : span.row + span.count]
                rows[:, 0] = np.arange(span.position, span.position + span.count)
                rows[:, 1] = span.table
            return
        inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        rows = np.repeat(row, count) + inside
        self.places[rows, 0] = np.repeat(position, count) + inside
        self.places[rows, 1] = np.repeat(table, count)
