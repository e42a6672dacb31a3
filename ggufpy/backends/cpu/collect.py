"""Sums of squares, by column, of what each matrix of a plan is multiplied by: what importance matrices are made of.

In: the ops whose inputs count. Out, after some steps: for every weight its sums and how many rows they are of, for each
expert where it is of experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.models.plan import ExpertMatMul, MatMul, Op

from .memory import Region


@dataclass
class _Input:
    """One input of matrices: who multiplies it, and its sums with what their rounding lost. `experts`: 0 of others."""

    columns: int
    names: list[str]
    experts: int = 0
    sums: Region = field(init=False)
    lows: Region = field(init=False)
    counts: Region = field(init=False)

    def __post_init__(self) -> None:
        nbytes = max(self.experts, 1) * self._padded * 4
        self.sums, self.lows = Region(nbytes, "sums of squares"), Region(nbytes, "sums of squares")
        self.counts = Region(8 * self.experts, "rows of experts")

    @property
    def _padded(self) -> int:
        return -(-self.columns // BLOCK) * BLOCK

    def total(self) -> NDArray[np.float64]:
        """(matrices, columns)."""
        shape = max(self.experts, 1), self._padded
        first, second = (r.view(np.float32, *shape).astype(np.float64) for r in (self.sums, self.lows))
        return (first + second)[:, : self.columns]

    def rows(self, read: int) -> NDArray[np.int64]:
        """(matrices,), where `read` rows have been read."""
        return self.counts.view(np.int64, self.experts).copy() if self.experts else np.array([read])


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

    def begins_with(self, weight: str) -> bool:
        """Whether this is the first weight of an input: its product adds to the sums."""
        return weight in self._first

    def of_experts(self, weight: str, experts: int, columns: int) -> tuple[int, int, int]:
        """The same for (experts, padded columns), and where rows are counted by expert."""
        found, nbytes = self._first[weight], 4 * experts * columns
        return found.sums.at(0, nbytes), found.lows.at(0, nbytes), found.counts.at(0, 8 * experts)

    def add_rows(self, part: str, rows: int) -> None:
        """Notes that a tape has run on so many rows."""
        if part in self._rows:
            self._rows[part] += rows

    def squares(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """By weight: sums of squares (matrices, columns) and the rows that they are of (matrices,)."""
        found = {}
        for part, inputs in self._inputs.items():
            for one in inputs:
                found.update(dict.fromkeys(one.names, (one.total(), one.rows(self._rows[part]))))
        return found


def _inputs(ops: Sequence[Op]) -> list[_Input]:
    """Every buffer content that matrices multiply, in order; a buffer that is written to holds a new one."""
    found: list[_Input] = []
    now: dict[tuple[str, ...], _Input] = {}  # by buffers: what is multiplied, and for experts who is chosen
    for op in ops:
        if isinstance(op, MatMul | ExpertMatMul):
            experts = op.weight.shape[0] if isinstance(op, ExpertMatMul) else 0
            key = (op.x, op.chosen) if isinstance(op, ExpertMatMul) else (op.x,)
            if key in now:
                now[key].names.append(op.weight.name)
            else:
                now[key] = _Input(op.weight.shape[-1], [op.weight.name], experts)
                found.append(now[key])
        now = {key: one for key, one in now.items() if not set(key) & set(op.writes)}
    return found
