"""Rows of a tensor → rows of another type: a piece at a time, each on one thread, checked for what is not finite.

In: a job and a run of its rows. Out: uint8 (rows, bytes a row), how many weights were not finite, and the sums that the
tensor's error is reckoned from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format import blocktypes
from ggufpy.format.rows import of_bf16, rows_of
from ggufpy.format.values import shown
from ggufpy.quantizer.recipe import Job
from ggufpy.quantizer.types import FLOATS
from ggufpy.quants.base import PlainType
from ggufpy.quants.encoding import Encoder, NotFinite
from ggufpy.support.records import dataclass

TOGETHER = 1 << 20  # weights that a thread takes at a time
SAMPLE = 1 << 14  # weights of a tensor that its error is measured on
STEP = 1 << 16  # weights that a check looks at, in a core's cache
_EXPONENTS = {2: (np.uint16, 0x7FFF), 4: (np.uint32, 0x7FFFFFFF), 8: (np.uint64, 0x7FFFFFFFFFFFFFFF)}
_INFINITE = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a tensor, all its matrices one under the other; of one matrix where it is weighed."""

    job: Job
    start: int
    stop: int
    matrix: int = 0
    samples: int = 0  # rows that the error is measured on

    @property
    def last(self) -> bool:
        """Whether it is the last of its tensor."""
        return self.stop == rows_of(self.job.tensor.shape)


@dataclass(frozen=True)
class Made:
    """Bytes of a piece; weights that were not finite; squares of the sample's errors and of its weights, added up."""

    data: NDArray[np.uint8]
    nonfinite: int = 0
    wrong: float = 0.0
    whole: float = 0.0


def matrix_of(rows: NDArray[np.int64], job: Job) -> NDArray[np.int64]:
    """Which matrix of its importance weighs each of these rows of a tensor; a fourth dimension repeats them."""
    assert job.importance is not None
    count = len(job.importance)
    return rows // job.tensor.shape[-2] % count if count > 1 else np.zeros_like(rows)


