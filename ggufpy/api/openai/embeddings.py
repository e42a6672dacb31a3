"""Embeddings: what a body asks for, and the rows in OpenAI's shape."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai.fields import EMBEDDING, read
from ggufpy.api.openai.model import Record
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.api.embedding import Embeddings

MOST_INPUTS = 2048  # OpenAI's bound


@dataclass(frozen=True)
class Wanted:
    """The inputs of a request, each a text or tokens, and what their vectors are to be like."""

    inputs: tuple[str | list[int], ...]
    model: str | None
    encoded: bool
    dimensions: int | None
    normalize: bool


def wanted(body: Mapping[str, Any]) -> Wanted:
    """What a body asks for; whether tokens are a model's is not known here. Raises GGUFError for what cannot be."""
    values = read(EMBEDDING, body)
    return Wanted(
        tuple(_inputs(values["input"])),
        values.get("model"),
        values.get("encoding_format") == "base64",
        values.get("dimensions"),
        values.get("embd_normalize", 2) == 2,
    )


def _inputs(given: Any) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    inputs = checks.items("input", given, "a text, a list of texts, token ids or a list of those")
    if not inputs:
        raise GGUFError("input is an empty list; a text, texts or token ids are wanted")
    if not isinstance(inputs[0], str | list):
        return [[checks.whole(f"input[{i}]", token, 0) for i, token in enumerate(inputs)]]
    if len(inputs) > MOST_INPUTS:
        raise GGUFError(f"input has {len(inputs):,} of them, and may have {MOST_INPUTS:,}")
    return [_input(f"input[{i}]", one) for i, one in enumerate(inputs)]


def _input(name: str, given: Any) -> str | list[int]:
    if isinstance(given, str):
        return given
    tokens = checks.items(name, given, "a text or a list of token ids")
    return [checks.whole(f"{name}[{i}]", token, 0) for i, token in enumerate(tokens)]


def row(llm: Embeddings, asked: Wanted, number: int) -> tuple[list[float] | str, int]:
    """The vector of an input as it is told, and how many tokens that has. Raises GGUFError for what has none."""
    given = asked.inputs[number]
    if isinstance(given, str):
        tokens = llm.embedding_tokens(given)
    else:
        tokens = checks.tokens(f"input[{number}]", given, llm.n_vocab())
    made = llm.vector(tokens, normalize=asked.normalize, dimensions=asked.dimensions)
    return encoded(made) if asked.encoded else made.tolist(), len(tokens)


def embeddings(model: str, rows: Sequence[Sequence[float]], tokens: int) -> Record:
    """The rows as OpenAI's list of embeddings, of so many tokens together."""
    return listed(model, [list(row) for row in rows], tokens)


def encoded(row: NDArray[np.float32]) -> str:
    """A row as base64 of float32, little-endian, which OpenAI's clients ask for."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def listed(model: str, rows: Sequence[list[float] | str], tokens: int) -> Record:
    """Rows as they are told, in OpenAI's shape."""
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
