"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.anthropic import request as anthropic
from ggufpy.api.anthropic.answer import MessageShape, Telling
from ggufpy.server import exchange
from ggufpy.server.answer import Generation
from ggufpy.server.families.anthropic import ANTHROPIC, LEGACY, version_of
from ggufpy.server.routes import Route
from ggufpy.server.work import Prepared

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from ggufpy.llm import Llama
    from ggufpy.server.service import Service


def prepare(llm: Llama, body: dict[str, Any], legacy: bool = False) -> Prepared:
    """What a message asks for. Raises GGUFError for what cannot be."""
    question = anthropic.question(body)
    asked = anthropic.asked_of(llm, body, question)
    thoughts = question.thinking
    telling = Telling(
        thoughts.asked, thoughts.shown, anthropic.stop_sequences(body), body["max_tokens"], question.edits, legacy
    )
    return Prepared(asked, MessageShape(asked, telling), bool(body.get("stream")))


async def messages(service: Service, request: Request) -> ASGIApp:
    """A message, in the manners of the version that the request names."""
    family = version_of(request.headers)
    return Generation(service, family, partial(prepare, legacy=family is LEGACY))


async def count_tokens(service: Service, request: Request) -> dict[str, int]:
    """How many tokens the prompt of a message has."""
    version_of(request.headers)
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    async with service.pool.use(body.get("model")) as served:
        count = await service.prepare(partial(anthropic.count_tokens, served.llm, {**body, "model": served.name}))
    return {"input_tokens": count}


ROUTES = (
    Route("POST", "/v1/messages", ANTHROPIC, messages),
    Route("POST", "/v1/messages/count_tokens", ANTHROPIC, count_tokens),
)
