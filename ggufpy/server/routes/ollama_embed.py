"""POST /api/embed and the older /api/embeddings: vectors of texts."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.ollama import fields, moments, options
from ggufpy.server.families.ollama import OLLAMA
from ggufpy.server.problems import BAD_REQUEST, Problem
from ggufpy.server.routes import Route
from ggufpy.server.routes._ollama import body_of, found, name_in
from ggufpy.support import checks

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.llm import Llama
    from ggufpy.server.service import Service

Record = dict[str, Any]
EMBED, EMBEDDINGS = "/api/embed", "/api/embeddings"


async def embed(service: Service, request: Request) -> Record:
    """A vector, 1 long, for each text."""
    body = await body_of(service, request)
    name, texts = name_in(body), _texts(body.get("input"))
    fields.check(EMBED, body)
    truncate = body.get("truncate")
    truncate = True if truncate is None else checks.flag("truncate", truncate)
    size = body.get("dimensions")
    size = None if size is None else checks.whole("dimensions", size, 0) or None
    clock = asyncio.get_running_loop().time
    start = clock()
    options.checked(body.get("options"))
    entry = await found(service, name)
    async with service.pool.use(entry.name, moments.keep_alive(body.get("keep_alive"))) as served:
        loaded = clock()
        vectors, count = await service.prepare(partial(_vectors, served.llm, texts, truncate, size))
    return {"model": name, "embeddings": vectors, "total_duration": moments.nanoseconds(clock() - start),
            "load_duration": moments.nanoseconds(loaded - start), "prompt_eval_count": count}  # fmt: skip


async def embeddings(service: Service, request: Request) -> Record:
    """The vector of one text, as long as it comes out of the model."""
    body = await body_of(service, request)
    name = name_in(body)
    fields.check(EMBEDDINGS, body)
    prompt = checks.text("prompt", body.get("prompt") or "")
    options.checked(body.get("options"))
    entry = await found(service, name)
    async with service.pool.use(entry.name, moments.keep_alive(body.get("keep_alive"))) as served:
        if not prompt:
            return {"embedding": []}
        return {"embedding": await service.prepare(partial(served.llm.embed, prompt))}


def _texts(given: object) -> list[str]:
    """The texts of `input`. Raises Problem for what is none."""
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise Problem(BAD_REQUEST, "input must be a text or a list of texts", None, "input")
    return given


def _vectors(llm: Llama, texts: list[str], truncate: bool, size: int | None) -> tuple[list[list[float]], int]:
    """A vector for each text, of its first `size` numbers, and how many tokens were read."""
    import numpy as np

    if not texts:
        return [], 0
    rows, count = llm.embed(texts, normalize=True, truncate=truncate, return_count=True)
    if size is None or size >= len(rows[0]):
        return rows, count
    cut = np.asarray(rows)[:, :size]
    lengths = np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return (cut / lengths).tolist(), count


ROUTES = (Route("POST", EMBED, OLLAMA, embed), Route("POST", EMBEDDINGS, OLLAMA, embeddings))
