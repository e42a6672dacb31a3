"""Embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from ggufpy.api.openai.model import Record


def embeddings(model: str, rows: Sequence[Sequence[float]], tokens: int) -> Record:
    """The rows as OpenAI's list of embeddings, of so many tokens together."""
    data = [{"object": "embedding", "index": i, "embedding": list(row)} for i, row in enumerate(rows)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
