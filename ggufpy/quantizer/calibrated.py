"""Matrices of a file made by GPTQ, before anything is written: kept in a file without a name until their turn comes.

In: jobs, and what measures Hessians. Out: the jobs, with the bytes (`Job.ready`) of every matrix that was measured.
What GPTQ cannot do (types of grids, experts) is made by the type's encoder, weighed by the Hessian's diagonal.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format import Blocks, GGUFFile, blocktypes
from ggufpy.format.rows import rows_of
from ggufpy.format.values import shown
from ggufpy.quantizer import gptq
from ggufpy.quantizer.convert import FiniteRows, Refused, convert, pieces
from ggufpy.quantizer.kernels import compile_kernels
from ggufpy.quantizer.options import Moments, QuantizeOptions
from ggufpy.quantizer.recipe import Job, as_importance
from ggufpy.quantizer.rules import in_layer
from ggufpy.quantizer.types import FLOATS

Bytes = NDArray[np.uint8]


class Spool:
    """Rows of bytes by name, in an empty `file` that is open meanwhile: memory does not grow with the model.

    Raises GGUFError where its disk is full.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._end = 0

    def put(self, name: str, pieces: Iterable[Bytes]) -> None:
        """Keeps rows (rows, bytes a row) as they come; a name can be given once."""
        start, rows, width = self._end, 0, 0
        try:
            self._file.seek(start)
            for piece in pieces:
                self._file.write(np.ascontiguousarray(piece).data)
                rows, width = rows + len(piece), piece.shape[1]
                self._end += piece.nbytes
            self._file.flush()
        except OSError as e:
            raise GGUFError(
                f"cannot keep what was made until it is written: {e.strerror or e} (TMPDIR says where such files go)"
            ) from None
        self._places[name] = start, (rows, width)

    def get(self, name: str) -> Bytes | None:
        """The array, mapped, or None."""
        if name not in self._places:
            return None
        at, shape = self._places[name]
        return np.memmap(self._file, np.uint8, "r", at, shape)


def calibrated(file: GGUFFile, jobs: Sequence[Job], options: QuantizeOptions, spool: Spool) -> list[Job]:
    """The jobs, those of measured matrices ready. GGUFError where GPTQ has nothing to do, and what measuring raises."""
    assert options.gptq is not None
    wanted = {job.tensor.name: job for job in jobs if _is_wanted(job)}
    if not any(_is_able(job) for job in wanted.values()):
        types = ", ".join(sorted({job.target for job in wanted.values()})) or "none that changes"
        able = ", ".join(gptq.able_types())
        raise GGUFError(f"GPTQ has no matrix to make: the layers' types are {types}, and it makes {able}")
    compile_kernels({(job.target, True) for job in wanted.values()}, options.progress)
    solver = _Solver(wanted, options, spool)
    options.gptq.visit(file, solver.solve, options.progress)
    return [_ready(job, spool, solver.solved) for job in jobs]


def _is_wanted(job: Job) -> bool:
    return in_layer(job.tensor.name) and not job.copied and job.target not in FLOATS and job.tensor.nbytes > 0


def _is_able(job: Job) -> bool:
    return len(job.tensor.shape) == 2 and gptq.able(job.target)


def _ready(job: Job, spool: Spool, solved: Container[str]) -> Job:
    data = spool.get(job.tensor.name)
    if data is None:
        return job
    return replace(job, importance=None, ready=data, gptq=job.tensor.name in solved)


class _Solver:
    """What becomes of the matrices of an input. `solved` are the names of those that GPTQ made."""

    def __init__(self, jobs: Mapping[str, Job], options: QuantizeOptions, spool: Spool) -> None:
        self._jobs, self._options, self._spool = jobs, options, spool
        self.solved: set[str] = set()

    def solve(self, moments: Moments) -> dict[str, Blocks]:
        """The new blocks of those that change, which are kept too."""
        jobs = [self._jobs[name] for name in moments.names if name in self._jobs]
        factors: dict[int, gptq.Factor] = {}  # by the width of blocks
        for job in jobs:
            if moments.hessian is not None and _is_able(job):
                self._spool.put(job.tensor.name, [self._by_gptq(job, moments.hessian, factors)])
                self.solved.add(job.tensor.name)
            else:
                self._spool.put(job.tensor.name, self._by_encoder(job, moments))
            job.tensor.release()
        return {job.tensor.name: self._blocks(job) for job in jobs}

    def _by_gptq(self, job: Job, hessian: NDArray[Any], factors: dict[int, gptq.Factor]) -> Bytes:
        """Its blocks. `factors` are those of the Hessian, and get what is missing."""
        width = quants.get(job.target).weights
        try:
            if width not in factors:
                factors[width] = gptq.factor(hessian, width, self._options.gptq_damping)
            weights = FiniteRows(job, self._options.allow_nonfinite)
            return gptq.solve(weights, factors[width], job.target, self._options.thread_count())
        except Refused:
            raise
        except GGUFError as error:
            raise GGUFError(f"tensor {shown(job.tensor.name)}: {error}") from None

    def _by_encoder(self, job: Job, moments: Moments) -> Iterator[Bytes]:
        weighed = as_importance(job, moments.squares)
        return (convert(piece, self._options.allow_nonfinite).data for piece in pieces(weighed))

    def _blocks(self, job: Job) -> Blocks:
        """What was kept of a job, as it lies in the file."""
        data = self._spool.get(job.tensor.name)
        assert data is not None
        shape = job.tensor.shape
        width = blocktypes.row_bytes(blocktypes.by_name(job.target), shape)
        return Blocks(data.reshape(rows_of(shape), width), job.target, shape)
