"""Quantised tensors of a checkpoint as they are: in blocks of GGUF, where these have the same numbers.

Every row that is kept is decoded both ways while it is written, and compared: one that differs ends the conversion.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format import blocktypes
from ggufpy.format.rows import Bytes, Floats, NamedRows, Rows, decoded, encoded
from ggufpy.format.values import shown
from ggufpy.quantizer.recipe import Job, Recipe
from ggufpy.quantizer.types import COPY, FLOATS, FileType


class Kept(Rows):
    """The blocks of `exact`, which are shown to have the numbers of `source` wherever they are read.

    Where a checkpoint has floats of 16 bits, what blocks stand for is rounded to those and gives the same bits. NaN are
    the same as NaN: who writes them knows what to say of them.
    """

    def __init__(self, source: Rows, exact: Rows) -> None:
        self._source, self._exact = source, exact

    @property
    def shape(self) -> tuple[int, ...]:
        return self._source.shape

    @property
    def type(self) -> str:
        return self._exact.type

    def rows(self, start: int, stop: int) -> Bytes:
        raw = self._exact.rows(start, stop)
        if not self._same(decoded(raw, self.type), start, stop):
            raise GGUFError(
                f"rows {start} to {stop} are not the same numbers in {self.type}, as they should be: please report "
                "this, and convert with --outtype f16"
            )
        return raw

    def _same(self, numbers: Floats, start: int, stop: int) -> bool:
        if self._source.type in ("BF16", "F16"):
            numbers = decoded(encoded(numbers, self._source.type), self._source.type)
        return np.array_equal(numbers, self._source.floats(start, stop), equal_nan=True)

    def release(self) -> None:
        self._source.release()


class Nearest(Rows):
    """The blocks of `near`; `worst` is the largest difference so far over the largest number."""

    def __init__(self, source: Rows, near: Rows) -> None:
        self._source, self._near = source, near
        self._lock, self._difference, self._largest = threading.Lock(), 0.0, 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._source.shape

    @property
    def type(self) -> str:
        return self._near.type

    @property
    def worst(self) -> float:
        """0 where nothing was read yet."""
        return self._difference / self._largest if self._largest else 0.0

    def rows(self, start: int, stop: int) -> Bytes:
        raw, wanted = self._near.rows(start, stop), self._source.floats(start, stop)
        difference = float(np.abs(decoded(raw, self.type) - wanted).max(initial=0.0))
        largest = float(np.abs(wanted).max(initial=0.0))
        with self._lock:
            self._difference, self._largest = max(self._difference, difference), max(self._largest, largest)
        return raw

    def release(self) -> None:
        self._source.release()


@dataclass
class Keeper:
    """Decides for each job whether a quantised tensor stays as it is, and counts.

    Where the file's type is that of each tensor ("auto"), a quantised tensor becomes its `exact` blocks, or else its
    `near` ones. Where a type is named, it becomes its exact blocks if these take no more bytes. `strict` refuses
    quantised tensors that have no exact blocks.
    """

    target: FileType
    strict: bool = False
    kept: dict[str, int] = field(default_factory=dict)
    blocks: int = 0
    nearest: list[Nearest] = field(default_factory=list)

    def __call__(self, recipe: Recipe) -> Recipe:
        return replace(recipe, jobs=[self._job(job) for job in recipe.jobs])

    def _job(self, job: Job) -> Job:
        tensor = job.tensor
        if not isinstance(tensor, NamedRows) or not tensor.source.quantised:
            return job
        source, exact = tensor.source, tensor.source.exact
        if exact is not None and self._fits(exact, job):
            layout = blocktypes.by_name(exact.type)
            self.kept[exact.type] = self.kept.get(exact.type, 0) + 1
            self.blocks += exact.nbytes // layout.nbytes
            return replace(job, tensor=NamedRows(tensor.name, Kept(source, exact)), target=exact.type, free=False)
        if self.strict:
            why = "its numbers fit no block type without loss" if exact is None else f"{job.target} was asked for"
            raise GGUFError(f"tensor {shown(tensor.name)} cannot be kept as it is: {why}")
        if source.near is not None and self.target.name == COPY:
            near = Nearest(source, source.near)
            self.nearest.append(near)
            return replace(job, tensor=NamedRows(tensor.name, near), target=near.type, free=False)
        return job

    def _fits(self, exact: Rows, job: Job) -> bool:
        if self.target.name == COPY or self.strict:
            return True
        return job.target not in FLOATS and exact.nbytes <= job.nbytes

    def notes(self, compared: bool) -> list[str]:
        """What to tell once everything is written and so `compared`, or of what would be."""
        lines = []
        if self.kept:
            each = ", ".join(f"{count} as {name}" for name, count in sorted(self.kept.items()))
            how = f", each of {self.blocks:,} blocks compared" if compared else f" ({self.blocks:,} blocks)"
            lines.append(f"kept without loss{how}: {each}")
        if self.nearest:
            worst = max(near.worst for near in self.nearest)
            types = ", ".join(sorted({near.type for near in self.nearest}))
            far = f", at most {worst:.2g} of a tensor's largest number away" if compared else ""
            lines.append(
                f"{len(self.nearest)} quantised tensors fit no block type without loss and became the nearest "
                f"({types}){far}"
            )
        return lines
