"""Weights that are codes with a scale and a zero for each group of columns, and the blocks of GGUF that they fit.

w = (q - z) · s, in float32. Of whole zeros and scales of 16 bits this is the exact product. A library that computes in
f16 or bf16 has it rounded to that once, where its scales have as many bits.

Blocks of GGUF have scales in f16. With scales that fit it, codes of up to 4 bits whose q - z are within -8 to 7 are
Q4_0 without loss, as any of 2 and 3 bits are. With other zeros they are Q4_1 where every s · z fits f16, too, and else
Q5_0, whose codes hold any q - z. With other scales they are Q4_1 rounded to f16. 5 bits are Q5_0, Q5_1 or Q8_0 by the
same rule, 6 to 8 are Q8_0. Scales and zeros alone decide.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ggufpy.format.rows import PIECE, Bytes, Floats, Rows
from ggufpy.support.records import dataclass

from ._blocks import BLOCK, fifth_bits, fit_halves, halves, nibbles
from ._packed import Codes
from ._quantised import Decoded, InBlocks

_LARGEST = float(np.finfo(np.float16).max)
_RANGES = {"Q4_0": (-8, 7), "Q5_0": (-16, 15), "Q8_0": (-128, 127)}
# By bits, 6 standing for more: codes around zero, codes with a minimum, and the next larger ones around zero.
_KINDS = {4: ("Q4_0", "Q4_1", "Q5_0"), 5: ("Q5_0", "Q5_1", "Q8_0"), 6: ("Q8_0", "", "")}
_LOWEST = 2.0**-16  # what zeros are multiples of, where q - z is exact in float32
Groups = int | NDArray[np.int64]


class Grouped(Decoded):
    """A matrix (out, in) of codes. Subclasses say where these are.

    `bits` a code; `groups` is how many columns side by side share a scale, or for each column the number of its group.
    """

    bits: int
    groups: Groups

    @abstractmethod
    def codes(self, start: int, stop: int) -> Codes:
        """q of rows `start` to `stop`, (n, in)."""

    @abstractmethod
    def scales(self, start: int, stop: int) -> Floats:
        """s, float32 (n, groups)."""

    @abstractmethod
    def zeros(self, start: int, stop: int) -> Floats:
        """z, float32 (n, groups)."""

    def floats(self, start: int, stop: int) -> Floats:
        q = self.codes(start, stop).astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # scales that are not finite are refused when written
            q -= self.by_column(self.zeros(start, stop))
            q *= self.by_column(self.scales(start, stop))
        return q

    def by_column(self, values: Floats) -> Floats:
        """Values of groups (n, groups) as those of columns, (n, in)."""
        if isinstance(self.groups, int):
            return np.repeat(values, self.groups, axis=1)[:, : self.columns]
        return values[:, self.groups]

    def by_block(self, values: Floats) -> Floats:
        """Values of groups as those of blocks of 32 columns, (n, in / 32), where groups are whole blocks."""
        assert isinstance(self.groups, int)
        return values[:, np.arange(0, self.columns, BLOCK) // self.groups]

    @property
    def exact(self) -> Rows | None:
        return None if self._fit is None or not self._fit[1] else Blocks(self, self._fit[0])

    @property
    def near(self) -> Rows | None:
        if self._fit is not None:
            return Blocks(self, self._fit[0])
        return self.in_eights

    @cached_property
    def _fit(self) -> tuple[str, bool] | None:
        """The type of blocks that have the same codes, and whether without loss; None where there is none."""
        if not isinstance(self.groups, int) or self.columns % BLOCK:
            return None
        if self.groups % BLOCK and self.groups < self.columns:
            return None
        low, high, exact, products, fits = 0.0, 0.0, True, True, True
        for s, z in self._pieces():
            high, low = max(high, float((2**self.bits - 1 - z).max())), min(low, -float(z.max()))
            product = s.astype(np.float64) * z
            exact = exact and fit_halves(s)
            fits = fits and bool(np.all(np.abs(s) <= _LARGEST) and np.all(np.abs(product) <= _LARGEST))
            products = products and fit_halves(product) and bool(np.all(z % _LOWEST == 0) and np.all(np.abs(z) < 128))
            if z.size and not np.array_equal(z, np.rint(z)):
                high = np.inf  # no blocks without minima have these
        if not fits:
            return None
        around, affine, wider = _KINDS[min(max(self.bits, 4), 6)]
        if _RANGES[around][0] <= low and high <= _RANGES[around][1]:
            return around, exact
        if exact and not products and wider and _RANGES[wider][0] <= low and high <= _RANGES[wider][1]:
            return wider, True
        return (affine, exact and products) if affine else None

    def _pieces(self) -> Iterator[tuple[Floats, Floats]]:
        """All scales and zeros, some rows at a time."""
        step = max(PIECE // self.columns, 1) * 16
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            yield self.scales(start, stop), self.zeros(start, stop)


@dataclass(frozen=True, eq=False)
class Blocks(InBlocks):
    """The codes of a matrix in blocks of GGUF, `kind`: Q4_0, Q5_0, Q8_0 with d = s; Q4_1, Q5_1 with m = -s · z, too."""

    source: Grouped
    kind: str

    def rows(self, start: int, stop: int) -> Bytes:
        s, z = self.source.scales(start, stop), self.source.zeros(start, stop)
        q = self.source.codes(start, stop)
        heads = [self.source.by_block(s)]
        if self.kind in _RANGES:
            whole = q.astype(np.int16)
            whole -= self.source.by_column(z).astype(np.int16)
            low = _RANGES[self.kind][0] if self.kind != "Q8_0" else 0
            q = (whole - np.int16(low)).astype(np.uint8)
        else:
            heads.append(self.source.by_block((-(s.astype(np.float64) * z)).astype(np.float32)))
        blocks = q.reshape(len(q), -1, BLOCK)
        fields = [halves(head) for head in heads]
        fields += [fifth_bits(blocks)] if self.kind.startswith("Q5") else []
        fields += [blocks if self.kind == "Q8_0" else nibbles(blocks)]
        return np.concatenate(fields, axis=2).reshape(len(q), -1)
