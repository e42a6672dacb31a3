"""What follows from the positions of a step's rows: angles of one kind of rotary positions, factors of one scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggufpy.models.ops import Rope
from ggufpy.models.rope import frequencies, magnitude
from ggufpy.models.scaling import PositionScale

from .memory import Region


class RopeTable:
    """cos and sin of every pair's angle, for each of the `rows` of a step, in memory that kernels read."""

    def __init__(self, rope: Rope, rows: int) -> None:
        self.rope, self.frequency, self.magnitude = rope, frequencies(rope), magnitude(rope)
        self.region = Region(rows * max(rope.dimensions, 1) * 4, "rotary angles")
        self.angles: NDArray[np.float32] = self.region.view(np.float32, rows, rope.dimensions // 2, 2)

    def fill(self, positions: NDArray[np.int64], rows: slice | NDArray[np.int64]) -> None:
        """Writes (cos, sin) for positions (tokens,) of these rows."""
        self.turn(positions, rows)
        if self.magnitude != 1.0:
            self.angles[rows] *= self.magnitude

    def turn(self, distances: NDArray[np.int64], rows: slice | NDArray[np.int64]) -> None:
        """The same for what has been rotated already and moves by `distances`: the magnitude stays as it is."""
        angles = distances.astype(np.float64)[:, None] * self.frequency
        self.angles[rows, :, 0] = np.cos(angles)
        self.angles[rows, :, 1] = np.sin(angles)


class FactorTable:
    """A factor for each of the `rows` of a step, in memory that kernels read."""

    def __init__(self, by: PositionScale, rows: int) -> None:
        self.by, self.region = by, Region(4 * rows, "factors by position")
        self._values: NDArray[np.float32] = self.region.view(np.float32, rows)

    def fill(self, positions: NDArray[np.int64], rows: slice | NDArray[np.int64]) -> None:
        """Writes those of positions (tokens,) to these rows."""
        self._values[rows] = self.by.factors(positions)
