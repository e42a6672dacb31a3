"""POST /v1/embeddings. Without /v1 llama-server answers in a form of its own (`llama_embedding.py`)."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai import embeddings
from ggufpy.server import exchange
from ggufpy.server.each import each, note
from ggufpy.server.families.openai import OPENAI
from ggufpy.server.fields import refusing
from ggufpy.server.routes import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.service import Service


async def embed(service: Service, request: Request) -> dict[str, Any]:
    """A vector for each input, in OpenAI's shape."""
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    with refusing("input"):
        asked = embeddings.wanted(body)
        async with service.pool.use(asked.model) as served:
            since = time.monotonic()
            calls = [partial(embeddings.row, served.llm, asked, number) for number in range(len(asked.inputs))]
            made = await each(service, request, served, calls)
            tokens = sum(count for _, count in made)
            note(service, served, tokens, time.monotonic() - since)
            return embeddings.listed(served.name, [row for row, _ in made], tokens)


ROUTES = (Route("POST", "/v1/embeddings", OPENAI, embed),)
