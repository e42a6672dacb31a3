"""The buffers of a step in memory: rows of floats, and what matrices read in their place (8-bit rows, bf16 tiles)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.layout import BLOCK, quantised_row_bytes
from ggufpy.backends.cpu.kernels.to_tiles import tiles_bytes
from ggufpy.support.records import dataclass

from .experts import ExpertLists
from .memory import Region
from .step import Step

GROUPS = (1, 2, 4)  # activations that share one reading of the weights: kernels are made for each
MOST = GROUPS[-1]


@dataclass(frozen=True)
class Forms:
    """Buffers that matrices read as 8-bit rows, their bulk rows too, and as bf16 tiles; and what experts take.

    `parts` has the buffers of which each chosen expert reads its own part, and how many these are. `chosen` has the
    buffers of experts' numbers, how many there are to choose from and how many are chosen.
    """

    quantised: frozenset[str]
    quantised_in_bulk: frozenset[str]
    tiled: frozenset[str]
    parts: Mapping[str, int] = field(default_factory=dict)
    chosen: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Workspace:
    """Buffers for steps of at most `rows` rows: floats, 8-bit rows or tiles where a matrix wants them, and the step.

    `widths` are those of buffers and views, the largest of all layers. Views have no use for floats of their own, which
    are never touched then and take no memory. `groups` of layers have page tables of their own.
    """

    def __init__(
        self, name: str, widths: Mapping[str, int], forms: Forms, rows: int, adapters: int = 0, groups: int = 1
    ) -> None:
        self.name, self.rows, self.step = name, rows, Step(rows, forms.parts.values(), adapters, groups)
        self.forms, self.widths = forms, dict(widths)
        self.columns = _columns(widths)
        whole = self._whole = -(-rows // MOST) * MOST  # matrix kernels compute whole groups
        self.floats = {n: Region(whole * 4 * c, f"buffer {n}") for n, c in self.columns.items()}
        sizes = {n: quantised_row_bytes(self.columns[n]) for n in forms.quantised}
        self.codes = {n: Region(whole * size, f"buffer {n}") for n, size in sizes.items()}
        tiled = {n: tiles_bytes(rows, self.columns[n] // BLOCK) for n in forms.tiled}
        self.tiles = {n: Region(size, f"buffer {n}") for n, size in tiled.items()}
        self._seen: dict[str, NDArray[np.float32]] = {}
        self.lists = {n: ExpertLists(experts, count, rows) for n, (experts, count) in forms.chosen.items()}

    def add(self, widths: Mapping[str, int]) -> None:
        """Makes the buffers that there are not yet, as floats alone."""
        new = {name: columns for name, columns in _columns(widths).items() if name not in self.columns}
        self.columns |= new
        self.widths |= {name: widths[name] for name in new}
        self.floats |= {n: Region(self._whole * 4 * c, f"buffer {n}") for n, c in new.items()}

    def address(self, name: str, column: int = 0) -> int:
        """Of the first row, from a column on."""
        return self.floats[name].at(4 * column, self.rows * self.stride(name) - 4 * column)

    def stride(self, name: str) -> int:
        return 4 * self.columns[name]

    def parts(self, name: str) -> int:
        """How many 8-bit rows a row of a buffer is: one, or one for each part that an expert reads."""
        return self.forms.parts.get(name, 1)

    def codes_address(self, name: str) -> int:
        """The 8-bit rows of a buffer, or 0 if no matrix reads it that way."""
        return self.codes[name].at(0, self.rows * self.codes_stride(name)) if name in self.codes else 0

    def codes_stride(self, name: str) -> int:
        return quantised_row_bytes(self.columns[name]) if name in self.codes else 0

    def tiles_address(self, name: str) -> int:
        return self.tiles[name].at(0, self.tiles[name].nbytes)

    def rows_of(self, name: str) -> NDArray[np.float32]:
        """The buffer as (rows, padded columns)."""
        if name not in self._seen:  # a view takes 1 µs to make
            self._seen[name] = self.floats[name].view(np.float32, self.rows, self.columns[name])
        return self._seen[name]


def _columns(widths: Mapping[str, int]) -> dict[str, int]:
    """Of rows that are padded to whole blocks."""
    return {name: -(-width // BLOCK) * BLOCK for name, width in widths.items()}
