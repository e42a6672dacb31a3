"""POST /embedding and /embeddings: llama-server's own shape, a list; OpenAI's is at /v1/embeddings."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from ggufpy.api.llama import vectors
from ggufpy.server import exchange
from ggufpy.server.each import each, note
from ggufpy.server.families.llama import LLAMA
from ggufpy.server.routes import Route
from ggufpy.server.routes._llama import listed, model_of, record_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ggufpy.server.service import Service


async def embeddings(service: Service, request: Request) -> Response:
    """The vectors of one text or of several."""
    body = await record_of(service, request, vectors.FIELDS)
    async with model_of(service, request, body) as served:
        since = time.monotonic()
        asked = await service.prepare(lambda: vectors.wanted(served.llm, body), exchange.size_of(request))
        calls = [partial(vectors.embedding, served.llm, asked, number) for number in range(len(asked.texts))]
        made = await each(service, request, served, calls)
        note(service, served, sum(map(len, asked.texts)), time.monotonic() - since)
        return listed(made)


ROUTES = tuple(Route("POST", path, LLAMA, embeddings) for path in ("/embedding", "/embeddings"))
