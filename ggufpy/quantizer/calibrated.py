"""Matrices of a file made by GPTQ, before anything is written: kept in a file without a name until their turn comes.

In: jobs, and what measures Hessians. Out: the jobs, with the bytes (`Job.ready`) of every matrix that was measured.
What GPTQ cannot do (types of grids, experts) is made by the type's encoder, weighed by the Hessian's diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format import Blocks, GGUFFile, blocktypes
from ggufpy.format.rows import rows_of
from ggufpy.format.values import shown
from ggufpy.quantizer import gptq
from ggufpy.quantizer.convert import convert, finite_rows, pieces
from ggufpy.quantizer.kernels import compile_kernels
from ggufpy.quantizer.options import Moments, QuantizeOptions
from ggufpy.quantizer.recipe import Job, as_importance
from ggufpy.quantizer.rules import in_layer
from ggufpy.quantizer.types import FLOATS

Bytes = NDArray[np.uint8]


class Spool:
    """Arrays of bytes by name, in an empty `file` that is open meanwhile: memory does not grow with the model."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._end = 0

    def put(self, name: str, data: Bytes) -> None:
        """Keeps it; a name can be given once."""
        self._file.seek(self._end)
        self._file.write(np.ascontiguousarray(data).data)
        self._places[name] = self._end, data.shape
        self._end += data.nbytes

    def get(self, name: str) -> Bytes | None:
        """The array, mapped, or None."""
        if name not in self._places:
            return None
        at, shape = self._places[name]
        self._file.flush()
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


def _ready(job: Job, spool: Spool, solved: Iterable[str]) -> Job:
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
        able = [job for job in jobs if moments.hessian is not None and _is_able(job)]
        found: dict[str, Bytes] = {}
        if able:
            found = self._by_gptq(able, moments)
        for job in jobs:
            name = job.tensor.name
            if name not in found:
                found[name] = self._by_encoder(job, moments)
            self._spool.put(name, found[name])
            job.tensor.release()
        self.solved.update(job.tensor.name for job in able)
        return {job.tensor.name: _blocks(job, found[job.tensor.name]) for job in jobs}

    def _by_gptq(self, jobs: Sequence[Job], moments: Moments) -> dict[str, Bytes]:
        assert moments.hessian is not None
        found: dict[str, Bytes] = {}
        factors: dict[int, gptq.Factor] = {}  # by the width of blocks
        for job in jobs:
            weights = finite_rows(job, self._options.allow_nonfinite)
            width = quants.get(job.target).weights
            try:
                if width not in factors:
                    factors[width] = gptq.factor(moments.hessian, width, self._options.gptq_damping)
                found[job.tensor.name] = gptq.solve(weights, factors[width], job.target, self._options.thread_count())
            except GGUFError as error:
                raise GGUFError(f"tensor {shown(job.tensor.name)}: {error}") from None
        return found

    def _by_encoder(self, job: Job, moments: Moments) -> Bytes:
        weighed = as_importance(job, moments.squares)
        parts = [convert(piece, self._options.allow_nonfinite).data for piece in pieces(weighed)]
        return np.concatenate(parts)


def _blocks(job: Job, data: Bytes) -> Blocks:
    shape = job.tensor.shape
    width = blocktypes.row_bytes(blocktypes.by_name(job.target), shape)
    return Blocks(data.reshape(rows_of(shape), width), job.target, shape)
