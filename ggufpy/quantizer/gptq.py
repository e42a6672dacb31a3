"""GPTQ: a matrix into blocks of a type, where what rounding a column does to the outputs is made up for by later ones.

In: a matrix (rows, columns), the Hessian H = Σ x xᵀ (columns, columns) of what it is multiplied by, and a type. Out:
uint8 (rows, bytes a row), what the type's own encoder could have written, but with other scales and codes.

The method is that of Frantar et al. 2022 (https://arxiv.org/abs/2210.17323): with U upper and UᵀU = (H + λI)⁻¹, a
column j becomes what its codes can say, and its error over U[j, j] times U[j, k] is taken off every later column k. A
block's scales are chosen by the type's encoder as its first column's turn comes, from what its weights are by then.
Columns have their turn in order of what they are fed (the method's "act-order"), but a block's follow one another.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.quantizer.options import DAMPING, MOST_DAMPING
from ggufpy.quants.base import BlockType, Bytes, Floats, IntPanel
from ggufpy.quants.encoding import Encoder
from ggufpy.support.records import dataclass

TOGETHER = 256  # rows that a thread takes at a time
RUN = 32  # columns whose errors are handed on one by one
SPAN = 256  # columns that get errors handed on before all others do; a multiple of every block
SMALL = 64  # below it a triangle is inverted as any matrix is

Doubles = NDArray[np.float64]


class Weights(Protocol):
    """A matrix of float32 that gives its rows, as an array does; from any thread."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Floats: ...


def able(type_name: str) -> bool:
    """Whether matrices of a type can be made so."""
    return bool(quants.get(type_name).code_values)


def able_types() -> list[str]:
    """The names of all such types."""
    return [name for name in quants.names() if able(name)]


@dataclass(frozen=True)
class Factor:
    """What a Hessian is to matrices whose blocks are as wide: U as above, for columns in `order`, and H's diagonal, as
    the matrix has its columns; both float32.

    Columns without input (`dead`) are written as zeros. `damping` is what was needed.
    """

    upper: Floats
    diagonal: Floats
    order: NDArray[np.int64]
    damping: float

    @property
    def dead(self) -> NDArray[np.bool_]:
        """(columns,)."""
        silent: NDArray[np.bool_] = self.diagonal == 0
        return silent


def turns(diagonal: NDArray[np.floating[Any]], width: int) -> NDArray[np.int64]:
    """The order in which columns are rounded: blocks of `width` by the sum of H's diagonal, largest first, and columns
    within each."""
    columns = np.arange(len(diagonal)).reshape(-1, width)
    within = np.argsort(-diagonal[columns], axis=1, kind="stable")
    blocks = np.argsort(-diagonal[columns].sum(axis=1), kind="stable")
    order: NDArray[np.int64] = np.take_along_axis(columns, within, axis=1)[blocks].reshape(-1)
    return order


def factor(hessian: NDArray[np.floating[Any]], width: int, damping: float = DAMPING) -> Factor:
    """(columns, columns) → its factor, for blocks of `width`. GGUFError for one that is not finite or far from positive
    definite.

    Where λ is too small for float64, it is made ten times as large.
    """
    diagonal = hessian.diagonal().astype(np.float64)
    if not np.isfinite(hessian).all() or (diagonal < 0).any():
        raise GGUFError("the Hessian has values that are not finite, or squares below 0: measure it again")
    dead = diagonal == 0
    mean = float(diagonal.mean()) or 1.0
    order = turns(diagonal, width)
    while damping <= MOST_DAMPING:
        damped = hessian[np.ix_(order, order)].astype(np.float64)
        np.fill_diagonal(damped, (np.where(dead, mean, diagonal) + damping * mean)[order])
        try:
            lower = np.linalg.cholesky(damped[::-1, ::-1])
        except np.linalg.LinAlgError:
            damping *= 10
            continue
        # H + λI = R Rᵀ with R upper, so U = R⁻¹: one factorisation, and nothing is inverted but a triangle.
        upper = inverse_upper(lower[::-1, ::-1])
        return Factor(upper.astype(np.float32), diagonal.astype(np.float32), order, damping)
    raise GGUFError("the Hessian is no sum of squares: measure it again")


def inverse_upper(matrix: NDArray[np.floating[Any]]) -> Doubles:
    """The inverse of an upper triangle (n, n), half by half."""
    n = len(matrix)
    if n <= SMALL:
        return np.triu(np.linalg.inv(matrix))
    half = n // 2
    first, last = inverse_upper(matrix[:half, :half]), inverse_upper(matrix[half:, half:])
    out = np.zeros((n, n))
    out[:half, :half], out[half:, half:] = first, last
    out[:half, half:] = -(first @ matrix[:half, half:]) @ last
    return out


