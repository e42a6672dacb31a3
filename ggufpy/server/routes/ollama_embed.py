"""POST /api/embed and the older /api/embeddings: vectors of texts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.ollama import fields, moments, options
from ggufpy.api.openai.embeddings import MOST_INPUTS
from ggufpy.api.shape import Spent
from ggufpy.server.each import each
from ggufpy.server.families.ollama import OLLAMA
from ggufpy.server.problems import BAD_REQUEST, Problem
from ggufpy.server.routes import Route
from ggufpy.server.routes._ollama import body_of, found, name_in
from ggufpy.server.tally import entry_of
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.llm import Llama
    from ggufpy.server.served import Served
    from ggufpy.server.service import Service

Record = dict[str, Any]
LEAST = 1e-12  # length of a vector that is divided by it
EMBED, EMBEDDINGS = "/api/embed", "/api/embeddings"


@dataclass(frozen=True)
class Wanted:
    """How vectors are to be: `truncate` lets a long text's beginning count, `size` is how many numbers, 0 for all."""

    truncate: bool
    size: int


async def embed(service: Service, request: Request) -> Record:
    """A vector, 1 long, for each text."""
    body = await body_of(service, request)
    name, texts = name_in(body), _texts(body.get("input"))
    fields.check(EMBED, body)
    truncate, size = body.get("truncate"), body.get("dimensions")
    wanted = Wanted(
        True if truncate is None else checks.flag("truncate", truncate),
        0 if size is None else checks.whole("dimensions", size, 0),
    )
    clock = asyncio.get_running_loop().time
    start = clock()
    async with _served(service, request, name, body) as served:
        loaded = clock()
        made = await each(service, request, served, [partial(_vector, served.llm, text, wanted) for text in texts])
        count = sum(read for _, read in made)
        entry_of(request.scope).spent = Spent(count, 0, 0, loaded - start, loaded - start, clock() - loaded)
    return {"model": name, "embeddings": [row for row, _ in made],
            "total_duration": moments.nanoseconds(clock() - start),
            "load_duration": moments.nanoseconds(loaded - start), "prompt_eval_count": count}  # fmt: skip


async def embeddings(service: Service, request: Request) -> Record:
    """The vector of one text, as long as it comes out of the model."""
    body = await body_of(service, request)
    name = name_in(body)
    fields.check(EMBEDDINGS, body)
    prompt = checks.text("prompt", body.get("prompt") or "")
    async with _served(service, request, name, body) as served:
        calls = [partial(served.llm.embed, prompt, return_count=True)] if prompt else []
        made = await each(service, request, served, calls)
        entry_of(request.scope).spent = Spent(sum(read for _, read in made), 0, 0)
    return {"embedding": made[0][0] if made else []}


@asynccontextmanager
async def _served(service: Service, request: Request, name: str, body: Record) -> AsyncIterator[Served]:
    """The model that a body names, for as long as it says. Raises Problem for options that cannot be, too."""
    options.checked(body.get("options"))
    entry = await found(service, name)
    async with service.pool.use(entry.name, moments.keep_alive(body.get("keep_alive"))) as served:
        entry_of(request.scope).model = served.name
        yield served


def _texts(given: object) -> list[str]:
    """The texts of `input`. Raises Problem for what is none."""
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise Problem(BAD_REQUEST, "input must be a text or a list of texts", None, "input")
    if len(given) > MOST_INPUTS:
        raise Problem(BAD_REQUEST, f"input has {len(given):,} texts, and may have {MOST_INPUTS:,}", None, "input")
    return given


def _vector(llm: Llama, text: str, wanted: Wanted) -> tuple[list[float], int]:
    """A text's vector and how many tokens were read."""
    row, count = llm.embed(text, normalize=True, truncate=wanted.truncate, return_count=True)
    if not 0 < wanted.size < len(row):
        return row, count
    cut: list[float] = row[: wanted.size]
    length = max(math.hypot(*cut), LEAST)
    return [value / length for value in cut], count


ROUTES = (Route("POST", EMBED, OLLAMA, embed), Route("POST", EMBEDDINGS, OLLAMA, embeddings))
