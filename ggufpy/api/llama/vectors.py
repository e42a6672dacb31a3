"""llama-server's own `/embedding` and `/embeddings`: a list of {"index", "embedding"}, each with rows of numbers.

In: a model and a body. Out: the list. Where nothing is pooled a text has a row for each token, as the model has it;
else one, whose length `embd_normalize` says (llama.cpp: common/common.h, common_embd_normalize).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama import prompts
from ggufpy.api.llama.numbers import whole
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.api.asynchronous import AsyncCompletions

FIELDS = ("content", "input", "embd_normalize", "encoding_format", "model")
NONE, LARGEST, EUCLIDEAN = -1, 0, 2
MOST_NORM = 64  # of p: beyond it powers of float64 are 0 or infinite
INT16 = 32760.0  # what the largest number becomes with LARGEST


@dataclass(frozen=True)
class Wanted:
    """What a body asks for: the tokens of each text, and the norm of their rows."""

    texts: tuple[tuple[int, ...], ...]
    norm: int


def wanted(llm: AsyncCompletions, body: Mapping[str, Any]) -> Wanted:
    """What a body asks for, whose names have been checked. Raises GGUFError for what cannot be read."""
    name = "input" if body.get("input") is not None else "content"
    if body.get(name) is None:
        raise GGUFError(f"input or content is missing; {prompts.WANTED}, or some of them, are wanted")
    norm = EUCLIDEAN if body.get("embd_normalize") is None else whole("embd_normalize", body["embd_normalize"])
    if not NONE <= norm <= MOST_NORM:
        raise GGUFError(f"embd_normalize is {norm}, and must be from {NONE} to {MOST_NORM}")
    if body.get("encoding_format") not in (None, "float"):
        raise GGUFError("encoding_format must be float here: POST /v1/embeddings has base64")
    tokens = prompts.several(llm, name, _plain(name, body[name]))
    for i, each in enumerate(tokens):
        if not each:
            raise GGUFError(f"{name}[{i}] is empty, and the model adds no token of its own: a text is wanted")
    return Wanted(tuple(map(tuple, tokens)), norm)


def embedding(llm: AsyncCompletions, asked: Wanted, number: int) -> dict[str, Any]:
    """The rows of one text."""
    rows = llm.rows(asked.texts[number])
    made = rows if llm.pooling() in ("none", "rank") else normalized(rows, asked.norm)
    return {"index": number, "embedding": made.tolist()}


def _plain(name: str, given: Any) -> Any:
    """Prompts, of which those in OpenAI's shape, {"content": [{"type": "text", "text"}, ...]}, are texts."""
    if isinstance(given, list):
        return [_plain(f"{name}[{i}]", each) for i, each in enumerate(given)]
    if not isinstance(given, Mapping) or "content" not in given:
        return given
    texts = []
    for i, part in enumerate(checks.items(f"{name}.content", given["content"], "a list of parts")):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise GGUFError(f"{name}.content[{i}] is of the type {checks.shown(kind)}; the model takes text alone")
        texts.append(checks.text(f"{name}.content[{i}].text", part.get("text")))
    return "".join(texts)


def normalized(rows: NDArray[np.float64], norm: int) -> NDArray[np.float64]:
    """Rows of a length: -1 as they are, 0 with 32760 for the largest number, p for a p-norm of 1."""
    import numpy as np

    if norm == NONE:
        return rows
    sizes = np.abs(rows)
    largest = sizes.max(axis=1, keepdims=True)
    safe = np.where(largest > 0, largest, 1.0)
    if norm == LARGEST:
        return rows / safe * INT16
    lengths = ((sizes / safe) ** norm).sum(axis=1, keepdims=True) ** (1.0 / norm)
    return rows / safe / np.where(lengths > 0, lengths, 1.0)
