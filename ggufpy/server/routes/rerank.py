"""POST /v1/rerank, and llama-server's other names for it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ggufpy.api.openai import rerank
from ggufpy.server import exchange
from ggufpy.server.each import each, note
from ggufpy.server.families import encode
from ggufpy.server.families.openai import OPENAI
from ggufpy.server.fields import refusing
from ggufpy.server.routes import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.service import Service


async def rank(service: Service, request: Request) -> dict[str, Any] | Response:
    """The documents that answer a query best, by a model that ranks texts."""
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    with refusing("documents"):
        asked = rerank.wanted(body)
        async with service.pool.use(asked.model) as served:
            since = time.monotonic()
            calls = [partial(served.llm.score, asked.query, document) for document in asked.documents]
            made = await each(service, request, served, calls)
            tokens = sum(count for _, count in made)
            note(service, served, tokens, time.monotonic() - since)
            told = rerank.ranked(served.name, asked, [score for score, _ in made], tokens)
    return told if isinstance(told, dict) else Response(encode(told), media_type="application/json")


ROUTES = tuple(Route("POST", path, OPENAI, rank) for path in ("/v1/rerank", "/rerank", "/reranking", "/v1/reranking"))