def pieces(job: Job) -> Iterator[Piece]:
    """A tensor in pieces of about TOGETHER weights; at least one, were it empty."""
    shape = job.tensor.shape
    rows, columns = rows_of(shape), shape[-1] if shape else 1
    step = max(TOGETHER // max(columns, 1) // 16, 1) * 16  # kernels take 16 rows at a time
    matrices = 1 if job.importance is None else len(job.importance)
    height = shape[-2] if matrices > 1 else rows  # each matrix has an importance of its own
    if not rows * columns:
        yield Piece(job, 0, rows)
        return
    share = min(1.0, SAMPLE / (rows * columns))
    for matrix in range(rows // height):
        for start in range(matrix * height, (matrix + 1) * height, step):
            stop = min(start + step, (matrix + 1) * height)
            yield Piece(job, start, stop, matrix % matrices, max(1, round((stop - start) * share)))


def convert(piece: Piece, allow_nonfinite: bool) -> Made:
    """The piece in its new type, on the calling thread. GGUFError for weights that are not finite or do not fit."""
    job = piece.job
    if not job.tensor.nbytes:
        return Made(np.empty(0, np.uint8))
    raw = job.tensor.rows(piece.start, piece.stop)
    if job.copied:
        return Made(raw, _count_plain(piece, raw, job.target, allow_nonfinite))
    x = numbers(raw, job.tensor.type)
    block = quants.get(job.target)
    if job.ready is not None:
        data, bad = np.asarray(job.ready[piece.start : piece.stop]), int((_bits(x) >= _infinite(x)).sum())
    elif isinstance(block, PlainType):
        data = _plain(x, block)
        bad = _count_plain(piece, data, job.target, allow_nonfinite)
    else:
        data, bad = _blocks(piece, x, block, allow_nonfinite)
    picked = np.linspace(0, len(x) - 1, min(piece.samples, len(x))).astype(np.int64)
    wrong, whole = squares(floats(x[picked]), quants.dequantize(data[picked], job.target))
    return Made(data, bad, wrong, whole)


@dataclass(frozen=True)
class FiniteRows:
    """A job's matrix as float32, read some rows at a time.

    GGUFError for weights that are not finite; where they are allowed, they are zeros.
    """

    job: Job
    allow_nonfinite: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.job.tensor.shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        start, stop, _ = rows.indices(self.shape[0])
        x = floats(numbers(self.job.tensor.rows(start, stop), self.job.tensor.type))
        bad = ~np.isfinite(x)
        if not bad.any():
            return x
        if not self.allow_nonfinite:
            raise _refused(Piece(self.job, start, stop), bad)
        zeros: NDArray[np.float32] = np.where(bad, np.float32(0), x)
        return zeros


def numbers(raw: NDArray[np.uint8], type_name: str) -> NDArray[Any]:
    """Rows as an encoder takes them: float16, uint16 (bf16 bits) or float32, (rows, columns)."""
    if type_name not in FLOATS:
        return quants.dequantize(raw, type_name)
    x = raw.view({"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}[type_name])
    if type_name == "F64":
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found
            return x.astype(np.float32)
    native = x.astype(x.dtype.newbyteorder("="), copy=False)
    return np.require(native, requirements=("C", "A"))


def floats(x: NDArray[Any]) -> NDArray[np.float32]:
    """What `numbers` gave, as float32."""
    return of_bf16(x) if x.dtype == np.uint16 else x.astype(np.float32, copy=False)


def squares(x: NDArray[np.float32], y: NDArray[np.float32], weights: NDArray[Any] | None = None) -> tuple[float, float]:
    """The squares of x - y and those of x, added up, each times its weight; what is not finite counts as zero."""
    x = np.where(np.isfinite(x), x, np.float32(0)).astype(np.float64)
    y = np.where(np.isfinite(y), y, np.float32(0)).astype(np.float64)
    if weights is None:
        return float(((x - y) ** 2).sum()), float((x**2).sum())
    return float(((x - y) ** 2 * weights).sum()), float((x**2 * weights).sum())


def _plain(x: NDArray[Any], block: PlainType) -> NDArray[np.uint8]:
    """Rows in a float type, some at a time so that temporaries stay small."""
    out = np.empty((x.shape[0], x.shape[1] * block.nbytes), np.uint8)
    step = max(STEP // x.shape[1], 1)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        out[part] = block.encode(floats(x[part]))
    return out


def _blocks(
    piece: Piece, x: NDArray[Any], block: quants.BlockType, allow_nonfinite: bool
) -> tuple[NDArray[np.uint8], int]:
    """Rows in a block type, and how many of their weights were not finite and became zero."""
    out = np.empty((x.shape[0], x.shape[1] // block.weights * block.nbytes), np.uint8)
    weight = piece.job.importance
    if weight is not None:
        weight = weight[piece.matrix : piece.matrix + 1]
    encoder = Encoder(block, 1)
    name = shown(piece.job.tensor.name)
    try:
        encoder.encode(x, weight, out)
        return out, 0
    except NotFinite:
        bad = _bits(x) >= _infinite(x)
        if not allow_nonfinite:
            raise _refused(piece, bad) from None
        encoder.encode(x, weight, out, zero_bad=True)
        return out, int(bad.sum())
    except GGUFError as e:  # a scale that its type cannot hold
        raise GGUFError(f"tensor {name}: {e}") from None


def _count_plain(piece: Piece, data: NDArray[np.uint8], type_name: str, allow_nonfinite: bool) -> int:
    """How many numbers of a float type are not finite. GGUFError for any, unless they are allowed."""
    if type_name not in FLOATS or not data.size:
        return 0
    size = blocktypes.by_name(type_name).nbytes
    dtype, mask = _EXPONENTS[size]
    values = data.view(np.dtype(dtype).newbyteorder("<"))
    flat, count = values.reshape(-1), 0
    for start in range(0, flat.size, STEP):
        part = flat[start : start + STEP] & dtype(mask)
        if part.max() >= _INFINITE[type_name]:
            bad = (values & dtype(mask)) >= _INFINITE[type_name]
            if not allow_nonfinite:
                raise _refused(piece, bad)
            count = int(bad.sum())
            break
    return count


def _bits(x: NDArray[Any]) -> NDArray[Any]:
    """The bits of numbers without their signs: ordered as their magnitudes are, NaN last."""
    dtype, mask = _EXPONENTS[x.itemsize]
    bits: NDArray[Any] = x.view(dtype) & dtype(mask)
    return bits


def _infinite(x: NDArray[Any]) -> int:
    return _INFINITE[{"float16": "F16", "uint16": "BF16", "float32": "F32"}[x.dtype.name]]


class Refused(GGUFError):
    """A weight that cannot be written; the message names its tensor."""


def _refused(piece: Piece, bad: NDArray[np.bool_]) -> Refused:
    """The error for the first weight that is not finite, by its place in the tensor."""
    row, column = np.unravel_index(int(bad.argmax()), bad.shape)
    tensor = piece.job.tensor
    first = piece.start + int(row)
    value = numbers(tensor.rows(first, first + 1), tensor.type)
    number = float(floats(value)[0, column])
    if tensor.type == "F64":  # float32 may not hold what it is
        number = float(tensor.rows(first, first + 1).view("<f8")[0, column])
    place = [*np.unravel_index(first, tensor.shape[:-1]), column] if tensor.shape[:-1] else [column]
    at = ", ".join(str(int(i)) for i in place)
    what = f"tensor {shown(tensor.name)}: the weight at [{at}] is {number:g}"
    if np.isfinite(number):
        advice = "choose BF16 or F32" if abs(number) <= float(np.finfo(np.float32).max) else "scale the weights down"
        return Refused(f"{what}, too large for {piece.job.target}: {advice}")
    return Refused(
        f"{what}, and a model with such weights is damaged (--allow-nonfinite writes zero in its place, or it as it is "
        "where the type can hold it)"
    )
