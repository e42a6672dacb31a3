"""POST /v1/embeddings and /embeddings."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai import embeddings
from ggufpy.api.openai.embeddings import Wanted
from ggufpy.server import exchange
from ggufpy.server.each import each, note
from ggufpy.server.families.openai import OPENAI
from ggufpy.server.fields import refusing
from ggufpy.server.routes import Route
from ggufpy.support import checks

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.llm import Llama
    from ggufpy.server.service import Service


async def embed(service: Service, request: Request) -> dict[str, Any]:
    """A vector for each input, in OpenAI's shape."""
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    with refusing("input"):
        asked = embeddings.wanted(body)
        async with service.pool.use(asked.model) as served:
            since = time.monotonic()
            calls = [partial(_row, served.llm, asked, number) for number in range(len(asked.inputs))]
            made = await each(service, request, served, calls)
            tokens = sum(count for _, count in made)
            note(request, tokens, time.monotonic() - since)
            return embeddings.listed(served.name, [row for row, _ in made], tokens)


def _row(llm: Llama, asked: Wanted, number: int) -> tuple[list[float] | str, int]:
    """A vector as it is told, and how many tokens its text has."""
    given = asked.inputs[number]
    if isinstance(given, str):
        tokens = llm.embedding_tokens(given)
    else:
        tokens = checks.tokens(f"input[{number}]", given, llm.n_vocab())
    row = llm.vector(tokens, normalize=asked.normalize, dimensions=asked.dimensions)
    return embeddings.encoded(row) if asked.encoded else row.tolist(), len(tokens)


ROUTES = tuple(Route("POST", path, OPENAI, embed) for path in ("/v1/embeddings",))
