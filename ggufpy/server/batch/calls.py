"""What the requests of a batch may ask for, by URL: texts, which are evaluated together, or vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.server.fields import refusing
from ggufpy.server.problems import BAD_REQUEST, Problem

if TYPE_CHECKING:
    from ggufpy.api.openai.embeddings import Wanted
    from ggufpy.llm import Llama
    from ggufpy.server.responses_store import Responses
    from ggufpy.server.work import Prepared

Record = dict[str, Any]


def _chat(llm: Llama, body: Record, kept: Responses) -> Prepared:
    from ggufpy.server.routes.openai_chat import chat

    return chat(llm, body)


def _completion(llm: Llama, body: Record, kept: Responses) -> Prepared:
    from ggufpy.server.routes.openai_chat import completion

    return completion(llm, body)


def _response(llm: Llama, body: Record, kept: Responses) -> Prepared:
    from ggufpy.server.responses import prepare

    return prepare(kept, "", llm, body)


def _embedding(llm: Llama, body: Record, kept: Responses) -> Callable[[], Record]:
    from ggufpy.api.openai import embeddings

    with refusing("input"):
        return partial(_rows, llm, embeddings.wanted(body))


def _rows(llm: Llama, wanted: Wanted) -> Record:
    from ggufpy.api.openai import embeddings

    with refusing("input"):
        made = [embeddings.row(llm, wanted, number) for number in range(len(wanted.inputs))]
    return embeddings.listed(wanted.model or llm.name, [row for row, _ in made], sum(count for _, count in made))


Call = Callable[["Llama", Record, "Responses"], "Prepared | Callable[[], Record]"]

URLS: Mapping[str, Call] = MappingProxyType(
    {
        "/v1/chat/completions": _chat,
        "/v1/completions": _completion,
        "/v1/embeddings": _embedding,
        "/v1/responses": _response,
    }
)


def prepare(llm: Llama, url: str, body: Record, kept: Responses) -> Prepared | Callable[[], Record]:
    """What a request asks for: texts to be made, or what makes its answer. Raises Problem for what cannot be."""
    if body.get("stream"):
        raise Problem(BAD_REQUEST, "stream cannot be honoured in a batch: leave it out", None, "stream")
    try:
        return URLS[url](llm, body, kept)
    except GGUFError as error:
        raise Problem(BAD_REQUEST, str(error)) from error
