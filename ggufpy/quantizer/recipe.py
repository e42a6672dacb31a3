"""What will be done with each tensor of a file, decided and checked before anything is written.

In: an open file or another source, the file type, options. Out: jobs in the order that they are written in, each with
its type and its importance; GGUFError for what cannot be done, naming the tensor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format import TensorInfo, Typed, blocktypes
from ggufpy.format.values import shown
from ggufpy.quantizer.options import Importance, QuantizeOptions, writable
from ggufpy.quantizer.rules import (
    Kind,
    Mix,
    fitting,
    in_layer,
    kind_of,
    may_change,
    model_of,
    needs_importance,
    order_of,
)
from ggufpy.quantizer.source import QuantizeSource, RowTensor
from ggufpy.quantizer.types import COPY, FLOATS, WHOLE, FileType
from ggufpy.support.records import dataclass

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION of ggml.h
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
LIMIT = 1e20  # of an importance: larger ones could overflow the search for scales


@dataclass(frozen=True)
class Job:
    """A tensor of the source, the type that it will have, and its importance: float32 (matrices, columns) or None.

    `free` says that its type came from the rules and not from the user. `ready` are its rows (rows, bytes a row) where
    they have been made already, `gptq` says that they were by GPTQ.
    """

    tensor: RowTensor
    target: str
    importance: NDArray[np.float32] | None = None
    free: bool = False
    ready: NDArray[np.uint8] | None = field(default=None, compare=False)
    gptq: bool = False

    @property
    def copied(self) -> bool:
        """Whether its bytes stay as they are."""
        return self.tensor.type == self.target

    @property
    def nbytes(self) -> int:
        """Bytes that it will take."""
        return blocktypes.total_bytes(blocktypes.by_name(self.target), self.tensor.shape)

    @property
    def info(self) -> TensorInfo:
        """As a writer wants it declared."""
        return TensorInfo(self.tensor.name, self.tensor.shape, self.target)


@dataclass(frozen=True)
class Recipe:
    """Jobs in the order they are written in; lines for the user about what was not as asked, and about fallbacks."""

    jobs: Sequence[Job]
    notes: Sequence[str] = ()
    replaced: Sequence[str] = ()


def choose_types(
    source: QuantizeSource, target: FileType, options: QuantizeOptions, importance: Importance | None
) -> Recipe:
    """The type of every tensor by the options and the rules."""
    tensors = list(source.tensors.values())
    if not options.keep_split:  # llama-quantize leaves the order of split files as it is
        tensors.sort(key=lambda tensor: order_of(tensor.name))
    mix = Mix(
        target,
        model_of(source.metadata),
        [tensor.name for tensor in tensors],
        importance is not None or options.gptq is not None,
        writable(options.output_tensor_type) if options.output_tensor_type else None,
    )
    chooser = _Chooser(mix, options)
    jobs = [chooser.job(tensor) for tensor in tensors]
    return Recipe(jobs, chooser.notes(), chooser.replaced())


def checked(recipe: Recipe, target: FileType, options: QuantizeOptions, importance: Importance | None) -> Recipe:
    """The recipe with every tensor's importance. GGUFError for one that cannot be written, except in a dry run."""
    jobs = [weighed(job, importance) for job in recipe.jobs]
    if options.dry_run:
        wanting = sum(1 for job in jobs if _lacks_importance(job, target))
        more = [f"{wanting} tensors need an importance matrix to be written (--imatrix)"] if wanting else []
        return replace(recipe, jobs=jobs, notes=[*recipe.notes, *more])
    for job in jobs:
        _check(job, options)
        if options.gptq is None or not in_layer(job.tensor.name):  # measuring gives a layer's an importance
            check_importance(job, target, importance is not None)
    return replace(recipe, jobs=jobs)


def read_importance(source: str | os.PathLike[str] | Importance | None) -> Importance | None:
    """The importance matrix that the options name, read where it is a path."""
    if isinstance(source, (str, os.PathLike)):
        from ggufpy.quantizer.importance import ImportanceMatrix

        return cast(Importance, ImportanceMatrix.read(source))
    return source


