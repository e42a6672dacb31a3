"""Logits where the engine has computed them, and what is measured of them there by kernels, on all of its threads.

Nothing of the size of the vocabulary is copied: rows are reduced to a few numbers, or to their likely tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.cpu.kernels.likely import SCRATCH
from ggufpy.jit.spec import kernel
from ggufpy.support.records import dataclass

from .lowering import Call
from .memory import Region
from .workspace import Workspace

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
RECORD = 16  # bytes a row of what kernels return


@dataclass(frozen=True)
class Softmax:
    """By row: the largest logit, log of the sum of e^(logit - largest), that sum, and the token of the largest."""

    largest: Floats
    log_sum: Doubles
    total: Floats
    top: Ints

    def region(self) -> Region:
        """What kernels take: f32 largest, log sum, sum, 0."""
        made = Region(RECORD * len(self.top), "softmax")
        made.view(np.float32, len(self.top), 4)[:, :3] = np.stack([self.largest, self.log_sum, self.total], axis=1)
        return made


@dataclass(frozen=True)
class Tokens:
    """Some tokens of each row, one row after the other: how many by row, their ids and log-probabilities."""

    counts: Ints
    ids: NDArray[np.int32]
    values: Floats


@dataclass(frozen=True)
class Likely:
    """The tokens that carry a row's probability: those of at least some probability, and a sample of the others.

    `rest` is the probability of all others together, by row.
    """

    above: Tokens
    sample: Tokens
    rest: Floats


class LogitRows:
    """`count` rows of logits of `vocabulary` tokens, in the engine's memory until its next step.

    `run` runs a kernel on up to `threads` threads.
    """

    def __init__(self, work: Workspace, count: int, vocabulary: int, threads: int, run: Callable[[Call], None]) -> None:
        self.count, self.vocabulary = count, vocabulary
        self._work, self._threads, self._run = work, threads, run

    @property
    def values(self) -> Floats:
        """The logits (count, vocabulary): a view."""
        return self._work.rows_of("logits")[: self.count, : self.vocabulary]

    def at(self, tokens: Ints) -> Floats:
        """The logit of one token of each row."""
        chosen: Floats = self.values[np.arange(self.count), tokens]
        return chosen

    def _call(self, name: str, **arguments: int | float) -> None:
        logits, stride = self._work.address("logits"), self._work.stride("logits")
        shared = {"n_rows": self.count, "logits_ptr": logits, "logits_stride": stride}
        self._run(Call(kernel(name), shared | arguments, frozenset(), frozenset()))

    def softmax(self) -> Softmax:
        """What log-probabilities are made of. `log_sum` is NaN for a row with a logit that is no finite number."""
        out = Region(RECORD * self.count, "softmax")
        self._call("log_softmax", n_columns=self.vocabulary, out_ptr=out.at(0, out.nbytes))
        records = out.view(np.float32, self.count, 4)
        total = records[:, 1].copy()
        bad = ~np.isfinite(total) | (total < 0.5)  # the largest alone is 1
        log_sum = np.log(np.where(bad, np.nan, total.astype(np.float64)))
        top = out.view(np.int32, self.count, 4)[:, 2].astype(np.int64)
        return Softmax(records[:, 0].copy(), log_sum, total, top)

    def likely(self, softmax: Softmax, least: float) -> Likely:
        """Tokens of probability `least` or more, and a systematic sample of the others, one for each `least` of theirs.

        See `kernels/likely.py`. Rows must be finite.
        """
        width = self.vocabulary
        stats, numbers = softmax.region(), Region(RECORD * self.count, "numbers of tokens")
        ids, values = (Region(4 * width * self.count, "likely tokens", sparse=True) for _ in range(2))
        scratch = Region(SCRATCH * self._threads, "scratch of likely tokens")
        self._call(
            "likely", n_columns=width, stats_ptr=stats.at(0, stats.nbytes), ids_ptr=ids.at(0, ids.nbytes),
            values_ptr=values.at(0, values.nbytes), numbers_ptr=numbers.at(0, numbers.nbytes),
            scratch_ptr=scratch.at(0, scratch.nbytes), least=np.log(least), tick=least,
        )  # fmt: skip
        records = numbers.view(np.int32, self.count, 4)
        rows = ids.view(np.int32, self.count, width), values.view(np.float32, self.count, width)
        heads, tails = records[:, 0].astype(np.int64), records[:, 1].astype(np.int64)

        def gather(counts: Ints, from_end: bool) -> Tokens:
            def picked(rows: NDArray[Any]) -> NDArray[Any]:
                each = zip(rows, counts, strict=True)
                return np.concatenate([row[width - n :][::-1] if from_end else row[:n] for row, n in each])

            shift = np.repeat(softmax.log_sum, counts)
            return Tokens(counts, picked(rows[0]), (picked(rows[1]) - shift).astype(np.float32))

        rest = numbers.view(np.float32, self.count, 4)[:, 2].copy()
        return Likely(gather(heads, from_end=False), gather(tails, from_end=True), rest)

    def divergence(self, softmax: Softmax, tokens: Tokens, weights: Floats) -> Doubles:
        """By row: the sum over its tokens of weight · (their log-probability - the one that these logits give).

        Raises ValueError unless there are tokens for every row, all in the vocabulary.
        """
        total = int(tokens.counts.sum())
        if len(tokens.counts) != self.count or not total == tokens.ids.size == tokens.values.size == weights.size:
            raise ValueError(f"{total} tokens of {len(tokens.counts)} rows, {tokens.ids.size} given for {self.count}")
        if total and not 0 <= int(tokens.ids.min()) <= int(tokens.ids.max()) < self.vocabulary:
            raise ValueError("a token is not in the vocabulary")
        stats, starts = softmax.region(), Region(8 * (self.count + 1), "starts")
        starts.view(np.int64, self.count + 1)[1:] = np.cumsum(tokens.counts)
        given = [Region(max(4 * total, 4), "stored tokens") for _ in range(3)]
        given[0].view(np.int32, total)[:] = tokens.ids
        given[1].view(np.float32, total)[:] = tokens.values
        given[2].view(np.float32, total)[:] = weights
        out = Region(4 * self.count, "divergence")
        self._call(
            "divergence", stats_ptr=stats.at(0, stats.nbytes), starts_ptr=starts.at(0, starts.nbytes),
            ids_ptr=given[0].at(0, 4 * total), values_ptr=given[1].at(0, 4 * total),
            weights_ptr=given[2].at(0, 4 * total), out_ptr=out.at(0, out.nbytes),
        )  # fmt: skip
        return out.view(np.float32, self.count).astype(np.float64)
