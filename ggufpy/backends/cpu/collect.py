"""Sums of squares, by column, of what each matrix of a plan is multiplied by: what importance matrices are made of.

In: the ops whose inputs count. Out, after some steps: for every weight its sums and how many rows they are of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.models.plan import MatMul, Op
from ggufpy.models.views import Views

from .memory import Region


@dataclass
class _Input:
    """One input of matrices: who multiplies it, and its sums with what their rounding lost."""

    columns: int
    names: list[str]
    sums: Region = field(init=False)
    lows: Region = field(init=False)

    def __post_init__(self) -> None:
        nbytes = -(-self.columns // BLOCK) * BLOCK * 4
        self.sums, self.lows = Region(nbytes, "sums of squares"), Region(nbytes, "sums of squares")

    def total(self) -> NDArray[np.float64]:
        first, second = (r.view(np.float32, self.columns).astype(np.float64) for r in (self.sums, self.lows))
        return first + second


class Collector:
    """Sums for the matrices in these parts of a plan ("body", "head"). Matrices of the same input share them."""

    def __init__(self, parts: Mapping[str, Sequence[Op]]) -> None:
        self._inputs = {name: _inputs(ops) for name, ops in parts.items()}
        self._rows = dict.fromkeys(parts, 0)
        self._first = {i.names[0]: i for inputs in self._inputs.values() for i in inputs}

    def wants(self, part: str) -> bool:
        """Whether inputs of this part of the plan are summed."""
        return part in self._inputs

    def addresses(self, weight: str, columns: int) -> tuple[int, int]:
        """Where sums go, and what their rounding loses, for `columns` padded columns of this weight's input."""
        found = self._first[weight]
        return found.sums.at(0, 4 * columns), found.lows.at(0, 4 * columns)

    def add_rows(self, part: str, rows: int) -> None:
        """Notes that a tape has run on so many rows."""
        if part in self._rows:
            self._rows[part] += rows

    def squares(self) -> dict[str, tuple[NDArray[np.float64], int]]:
        """By weight: sums of squares (columns,) and the rows that they are of."""
        found = {}
        for part, inputs in self._inputs.items():
            for one in inputs:
                total = one.total()
                found.update(dict.fromkeys(one.names, (total, self._rows[part])))
        return found


def _inputs(ops: Sequence[Op]) -> list[_Input]:
    """Every buffer content that matrices multiply, in order; a buffer that is written to holds a new one."""
    found: list[_Input] = []
    now: dict[str, _Input] = {}
    views = Views()
    for op in ops:
        views.follow(op)
        if isinstance(op, MatMul):
            if op.x in now:
                now[op.x].names.append(op.weight.name)
            else:
                now[op.x] = _Input(op.weight.shape[1], [op.weight.name])
                found.append(now[op.x])
        for changed in op.writes:
            for name in views.sharing(changed):
                now.pop(name, None)
    return found