class _Chooser:
    """Applies the options before the rules, and the fallback after them; keeps count for the notes."""

    def __init__(self, mix: Mix, options: QuantizeOptions) -> None:
        self._mix, self._options = mix, options
        self._patterns = options.patterns()
        self._matched = [False] * len(self._patterns)
        self._replaced: dict[tuple[str, str], int] = {}
        embedding = options.token_embedding_type
        self._named = {
            Kind.EMBEDDING: writable(embedding) if embedding else None,
            Kind.OUTPUT: mix.output_type,
        }

    def job(self, tensor: RowTensor) -> Job:
        target = self._mix.target
        left = self._options.leave_output_tensor and kind_of(tensor.name) is Kind.OUTPUT
        if target.name == COPY or left or tensor.type in WHOLE or not may_change(tensor.name, tensor.shape):
            return Job(tensor, tensor.type)
        asked = self._asked(tensor.name)
        if asked is not None:
            chosen = asked
        elif target.mixes and not self._options.pure:
            chosen = self._mix.choose(tensor.name, tensor.shape)
        else:
            chosen = target.default
        fits = fitting(chosen, tensor.shape[-1])
        if fits != chosen:
            self._replaced[chosen, fits] = self._replaced.get((chosen, fits), 0) + 1
        return Job(tensor, fits, free=asked is None)

    def replaced(self) -> list[str]:
        """The fallbacks that were taken."""
        return [
            f"{count} tensor{'s have' if count > 1 else ' has'} rows that blocks of {was} do not divide: {now} instead"
            for (was, now), count in self._replaced.items()
        ]

    def notes(self) -> list[str]:
        """What else the user should know."""
        return [
            f"--tensor-type {pattern.pattern!r} is found in no tensor that may change its type"
            for (pattern, _), matched in zip(self._patterns, self._matched, strict=True)
            if not matched
        ]

    def _asked(self, name: str) -> str | None:
        """The type that the user names for this tensor."""
        numbers = [i for i, (pattern, _) in enumerate(self._patterns) if pattern.search(name)]
        for i in numbers:
            self._matched[i] = True
        named = self._named.get(kind_of(name))
        if named is not None:
            return named
        return self._patterns[numbers[0]][1] if numbers else None


def weighed(job: Job, importance: Importance | None) -> Job:
    """The job with the importance of its tensor. GGUFError where that has another shape."""
    if importance is None or job.copied or job.target in FLOATS:
        return job
    weights = importance.weights(job.tensor.name)
    return job if weights is None else as_importance(job, weights)


def as_importance(job: Job, weights: NDArray[Any]) -> Job:
    """The job with these weights (matrices, columns). GGUFError where they are for another shape."""
    name, shape = job.tensor.name, job.tensor.shape
    matrices = shape[-3] if len(shape) > 2 else 1
    if weights.shape != (matrices, shape[-1]):
        if kind_of(name) is Kind.EMBEDDING:  # what looks rows up has no activations to be weighed by
            return job
        raise GGUFError(
            f"the importance of {shown(name)} is for {weights.shape[0]} matrices of {weights.shape[1]} columns, the "
            f"tensor has {matrices} of {shape[-1]}: the importance matrix is of another model"
        )
    if not ((weights >= 0) & (weights <= LIMIT)).all():
        raise GGUFError(
            f"the importance of {shown(name)} has values that are not between 0 and {LIMIT:g}: measure it again"
        )
    return replace(job, importance=np.ascontiguousarray(weights, np.float32))


def _lacks_importance(job: Job, target: FileType) -> bool:
    if job.copied or job.importance is not None:
        return False
    return quants.get(job.target).needs_importance or needs_importance(job.tensor.name, job.target, target)


def check_importance(job: Job, target: FileType, have_matrix: bool) -> None:
    """GGUFError for a tensor that cannot be written without an importance, and has none."""
    if job.ready is None and _lacks_importance(job, target):
        how = "'ggufpy imatrix' measures one"
        what = f"has no entry for it: {how} on this model" if have_matrix else f"is not given (--imatrix FILE; {how})"
        raise GGUFError(f"tensor {shown(job.tensor.name)} as {job.target} needs an importance matrix, which {what}")


def _check(job: Job, options: QuantizeOptions) -> None:
    """GGUFError for a tensor that cannot be written as planned."""
    if job.copied:
        return
    name = shown(job.tensor.name)
    if job.tensor.type not in FLOATS and not options.allow_requantize:
        raise GGUFError(
            f"tensor {name} is {job.tensor.type} already, and quantising it to {job.target} adds to its errors: start "
            "from an F32, F16 or BF16 file, or pass --allow-requantize"
        )
    if not quants.get(job.target).encodes:
        raise GGUFError(f"tensor {name} would be {job.target}, which cannot be written yet: choose another type")


def new_metadata(
    old: Mapping[str, Typed], target: FileType, options: QuantizeOptions, importance: Importance | None
) -> dict[str, Typed]:
    """The metadata of the file to be, as llama-quantize writes them: what changes goes to the end."""
    changed: dict[str, Typed] = {"general.quantization_version": Typed("uint32", QUANTIZATION_VERSION)}
    if target.name != COPY:
        changed["general.file_type"] = Typed("uint32", target.number)
    elif "general.file_type" in old:
        changed["general.file_type"] = old["general.file_type"]
    if importance is not None:
        changed |= _importance_keys(options, importance)
    if options.gptq is not None:
        changed["quantize.gptq.dataset"] = Typed("string", options.gptq.dataset)
    kept = {key: value for key, value in old.items() if key not in changed and key not in SPLIT_KEYS}
    return {**kept, **changed}


def _importance_keys(options: QuantizeOptions, importance: Importance) -> dict[str, Typed]:
    values: dict[str, Any] = {}
    if isinstance(options.imatrix, (str, os.PathLike)):
        values["file"] = Typed("string", os.fspath(options.imatrix))
    if importance.datasets:
        values["dataset"] = Typed("string", importance.datasets[0])
    values["entries_count"] = Typed("uint32", len(importance.names))
    if importance.chunks > 0:
        values["chunks_count"] = Typed("uint32", importance.chunks)
    return {f"quantize.imatrix.{key}": value for key, value in values.items()}
