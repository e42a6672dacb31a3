"""POST /v1/chat/completions and /v1/completions; llama-server has the first one without /v1, too."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai import bodies
from ggufpy.server import exchange
from ggufpy.server.families.openai import OPENAI
from ggufpy.server.fields import refusing
from ggufpy.server.routes import Route
from ggufpy.server.work import Prepared

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.llm import Llama
    from ggufpy.server.service import Service


def chat(llm: Llama, body: dict[str, Any]) -> Prepared:
    """What a chat completion asks for. Raises Problem 400 for what cannot be."""
    with refusing("messages"):
        return _prepared(bodies.chat(llm, body))


async def count(service: Service, request: Request) -> dict[str, Any]:
    """How many tokens the prompt of a chat completion has; nothing is evaluated (llama-server's route)."""
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    async with service.pool.use(body.get("model")) as served:
        prepared = await service.prepare(partial(chat, served.llm, {**body, "model": served.name}))
    return {"object": "response.input_tokens", "input_tokens": len(prepared.asked.tokens)}


def completion(llm: Llama, body: dict[str, Any]) -> Prepared:
    """What a text completion asks for. Raises Problem 400 for what cannot be."""
    with refusing("prompt"):
        return _prepared(bodies.completion(llm, body))


def _prepared(call: bodies.Call) -> Prepared:
    return Prepared(call.asked, call.shape, call.stream, account=call.shape.clock.account)


ROUTES = (
    Route("POST", "/v1/chat/completions", OPENAI, prepare=chat),
    Route("POST", "/chat/completions", OPENAI, prepare=chat),
    Route("POST", "/v1/chat/completions/input_tokens", OPENAI, count),
    Route("POST", "/chat/completions/input_tokens", OPENAI, count),
    Route("POST", "/v1/completions", OPENAI, prepare=completion),
)
