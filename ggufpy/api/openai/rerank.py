"""Ranks of documents: what a body asks for, and the scores in the shapes of Jina's and Cohere's API, and TEI's.

Facts: llama.cpp: tools/server, format_response_rerank; the documents in answers are Jina's (api.jina.ai/redoc).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.api.openai.fields import RERANK, read
from ggufpy.api.openai.kinds import FieldError
from ggufpy.api.openai.model import Record
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

MOST_DOCUMENTS = 2048


@dataclass(frozen=True)
class Wanted:
    """A query and documents; `top` is how many of the best are told, `tei` whether in the shape of Text Embeddings
    Inference, which its field `texts` asks for."""

    query: str
    documents: tuple[str, ...]
    model: str | None
    top: int
    told: bool  # with their texts
    tei: bool


def wanted(body: Mapping[str, Any]) -> Wanted:
    """What a body asks for. Raises GGUFError for what cannot be."""
    values = read(RERANK, body)
    if "documents" in values and "texts" in values:
        raise GGUFError("documents and texts are the same: give one of them")
    tei = "texts" in values
    name = "texts" if tei else "documents"
    if name not in values:
        raise FieldError("documents is missing: a list of texts is wanted", name, "missing_required_parameter")
    given = checks.items(name, values[name], "a list of texts")
    if not 0 < len(given) <= MOST_DOCUMENTS:
        raise GGUFError(f"{name} has {len(given):,} of them; it must have from 1 to {MOST_DOCUMENTS:,}")
    documents = tuple(_document(f"{name}[{i}]", one) for i, one in enumerate(given))
    told = values.get("return_text" if tei else "return_documents", False)
    return Wanted(values["query"], documents, values.get("model"), values.get("top_n", len(documents)), told, tei)


def _document(name: str, given: Any) -> str:
    return checks.text(f"{name}.text", given.get("text")) if isinstance(given, Mapping) else checks.text(name, given)


def ranked(model: str, asked: Wanted, scores: Sequence[float], tokens: int) -> Record | list[Record]:
    """The documents by their scores, best first; equals as they came."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[: asked.top]
    if asked.tei:
        texts = [{"text": text} if asked.told else {} for text in asked.documents]
        return [{"index": i, "score": scores[i], **texts[i]} for i in order]
    documents = [{"document": {"text": text}} if asked.told else {} for text in asked.documents]
    results = [{"index": i, "relevance_score": scores[i], **documents[i]} for i in order]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"model": model, "object": "list", "usage": usage, "results": results}
