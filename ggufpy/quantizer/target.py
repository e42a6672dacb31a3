"""Types chosen by tensor so that all weights together take a number of bits at most, at the least measured error.

Every tensor's error in every type that could hold it is measured on a sample of its rows: the squares of the
differences over those of the weights, each times its column's importance where there is one (that is the noise that
the type adds to the tensor's products, over their signal). Noise of different tensors adds up, so what is made as
small as possible is a sum over tensors, each counted as `stake` says. Lagrange's way: at a price for a byte each tensor
takes the type of the least error plus price; the price is closed in on until the size fits, and what room is left
goes to the best bargains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format import blocktypes
from ggufpy.format.rows import rows_of
from ggufpy.quantizer.convert import floats, matrix_of, numbers, squares
from ggufpy.quantizer.kernels import compile_kernels
from ggufpy.quantizer.options import Importance, QuantizeOptions
from ggufpy.quantizer.recipe import Job, Recipe, weighed
from ggufpy.quantizer.rules import Kind, divides, kind_of
from ggufpy.quantizer.types import FLOATS
from ggufpy.quants.base import PlainType
from ggufpy.quants.encoding import Encoder
from ggufpy.support.records import dataclass

SAMPLE = 1 << 15  # weights of a tensor that are measured
HALVINGS = 100  # of the price of a byte
LOGITS = 8.0  # times that the matrix which gives the logits counts: no layer after it makes up for its errors
LARGE = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K")  # blocks of 256
SMALL = ("IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1")  # blocks of 32, where those do not divide a row
EITHER = ("Q8_0", "F16")
WEIGHED = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")  # good with an importance only


@dataclass(frozen=True)
class Choice:
    """A tensor in one type: the bytes it takes and its error, as it counts."""

    type: str
    nbytes: int
    error: float


def meet_target(recipe: Recipe, options: QuantizeOptions, importance: Importance | None) -> Recipe:
    """The recipe with new types for the free tensors. GGUFError, with the least that there can be, for too few bits."""
    assert options.target_bpw is not None
    wanted = options.target_bpw
    free = [i for i, job in enumerate(recipe.jobs) if _is_free(job, options)]
    jobs = [weighed(replace(recipe.jobs[i], target="Q4_0"), importance) for i in free]
    tied = all(kind_of(job.tensor.name) is not Kind.OUTPUT for job in recipe.jobs)
    stakes = [stake(job, tied) for job in jobs]
    choices = [
        [replace(choice, error=choice.error * counts) for choice in some]
        for some, counts in zip(_measured(jobs, options), stakes, strict=True)
    ]
    fixed = sum(job.nbytes for job in recipe.jobs) - sum(recipe.jobs[i].nbytes for i in free)
    weights = sum(math.prod(job.tensor.shape) for job in recipe.jobs)
    room = math.floor(wanted * weights / 8) - fixed
    least = sum(min(choice.nbytes for choice in some) for some in choices)
    if least > room:
        more = "" if importance else " (an importance matrix, --imatrix, allows smaller ones)"
        raise GGUFError(
            f"{wanted:g} bits per weight cannot be met: the smallest types that can be written take "
            f"{8 * (least + fixed) / weights:.3f}{more}"
        )
    chosen = allocate(choices, room)
    new = list(recipe.jobs)
    for i, choice in zip(free, chosen, strict=True):
        new[i] = replace(recipe.jobs[i], target=choice.type)
    return Recipe(new, recipe.notes)


def stake(job: Job, tied: bool) -> float:
    """How much a tensor's relative error counts: the root of its size, and more for the matrix that gives the logits.

    Measured on SmolLM2 (KL divergence at 5.3 and 6.2 bits): counting each tensor once starves the large ones (0.108,
    0.095), each by its size the sensitive small ones (0.090, 0.043); this gave 0.086 and 0.031.
    """
    last = Kind.EMBEDDING if tied else Kind.OUTPUT
    return math.sqrt(math.prod(job.tensor.shape)) * (LOGITS if kind_of(job.tensor.name) is last else 1.0)


def allocate(choices: Sequence[Sequence[Choice]], room: int) -> list[Choice]:
    """One choice of each, of `room` bytes at most together, with nearly the least sum of errors that there is."""
    low, high = 0.0, 1.0  # prices; `high` fits
    while _total(_at(choices, high)) > room:
        high *= 16
    if _total(_at(choices, 0.0)) <= room:
        return _at(choices, 0.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _total(_at(choices, middle)) > room:
            low = middle
        else:
            high = middle
    return _fill(choices, _at(choices, high), room)


def _at(choices: Sequence[Sequence[Choice]], price: float) -> list[Choice]:
    return [min(some, key=lambda choice: (choice.error + price * choice.nbytes, choice.nbytes)) for some in choices]


def _total(choices: Sequence[Choice]) -> int:
    return sum(choice.nbytes for choice in choices)


def _fill(choices: Sequence[Sequence[Choice]], chosen: list[Choice], room: int) -> list[Choice]:
    """Spend what room is left on what lowers the error most for a byte."""
    left = room - _total(chosen)
    while True:
        best: tuple[float, int, Choice] | None = None
        for i, some in enumerate(choices):
            for choice in some:
                more = choice.nbytes - chosen[i].nbytes
                gain = chosen[i].error - choice.error
                if 0 <= more <= left and gain > 0:
                    worth = gain / max(more, 1)
                    if best is None or worth > best[0]:
                        best = worth, i, choice
        if best is None:
            return chosen
        _, i, choice = best
        left -= choice.nbytes - chosen[i].nbytes
        chosen[i] = choice


def _is_free(job: Job, options: QuantizeOptions) -> bool:
    return job.free and job.tensor.nbytes > 0 and (job.tensor.type in FLOATS or options.allow_requantize)


def _candidates(job: Job) -> list[str]:
    """The types that a tensor could have; its own among them if it is small enough to stay."""
    columns = job.tensor.shape[-1]
    names = [*(LARGE if divides("Q4_K", columns) else SMALL), *EITHER]
    if job.importance is not None and divides("IQ2_S", columns):
        names += WEIGHED
    if job.tensor.type != "F32":
        names = [name for name in names if name != "F16"] + [job.tensor.type]
    return [name for name in dict.fromkeys(names) if divides(name, columns) and quants.get(name).encodes]


def _measured(jobs: Sequence[Job], options: QuantizeOptions) -> list[list[Choice]]:
    """For each tensor its choices."""
    candidates = [_candidates(job) for job in jobs]
    pairs = {(name, job.importance is not None) for job, names in zip(jobs, candidates, strict=True) for name in names}
    compile_kernels(pairs, options.progress)
    measured = []
    with ThreadPoolExecutor(options.thread_count()) as pool:
        try:
            for i, choices in enumerate(pool.map(_choices, jobs, candidates)):
                options.progress("measure", i + 1, len(jobs))
                measured.append(choices)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return measured


def _choices(job: Job, names: Sequence[str]) -> list[Choice]:
    """The bytes and relative squared errors of one tensor in each type, on rows spread over all of it."""
    tensor = job.tensor
    rows, columns = rows_of(tensor.shape), tensor.shape[-1]
    picked = np.unique(np.linspace(0, rows - 1, max(1, min(rows, SAMPLE // columns))).astype(np.int64))
    parts = [floats(numbers(tensor.rows(int(row), int(row) + 1), tensor.type)) for row in picked]
    x = np.ascontiguousarray(np.concatenate(parts))
    x[~np.isfinite(x)] = 0
    weight = None
    if job.importance is not None:
        weight = np.ascontiguousarray(job.importance[matrix_of(picked, job)])
    choices = []
    for name in names:
        size = blocktypes.total_bytes(blocktypes.by_name(name), tensor.shape)
        if name == tensor.type:
            choices.append(Choice(name, size, 0.0))
            continue
        block = quants.get(name)
        if isinstance(block, PlainType):
            data = block.encode(x)
        else:
            data = np.empty((len(x), columns // block.weights * block.nbytes), np.uint8)
            try:
                Encoder(block, 1).encode(x, weight, data)
            except GGUFError:  # weights beyond what its scales can hold: not a type for this tensor
                continue
        wrong, whole = squares(x, quants.dequantize(data, name), weight)
        choices.append(Choice(name, size, wrong / whole if whole else 0.0))
    tensor.release()
    return choices
