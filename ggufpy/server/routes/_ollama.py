"""What ollama's routes share: bodies, names, and models that are used for a while."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.ollama import about
from ggufpy.server import exchange
from ggufpy.server.problems import BAD_REQUEST, NOT_FOUND, Problem

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.catalogue import Entry
    from ggufpy.server.service import Service

Record = dict[str, Any]


async def body_of(service: Service, request: Request) -> Record:
    """A request's body."""
    return exchange.parsed(await exchange.read_body(request, service.options.body_limit))


def name_in(body: Record) -> str:
    """The model that a body names, in `model` or, as older clients do, in `name`. Raises Problem 400 for none."""
    name = body.get("model") or body.get("name")
    if not name:
        raise Problem(BAD_REQUEST, "model is required", None, "model")
    if not isinstance(name, str):
        raise Problem(BAD_REQUEST, f"model must be a text, not {type(name).__name__}", None, "model")
    return name


async def found(service: Service, name: str) -> Entry:
    """The model of that name. Raises Problem 404 in ollama's words, which clients look for."""
    try:
        return await service.prepare(partial(service.pool.find, about.asked_name(name)))
    except Problem as problem:
        if problem.status != NOT_FOUND:
            raise
        told = f"model '{name[:80]}' not found; {problem.message.partition('; ')[2] or problem.message}"
        raise Problem(NOT_FOUND, told, problem.code, "model") from None
