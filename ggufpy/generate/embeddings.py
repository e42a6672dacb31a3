"""Texts as vectors: the final hidden states of a model, pooled to one row a text.

In: tokens of texts. Out: float64 rows (1, width) of each, or (tokens, width) where nothing is pooled. What pooling
there is: enum llama_pooling_type in include/llama.h of llama.cpp; how it is done: build_pooling in its
src/llama-graph.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.runtime.request import Request
from ggufpy.support import checks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggufpy.generate.loop import Loop

Doubles = NDArray[np.float64]

POOLINGS: dict[str, Callable[[Doubles], Doubles]] = {
    "none": lambda rows: rows,
    "mean": lambda rows: rows.mean(axis=0, keepdims=True),
    "cls": lambda rows: rows[:1],
    "last": lambda rows: rows[-1:],
}


def pooling_of(loop: Loop, asked: str | None) -> str:
    """What is asked for, or what the model says; where it says nothing the mean, or the last row of a model whose
    tokens see only what is before them. Raises GGUFError for what there is not."""
    plan = loop.engine.model.plan
    otherwise = "mean" if plan.whole_texts else "last"
    kind = plan.pooling or otherwise if asked is None else checks.text("pooling", asked)
    if kind in POOLINGS:
        return kind
    if kind == "rank" and asked is None:
        raise GGUFError(
            f"the model ranks texts, which ggufpy does not run yet; with a pooling of {_names()} it makes embeddings"
        )
    raise GGUFError(f"pooling is {checks.shown(kind)}; it must be one of {_names()}")


def _names() -> str:
    return ", ".join(POOLINGS)


def of_tokens(loop: Loop, tokens: Sequence[int], kind: str, scales: Sequence[float] = ()) -> Doubles:
    """The rows of a text. Raises GGUFError for a text that is empty or longer than the context."""
    ids = tuple(tokens)
    engine = loop.engine
    if len(ids) > engine.n_ctx:
        raise GGUFError(
            f"a text of {len(ids)} tokens is longer than the context of {engine.n_ctx}: shorten it, or load the model "
            "with a larger n_ctx (-c)"
        )
    found = np.empty((len(ids), engine.n_hidden), np.float32)

    def take(first: int, rows: NDArray[np.float32]) -> None:
        found[first : first + len(rows)] = rows

    loop.run(Request(ids, take=take, hidden=True, reuse="none", scales=tuple(scales)))
    if not np.isfinite(found).all():
        raise GGUFError("the model's hidden states are not finite: its weights may be damaged (ggufpy verify)")
    return POOLINGS[kind](found.astype(np.float64))


def of_length_one(rows: Doubles) -> Doubles:
    """Rows divided by their Euclidean norms; zeros stay zeros."""
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1.0)


def texts_of(given: str | Sequence[str], kind: str) -> list[str]:
    """A text or several. Raises GGUFError for none, and for several where a text's rows are not pooled to one."""
    texts = [given] if isinstance(given, str) else checks.items("input", given, "a text (str) or a list of texts")
    for i, text in enumerate(texts):
        checks.text(f"input[{i}]", text)
    if not texts:
        raise GGUFError("input is an empty list; a text (str) or a list of texts is wanted")
    if kind == "none" and len(texts) > 1:
        raise GGUFError("without pooling a text has a vector for each token: give one text at a time")
    return texts
