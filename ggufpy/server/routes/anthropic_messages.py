"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.anthropic import request as anthropic
from ggufpy.api.anthropic.answer import MessageShape, Telling
from ggufpy.api.anthropic.versions import USUAL, Version, version_of
from ggufpy.server import exchange
from ggufpy.server.answer import Generation
from ggufpy.server.families.anthropic import ANTHROPIC, LEGACY
from ggufpy.server.problems import BAD_REQUEST, Problem
from ggufpy.server.routes import Route
from ggufpy.server.work import Prepared

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from ggufpy.llm import Llama
    from ggufpy.server.service import Service


def prepare(llm: Llama, body: dict[str, Any], version: Version = USUAL) -> Prepared:
    """What a message asks for. Raises GGUFError for what cannot be, and Problem for a conversation that the server is
    to keep: by its code the client's tool runner goes on without one."""
    if body.get("thread") not in (None, False):
        told = "thread: conversations are not kept here: send all messages"
        raise Problem(BAD_REQUEST, told, "thread_unsupported_request", "thread")
    question = anthropic.question(body, version)
    asked = anthropic.asked_of(llm, body, question)
    thoughts = question.thinking
    telling = Telling(
        thoughts.asked, thoughts.shown, anthropic.stop_sequences(body), body["max_tokens"], question.edits, version
    )
    return Prepared(asked, MessageShape(asked, telling), bool(body.get("stream")))


async def messages(service: Service, request: Request) -> ASGIApp:
    """A message, in the manners of the version that the request names."""
    version = version_of(request.headers.get("anthropic-version"))
    return Generation(service, ANTHROPIC if version.named else LEGACY, partial(prepare, version=version))


async def count_tokens(service: Service, request: Request) -> dict[str, int]:
    """How many tokens the prompt of a message has."""
    version = version_of(request.headers.get("anthropic-version"))
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    async with service.pool.use(body.get("model")) as served:
        named = {**body, "model": served.name}
        work = partial(anthropic.count_tokens, served.llm, named, version)
        count = await service.prepare(work, exchange.size_of(request))
    return {"input_tokens": count}


ROUTES = (
    Route("POST", "/v1/messages", ANTHROPIC, messages),
    Route("POST", "/v1/messages/count_tokens", ANTHROPIC, count_tokens),
)
