"""Texts as vectors: the final hidden states of a model, pooled to one row a text.

In: texts. Out: float64 rows (1, width) of each, (tokens, width) where nothing is pooled, or (1, labels) of a model that
ranks texts. What pooling there is: enum llama_pooling_type in include/llama.h of llama.cpp; how it is done, and the
matrices behind it: build_pooling and build_dense_out in its src/llama-graph.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.runtime.request import Request
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.generate.loop import Loop
    from ggufpy.models.classifier import Values
    from ggufpy.tokenizers import Tokenizer

Doubles = NDArray[np.float64]

POOLINGS: dict[str, Callable[[Doubles], Doubles]] = {
    "none": lambda rows: rows,
    "mean": lambda rows: rows.mean(axis=0, keepdims=True),
    "cls": lambda rows: rows[:1],
    "last": lambda rows: rows[-1:],
}
NAMES = ", ".join(POOLINGS)


@dataclass(frozen=True)
class Embedder:
    """Embeds texts by a model. `values` has the weights of what follows the pooling, `scales` how much each adapter
    counts."""

    loop: Loop
    values: Values
    scales: tuple[float, ...] = ()

    def pooling(self, asked: str | None) -> str:
        """What is asked for, or what the model says; where it says nothing the mean, or the last row of a model whose
        tokens see only what is before them. Raises GGUFError for what there is not."""
        plan = self.loop.engine.model.plan
        otherwise = "mean" if plan.whole_texts else "last"
        kind = plan.pooling or otherwise if asked is None else checks.text("pooling", asked)
        if kind == "rank" and plan.classifier is None:
            raise GGUFError(f"the model has no classifier (cls.weight), which makes scores; use a pooling of {NAMES}")
        if kind not in POOLINGS and kind != "rank":
            raise GGUFError(f"pooling is {checks.shown(kind)}; it must be rank or one of {NAMES}")
        return kind

    def of_texts(
        self, tokenizer: Tokenizer, given: object, pooling: str | None, normalize: bool, truncate: bool = False
    ) -> tuple[list[list[float]], int]:
        """The rows of a text or of several, and how many tokens these have together; `normalize` makes vectors 1 long,
        `truncate` takes what the context holds of a text.

        Raises GGUFError for no text, for several where nothing is pooled, and as `of_tokens` does.
        """
        unit, kind = checks.flag("normalize", normalize), self.pooling(pooling)
        most = self.loop.engine.n_ctx if checks.flag("truncate", truncate) else None
        vectors: list[list[float]] = []
        count = 0
        for text in _texts(given, kind):
            tokens = tokenizer.encode(text, add_special=True, parse_special=True)[:most]
            rows = self.of_tokens(tokens, kind)
            vectors += (of_length_one(rows) if unit and kind != "rank" else rows).tolist()
            count += len(tokens)
        return vectors, count

    def of_tokens(self, tokens: Sequence[int], kind: str) -> Doubles:
        """The rows of a text. Raises GGUFError for one that is empty or longer than the context."""
        engine = self.loop.engine
        if len(tokens) > engine.n_ctx:
            raise GGUFError(
                f"a text of {len(tokens)} tokens is longer than the context of {engine.n_ctx}: shorten it, load the "
                "model with a larger n_ctx (-c), or say that its beginning is enough (truncate)"
            )
        hidden = np.empty((len(tokens), engine.n_hidden), np.float32)

        def take(first: int, rows: NDArray[np.float32]) -> None:
            hidden[first : first + len(rows)] = rows

        self.loop.run(Request(tokens, take=take, hidden=True, reuse="none", scales=self.scales))
        _check_finite(hidden, "hidden states")
        return self._pooled(hidden.astype(np.float64), kind)

    def _pooled(self, rows: Doubles, kind: str) -> Doubles:
        """One of POOLINGS of a text's rows, times the matrices behind it; for "rank" the scores of a classifier."""
        plan = self.loop.engine.model.plan
        if kind != "rank" or plan.classifier is None:
            return self._through_dense(POOLINGS[kind](rows))
        first = POOLINGS[plan.classifier.pooled or ("cls" if plan.whole_texts else "last")](rows)
        return plan.classifier.scores(first[0], self.values)[None]

    @cached_property
    def _dense(self) -> tuple[NDArray[np.float32], ...]:
        """The matrices behind the pooling, each (rows, columns)."""
        weights = self.loop.engine.model.plan.dense
        return tuple(np.asarray(self.values(weight), np.float32).reshape(weight.shape) for weight in weights)

    def _through_dense(self, rows: Doubles) -> Doubles:
        """Rows (n, width) times these matrices, in float32 as they are kept."""
        if not self._dense:
            return rows
        x = rows.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for matrix in self._dense:
                x = x @ matrix.T
        _check_finite(x, "embeddings")
        return x.astype(np.float64)


def of_length_one(rows: Doubles) -> Doubles:
    """Rows divided by their Euclidean norms; zeros stay zeros."""
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1.0)


def _check_finite(rows: NDArray[np.float32], what: str) -> None:
    if not np.isfinite(rows).all():
        raise GGUFError(f"the model's {what} are not finite: its weights may be damaged (ggufpy verify)")


def _texts(given: object, kind: str) -> list[str]:
    texts = [given] if isinstance(given, str) else checks.items("input", given, "a text (str) or a list of texts")
    for i, text in enumerate(texts):
        checks.text(f"input[{i}]", text)
    if not texts:
        raise GGUFError("input is an empty list; a text (str) or a list of texts is wanted")
    if kind == "none" and len(texts) > 1:
        raise GGUFError("without pooling a text has a vector for each token: give one text at a time")
    return texts
