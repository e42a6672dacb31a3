"""What a backend makes of a plan: layers with their weights (`Loaded`), and a program that runs steps of them.

Its memory is its own; pages are known by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.models.plan import Plan

from .caches import Cache

MOST_FILL = 4  # of any program's `fill`: every program has room for so many rows more, for it may run beside another
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class PageTable(np.ndarray[Any, np.dtype[np.int64]]):
    """(groups, pages) whole numbers in one piece of memory that stays where it is, which a backend may read there.

    Asking NumPy for the address takes 0.6 µs, 256 times a step.
    """

    address: int

    def __array_finalize__(self, origin: object) -> None:
        self.address = self.ctypes.data


def page_table(groups: int, pages: int) -> PageTable:
    """One of zeros."""
    table: PageTable = PageTable((groups, pages), np.int64)
    table[...] = 0
    return table


class Group(NamedTuple):
    """Layers that keep alike, and how many pages there are for them."""

    cache: Cache
    pages: int


class Rows(NamedTuple):  # 0.2 µs to make, a frozen dataclass 0.5, 256 times a step
    """Consecutive rows of a step: tokens of one sequence, from `row` of the step and `position` of the sequence on.

    `pages` (groups, pages) has for each group of layers the number of the page of every PAGE positions, as far as the
    rows see and reach, in one piece of memory that stays where it is. `bulk` rows are computed in the way that is
    fastest for many. `scales` has one of each adapter of the plan, or is empty where none counts.
    """

    tokens: Ints
    row: int
    position: int
    pages: PageTable
    bulk: bool
    scales: tuple[float, ...] = ()

    @property
    def end(self) -> int:
        """The row behind the last."""
        return self.row + len(self.tokens)


class Program(Protocol):
    """Layers in a device's memory. Arguments are right: `Engine` has checked tokens, rows, positions and pages."""

    groups: tuple[Group, ...]
    kv_bytes: int  # of all pages of all groups
    head_rows: int
    fill: int  # exact rows are filled up to a multiple of this where bulk rows follow

    def run(self, step: Sequence[Rows], x: Floats | None = None) -> Floats:
        """Evaluates a step: keys and values go to its pages. Exact rows come before bulk.

        x (rows, width) is what the layers before these have left, where there are any; what these leave is returned, in
        memory that stays until the next call. Both are indexed by the rows of the step. Layers that a head follows may
        keep to themselves what they leave, and return no rows.
        """

    def logits(self, rows: Sequence[int], bulk: bool) -> Floats:
        """Logits (rows, vocabulary) of some rows of the last step, at most `head_rows` of them, until the next call.

        Raises ValueError if these are not the last layers.
        """

    def hidden(self, rows: Sequence[int], bulk: bool) -> Floats:
        """As `logits`, the final hidden state (`Plan.hidden`): (rows, width)."""

    def copy(self, group: int, source: int, target: int) -> None:
        """Copies a page of a group."""

    def move(self, group: int, tables: tuple[Ints, Ints], positions: range, drop: int) -> None:
        """Moves what a group has at these positions down by `drop`, and turns keys back by as many.

        It is read by the first of the tables of pages, and written by the second, in order of position.
        """

    def form(self, group: int) -> str:
        """What a row of `read_page` is made of: the same text, the same bytes, on whatever machine."""

    def row_bytes(self, group: int) -> int:
        """Bytes of such a row."""

    def read_page(self, group: int, page: int) -> Bytes:
        """What a page of a group has, (PAGE, bytes of a position): of every layer, in their order."""

    def write_page(self, group: int, page: int, rows: Bytes) -> None:
        """The inverse of `read_page`. Raises GGUFError for numbers that are not finite."""

    def close(self) -> None:
        """Ends its threads. It cannot be used afterwards."""


class Loaded(Protocol):
    """Layers with their weights in a device's memory, for `sequences` of `positions` at once."""

    @property
    def plan(self) -> Plan: ...
    @property
    def positions(self) -> int: ...
    @property
    def sequences(self) -> int: ...
    @property
    def bulk_rows(self) -> bool:
        """Whether there is another way to compute many rows than the exact one."""

    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str:
        """What the weights are packed for: a SIMD level, or a device."""

    @property
    def type_name(self) -> str:
        """The type that most of the matrices' bytes are in."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of matrices that are read for every token."""

    def prompt_flops(self, tokens: int) -> float:
        """Floating-point operations of the matrix products for a text, and for the logits of its last token."""

    def program(self, rows: int) -> Program:
        """For steps of at most so many rows."""
