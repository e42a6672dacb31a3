"""Perplexity of a model on a text, and its KL divergence from another's logits on the same text.

The method is llama-perplexity's (llama.cpp: tools/perplexity/perplexity.cpp): the text's tokens are cut into chunks of
n_ctx; each is read into a fresh context, its first token replaced by the vocabulary's beginning token where the model
wants one; the second half is scored. In: an engine and chunks. Out: a `Result`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.measure.klbase import LEAST, SMALLEST, BaseChunk, KlBase, KlBaseWriter, Scored, scored
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.backends.cpu.score import Likely, LogitRows, Tokens
    from ggufpy.runtime.engine import Engine
    from ggufpy.runtime.sequence import Sequence
    from ggufpy.tokenizers import Tokenizer

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Report = Callable[[int, int, float], None]  # chunks done, chunks in all, perplexity so far

MOST_NATS = 700.0  # a token: e to more is no float64


@dataclass(frozen=True)
class Divergence:
    """KL divergence in nats, by scored position; how often the likeliest token is the same; perplexity over the base's
    and the standard error of that."""

    kld_mean: float
    kld_error: float
    kld_median: float
    kld_p99: float
    kld_max: float
    same_top: float
    ppl_base: float
    ppl_ratio: float
    ppl_ratio_error: float


@dataclass(frozen=True)
class Result:
    """`ppl_error` is the standard error of `ppl`, `tokens` how many were scored; rates count all that were read."""

    ppl: float
    ppl_error: float
    tokens: int
    chunks: int
    seconds: float
    tokens_per_second: float
    divergence: Divergence | None = None


def text_tokens(tokenizer: Tokenizer, text: bytes) -> list[int]:
    """The tokens of a text, with a beginning token where the vocabulary wants one, and no end token.

    Tags of special tokens are plain text, and a newline that ends the text is left out, as llama-perplexity has it.
    """
    ids = tokenizer.encode(text.removesuffix(b"\n"), add_special=False, parse_special=False)
    return [tokenizer.bos, *ids] if tokenizer.add_bos and tokenizer.bos is not None else ids


def windows(tokens: Items[int], n_ctx: int, bos: int | None, chunks: int = -1) -> Ints:
    """Chunks of the text (chunks, n_ctx), the first token of each replaced by `bos` unless that is None.

    `chunks` -1: all that are whole. Raises GGUFError for a text of less than two chunks, as llama-perplexity does.
    """
    if n_ctx < SMALLEST:
        raise GGUFError(f"chunks of {n_ctx} tokens are too short: {SMALLEST} is the least (-c)")
    if len(tokens) < 2 * n_ctx:
        most = len(tokens) // 2
        hint = f"use -c {most} or less, or a longer text" if most >= SMALLEST else "give a longer text"
        raise GGUFError(f"the text has {len(tokens)} tokens, and chunks of {n_ctx} want at least {2 * n_ctx}: {hint}")
    count = len(tokens) // n_ctx if chunks < 0 else min(chunks, len(tokens) // n_ctx)
    rows = np.array(tokens[: count * n_ctx], np.int64).reshape(count, n_ctx)
    if bos is not None:
        rows[:, 0] = bos
    return rows


@dataclass
class _Chunk:
    """What has been found about the scored positions of one chunk so far."""

    targets: Ints
    base: BaseChunk | None
    keep: bool
    nll: list[Doubles] = field(default_factory=list)
    top: list[Ints] = field(default_factory=list)
    kld: list[Doubles] = field(default_factory=list)
    likely: list[Likely] = field(default_factory=list)

    def take(self, first: int, rows: LogitRows) -> None:
        """Scores rows, the first of which is scored position `first`. Raises GGUFError for logits that are none."""
        softmax = rows.softmax()
        targets = self.targets[first : first + rows.count]
        nll = softmax.log_sum - (rows.at(targets).astype(np.float64) - softmax.largest)
        if not np.isfinite(nll).all():
            raise GGUFError("the model's logits are not finite numbers: the file may be damaged (ggufpy verify)")
        self.nll.append(nll)
        self.top.append(softmax.top)
        if self.base is not None:
            excess = self.base.excess[first : first + rows.count]
            self.kld.append(rows.divergence(softmax, *self.base.rows(first, rows.count)) - excess)
        if self.keep:
            self.likely.append(rows.likely(softmax, LEAST))

    def taker(self, before: int) -> Callable[[int, LogitRows], None]:
        """`take` for a step whose first wanted row is scored position `before`."""
        return lambda first, rows: self.take(before + first, rows)

    def scores(self) -> Scored:
        """What a base keeps."""
        parts = self.likely
        rest = np.concatenate([part.rest for part in parts])
        above, sample = _joined([part.above for part in parts]), _joined([part.sample for part in parts])
        nll = np.concatenate(self.nll).astype(np.float32)
        return Scored(nll, np.concatenate(self.top), rest, above, sample)


def _joined(parts: list[Tokens]) -> Tokens:
    from ggufpy.backends.cpu.score import Tokens

    return Tokens(*(np.concatenate(each) for each in zip(*((p.counts, p.ids, p.values) for p in parts), strict=True)))


@dataclass(frozen=True)
class _Sums:
    """By scored position, over all chunks."""

    nll: list[Doubles] = field(default_factory=list)
    nll_base: list[Doubles] = field(default_factory=list)
    kld: list[Doubles] = field(default_factory=list)
    same: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, chunk: _Chunk) -> None:
        self.nll.extend(chunk.nll)
        if chunk.base is not None:
            self.nll_base.append(chunk.base.nll.astype(np.float64))
            self.kld.extend(chunk.kld)
            self.same.append(np.concatenate(chunk.top) == chunk.base.top)

    def divergence(self) -> Divergence | None:
        if not self.kld:
            return None
        kld, nll, base = (np.concatenate(parts) for parts in (self.kld, self.nll, self.nll_base))
        ratio, error = exponential(nll - base)
        median, p99 = np.percentile(kld, [50, 99])
        return Divergence(
            float(kld.mean()), standard_error(kld), float(median), float(p99), float(kld.max()),
            float(np.concatenate(self.same).mean()), exponential(base)[0], ratio, error,
        )  # fmt: skip


def standard_error(values: Doubles) -> float:
    """The standard error of the mean: sqrt((mean of squares - square of the mean) / (n - 1))."""
    return float(np.sqrt(values.var() / (values.size - 1))) if values.size > 1 else 0.0


def exponential(values: Doubles) -> tuple[float, float]:
    """e to the mean, and its standard error to first order: that of the mean times e to the mean.

    Raises GGUFError for what no model of a text comes near.
    """
    mean = float(values.mean())
    if mean > MOST_NATS:
        raise GGUFError(f"the perplexity is e^{mean:.4g}, too much for any text: the model is damaged (ggufpy verify)")
    value = math.exp(mean)
    return value, value * standard_error(values)


def measure(
    engine: Engine,
    chunks: Ints,
    base: KlBase | None = None,
    save: KlBaseWriter | None = None,
    report: Report | None = None,
) -> Result:
    """Scores chunks (chunks, n_ctx) of tokens, against `base` and into `save` where they are given.

    The base must fit (`KlBase.check`). Raises GGUFError for a context that the engine does not have, or logits that
    are no finite numbers.
    """
    start = time.perf_counter()
    sums = _Sums()
    sequence = engine.sequence()
    try:
        for number, tokens in enumerate(chunks):
            targets = tokens[scored(len(tokens)).start + 1 :]
            chunk = _Chunk(targets, base.chunk(number) if base is not None else None, save is not None)
            _evaluate(engine, sequence, tokens, chunk)
            sums.add(chunk)
            if save is not None:
                save.add(tokens, chunk.scores())
            if report is not None:
                report(number + 1, len(chunks), exponential(np.concatenate(sums.nll))[0])
    finally:
        sequence.close()
    seconds = time.perf_counter() - start
    nll = np.concatenate(sums.nll)
    return Result(*exponential(nll), nll.size, len(chunks), seconds, chunks.size / seconds, sums.divergence())


def _evaluate(engine: Engine, sequence: Sequence, tokens: Ints, chunk: _Chunk) -> None:
    """Reads a chunk into the sequence, emptied first, a step of the engine's at a time; `chunk` takes scored rows."""
    from ggufpy.runtime.engine import Chunk

    sequence.truncate(0)
    wanted = scored(len(tokens))
    for first in range(0, len(tokens), engine.rows):
        part = tokens[first : first + engine.rows]
        start, stop = max(wanted.start, first), min(wanted.stop, first + len(part))
        rows = range(start - first, stop - first) if start < stop else range(0)
        bulk = engine.reads_in_bulk(len(tokens))
        engine.visit(Chunk(sequence, part.tolist(), rows, bulk), chunk.taker(start - wanted.start))
