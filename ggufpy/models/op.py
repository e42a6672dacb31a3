"""What every op of a plan can tell: what it reads, what it writes, and its weights."""

from __future__ import annotations

from collections.abc import Mapping

from ggufpy.support.records import dataclass


@dataclass(frozen=True)
class Weight:
    """A tensor the plan uses. shape is NumPy order: (rows, columns) for a matrix, (n,) for a vector, (experts, rows,
    columns) for the matrices of experts."""

    name: str
    shape: tuple[int, ...]


class Op:
    """What every op can tell: buffers that it reads, the width of those that it writes, and its weights."""

    @property
    def reads(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def writes(self) -> Mapping[str, int]:
        """Width by buffer; an op that changes a buffer in place reads and writes it."""
        raise NotImplementedError

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Every field that is a weight, in order."""
        return tuple(value for value in vars(self).values() if isinstance(value, Weight))