def solve(weights: Weights, of: Factor, type_name: str, threads: int = 1) -> Bytes:
    """(rows, columns), all finite, of which some rows are read at a time → uint8 (rows, bytes a row) of a type that is
    `able`.

    GGUFError where a scale does not fit the type.
    """
    block = quants.get(type_name)
    rows, columns = weights.shape
    out = np.empty((rows, columns // block.weights * block.nbytes), np.uint8)

    def work(start: int) -> None:
        part = slice(start, start + TOGETHER)
        _Rows(weights[part], of, block).solve(out[part])

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for _ in pool.map(work, range(0, rows, TOGETHER)):
            pass
    return out


class _Rows:
    """Some rows of a matrix on their way: `w` (columns, rows) is what is left of them, as errors come in.

    Its columns, and those of errors and codes, are in the order of their turns.
    """

    def __init__(self, weights: Floats, of: Factor, block: BlockType) -> None:
        self._of, self._block = of, block
        self._encoder = Encoder(block, 1)
        self._levels = np.array(block.code_values, np.float32)
        self._middles = (self._levels[1:] + self._levels[:-1]) / 2
        self._even = bool((np.diff(self._levels) == 1).all())
        self.w = np.ascontiguousarray(weights[:, of.order].T)
        self.w[of.dead[of.order]] = 0

    def solve(self, out: Bytes) -> None:
        """The rows' blocks into out (rows, bytes a row)."""
        columns, block = len(self.w), self._block
        for first in range(0, columns, SPAN):
            end = min(first + SPAN, columns)
            errors = np.empty((end - first, self.w.shape[1]), np.float32)
            for at in range(first, end, block.weights):
                place = int(self._of.order[at]) // block.weights
                part = slice(place * block.nbytes, (place + 1) * block.nbytes)
                out[:, part] = self._solve_block(at, first, end, errors)
            self._hand_on(errors, first, slice(end, columns))

    def _solve_block(self, at: int, first: int, end: int, errors: Floats) -> Bytes:
        """The blocks (rows, bytes) whose turn begins at a column; errors reach columns before `end`."""
        block, width = self._block, self._block.weights
        within = self._of.order[at : at + width] % width  # of each turn, its place in the block
        blocks = self._begin(at, within)
        fields = block.fields(blocks)
        group = width // fields.scale.shape[1]
        codes = fields.codes.T.copy()
        assert isinstance(block.panel, IntPanel)
        offset = np.float32(block.panel.offset)
        for start in range(at, at + width, RUN):
            stop = min(start + RUN, at + width)
            for j in range(start, stop):
                place = within[j - at]
                g = place // group
                scale = fields.scale[:, g]
                minimum = np.float32(0) if fields.minimum is None else fields.minimum[:, g]
                codes[place] = self._nearest(self.w[j], scale, minimum, offset, codes[place])
                rounded = (codes[place] - offset) * scale + minimum  # the bits of `BlockType.decode`
                error = (self.w[j] - rounded) / self._of.upper[j, j]
                errors[j - first] = error
                self.w[j + 1 : stop] -= self._of.upper[j, j + 1 : stop, None] * error
            self._hand_on(errors[start - first : stop - first], start, slice(stop, end))
        block.put_codes(block.records(blocks), np.ascontiguousarray(codes.T)[:, None])
        return blocks

    def _hand_on(self, errors: Floats, first: int, to: slice) -> None:
        """Takes the errors of columns from `first` on off later ones."""
        self.w[to] -= self._of.upper[first : first + len(errors), to].T @ errors

    def _begin(self, at: int, within: NDArray[np.int64]) -> Bytes:
        """Blocks as the type's encoder makes them of what the weights are now."""
        width = self._block.weights
        x = np.empty((self.w.shape[1], width), np.float32)
        x[:, within] = self.w[at : at + width].T
        first = int(self._of.order[at]) // width * width
        blocks = np.empty((len(x), self._block.nbytes), np.uint8)
        self._encoder.encode(x, self._of.diagonal[None, first : first + width].copy(), blocks)
        return blocks

    def _nearest(self, x: Floats, scale: Floats, minimum: Floats, offset: np.float32, codes: Bytes) -> Bytes:
        """The code nearest to each weight; the one that it had where all say the same."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            wanted = (x - minimum) / scale + offset
        if self._even:
            nearest = np.rint(np.clip(wanted, self._levels[0], self._levels[-1]))
        else:
            nearest = self._levels[np.searchsorted(self._middles, wanted)]
        return np.where(scale == 0, codes, nearest).astype(np.uint8)
