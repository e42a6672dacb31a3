"""What a step is made of, in memory that kernels read: how many rows, where each goes, and which belong together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.attention import RECORD, RECORDS

from .memory import Region

Ints = NDArray[np.int64]
COUNTS = 32  # bytes of the counts that every step has
NOWHERE = -1  # the position of a row that only fills up


class Span(NamedTuple):
    """Consecutive rows of one sequence: the first one, how many, the first's position, and how they attend."""

    row: int
    rows: int
    position: int
    kind: int  # 0 for a row that is alone, 1 for a run of several, 2 where attention takes them by tiles


class Spans:
    """The spans of a step, and (groups, spans) of the addresses of their page tables.

    They are numbers of Python's, which for the one or few spans of most steps are quicker than arrays.
    """

    def __init__(self, spans: Sequence[Span], tables: Ints) -> None:
        self.all, self.tables = spans, tables

    @property
    def end(self) -> int:
        """The row behind the last."""
        return max(span.row + span.rows for span in self.all)

    @cached_property
    def columns(self) -> Ints:
        """(4, spans): what a Span has."""
        columns: Ints = np.array(self.all, np.int64).T
        return columns

    @cached_property
    def each(self) -> tuple[slice | Ints, Ints, Ints]:
        """Of every row its number, its position and its page tables (groups, rows or 1)."""
        if len(self.all) == 1:  # a slice is quicker
            row, count, start, _ = self.all[0]
            return slice(row, row + count), np.arange(start, start + count), self.tables
        row, count, position, _ = self.columns
        if all(span.rows == 1 for span in self.all):  # a token of each text: `repeat` would let go of Python's lock
            return row, position, self.tables
        inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        rows, positions = np.repeat(row, count) + inside, np.repeat(position, count) + inside
        return rows, positions, np.repeat(self.tables, count, axis=1)

    def in_order(self) -> Spans:
        """The same by kind, and by row within a kind."""
        keys = [(span.kind, span.row) for span in self.all]
        if keys == sorted(keys):
            return self
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return Spans([self.all[i] for i in order], self.tables[:, order])


class Step:
    """Numbers of one step of at most `rows` rows. All addresses that kernels get from it are constant.

    `scales` (adapters, rows) are what each row's sequence says of adapters. `parts` are the numbers of equal parts that
    rows of a buffer may be taken for (`rows_in_parts`). Places and spans are there for each of the `groups` of layers,
    which differ in page tables alone.
    """

    def __init__(self, rows: int, parts: Collection[int] = (), adapters: int = 0, groups: int = 1) -> None:
        self._rows, self._groups = rows, groups
        self._parts = np.array(sorted({1, *parts}), np.int64)
        self._scales = Region(4 * rows * adapters, "the step's scales")
        self.scales: NDArray[np.float32] = self._scales.view(np.float32, adapters, rows)
        self._counts = Region(COUNTS + 8 * len(self._parts), "the step's counts")
        self._places = Region(groups * 16 * rows, "the step's places")
        self._spans_bytes = RECORDS + 8 * RECORD * rows  # of a group
        self._spans = Region(groups * self._spans_bytes, "the step's spans")
        self._sources = Region(8 * rows, "the step's rows")
        self._count_view = self._counts.view(np.int64, COUNTS // 8 + len(self._parts))
        self.places: NDArray[np.int64] = self._places.view(np.int64, groups, rows, 2)
        self._span_view = self._spans.view(np.int64, groups, self._spans_bytes // 8)
        self.sources: NDArray[np.int64] = self._sources.view(np.int64, rows)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Rows of the step: all up to the last, exact ones, bulk ones."""
        return int(self._count_view[0]), int(self._count_view[1]), int(self._count_view[3])

    def spans(self, tiled: bool) -> NDArray[np.int64]:
        """Of every span that is tiled, or of the others, the first row, how many, and the first's position: (n, 3)."""
        first = RECORDS // 8
        singles, runs, others = self._span_view[0, :first].tolist()
        count = singles + runs + others
        records = self._span_view[0, first : first + RECORD * count].reshape(count, RECORD)[:, :3]
        return records[singles + runs :] if tiled else records[: singles + runs]

    @property
    def all_rows(self) -> int:
        """The address of the number of rows."""
        return self._counts.at(0, 8)

    def rows_in_parts(self, parts: int) -> int:
        """The address of the number of rows times `parts`: of the rows, if each part of one is taken for a row."""
        return self._counts.at(COUNTS + 8 * self._parts.tolist().index(parts), 8)

    @property
    def exact_rows(self) -> int:
        """The address of the number of rows, from the first, whose products do not depend on their company."""
        return self._counts.at(8, 8)

    @property
    def bulk_rows(self) -> int:
        """The address of the first of the other rows, and of how many there are."""
        return self._counts.at(16, 16)

    def places_address(self, group: int) -> int:
        return self._places.at(group * 16 * self._rows, 16 * self._rows)

    def spans_address(self, group: int) -> int:
        return self._spans.at(group * self._spans_bytes, self._spans_bytes)

    @property
    def sources_address(self) -> int:
        """The rows of another step that this one's are copies of."""
        return self._sources.at(0, self._sources.nbytes)

    def scales_address(self, adapter: int) -> int:
        """One float for each row."""
        return self._scales.at(4 * self._rows * adapter, 4 * self._rows)

    def set_rows(self, exact: int, bulk_first: int, bulk: int) -> None:
        """Rows of the next step: `exact` from 0, and `bulk` from `bulk_first`. Raises ValueError for too many."""
        rows = bulk_first + bulk if bulk else exact
        if not 0 < rows <= self._rows or exact < 0 or bulk < 0 or (bulk and bulk_first < exact):
            raise ValueError(f"a step of {exact} rows and {bulk} from {bulk_first}, of {self._rows}")
        self._count_view[:4] = (rows, exact, bulk_first, bulk)
        self._count_view[COUNTS // 8 :] = rows * self._parts

    def set_spans(self, spans: Spans, parts: Sequence[int]) -> None:
        """What belongs together, in order, single rows each with the address of its parts. Other rows go nowhere."""
        kinds = [span.kind for span in spans.all]
        counts = [kinds.count(kind) for kind in range(3)]
        if kinds != sorted(kinds) or sum(counts) != len(kinds) or len(parts) != counts[0]:
            raise ValueError(f"spans of kinds {kinds} with {len(parts)} parts")
        if any(span.row < 0 or span.row + span.rows > self._rows for span in spans.all):
            raise ValueError(f"spans of {list(spans.all)}, of {self._rows} rows")
        if len(spans.tables) != self._groups:
            raise ValueError(f"spans with {len(spans.tables)} page tables, of {self._groups} groups")
        first = RECORDS // 8
        self._span_view[:, :first] = counts
        rows, positions, tables = spans.each
        self.places[:, :, 0] = NOWHERE
        for group, table in enumerate(spans.tables):
            records = self._span_view[group, first : first + RECORD * len(kinds)].reshape(-1, RECORD)
            records[:, :3] = spans.columns[:3].T
            records[:, 3], records[:, 4] = table, 0
            if parts:
                records[: len(parts), 4] = parts
            places = self.places[group]
            places[rows, 0] = positions
            places[rows, 1] = tables[group]
