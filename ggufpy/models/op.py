"""What every op of a plan can tell: what it reads, what it writes, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Weight:
    """A tensor the plan uses. shape is NumPy order: (rows, columns) for a matrix, (n,) for a vector, (experts, rows,
    columns) for the matrices of experts."""

    name: str
    shape: tuple[int, ...]


class Op:
    """What every op can tell: buffers that it reads, the width of those that it writes, and its weights.

    Ops are frozen dataclasses whose comparison and text are here: making them for each class takes 3 ms of a start.
    """

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

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
