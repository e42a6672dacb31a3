"""The application: routes and what stands before them."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from ggufpy.server.answer import Generation, Sender
from ggufpy.server.exchange import name_client
from ggufpy.server.families import Family, encode, family_of
from ggufpy.server.problems import UNAUTHORIZED, Problem
from ggufpy.server.routes import Route, all_routes
from ggufpy.server.service import Service, digest
from ggufpy.server.tally import ENTRY, Entry

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Endpoint:
    """One route as an ASGI application: its key, then its answer, and whatever goes wrong in the shape of
    who asks."""

    def __init__(self, route: Route, make: Callable[[], Service]) -> None:
        self._route, self._make = route, make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route, service = self._route, self._make()
        entry = service.book.begin(route.path)
        scope[ENTRY], send = entry, noting(send, entry)
        family = route.family_for(Headers(scope=scope))
        sender = Sender(send, family, entry)
        try:
            async with sender.telling(scope["path"]):
                await self._answer(service, family, Request(scope, receive), send, sender)
        finally:
            service.book.end(entry)

    async def _answer(self, service: Service, family: Family, request: Request, send: Send, sender: Sender) -> None:
        route, scope, receive = self._route, request.scope, request.receive
        key = family.key(request.headers)
        if not route.open:
            check_key(service, key)
        name_client(request, key)
        if route.prepare is not None:
            await Generation(service, family, route.prepare)(scope, receive, send)
            return
        assert route.answer is not None
        made = await route.answer(service, request)
        if isinstance(made, dict):
            await sender.whole(made)
        else:
            await made(scope, receive, send)


def noting(send: Send, entry: Entry) -> Send:
    """`send`, with the status of the answer noted."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            entry.status = message["status"]
        await send(message)

    return sending


def check_key(service: Service, key: str | None) -> None:
    """Raises Problem 401 unless the key is one of the server's, where it has any; the time does not tell how near."""
    if not service.keys:
        return
    given = digest(key or "")
    if not sum(hmac.compare_digest(given, each) for each in service.keys):  # each of them, whichever it is
        told = "the API key is wrong" if key else "an API key is asked for: send Authorization: Bearer KEY"
        raise Problem(UNAUTHORIZED, told, "invalid_api_key", headers={"www-authenticate": "Bearer"})


def make_app(start: Callable[[], Awaitable[Service]]) -> ASGIApp:
    """The application. `start` makes the `Service` on the event loop, awaited."""
    services: list[Service] = []

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        services.append(await start())
        try:
            yield
        finally:
            await services.pop().close()

    async def missing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        services[-1].book.missed(status)
        takes = (error.headers or {}).get("Allow")
        told = f"there is nothing at {request.method} {request.url.path}" + (f": it takes {takes}" if takes else "")
        body = encode(family_of(request.url.path).error(Problem(status, told, "not_found")))
        return Response(body, status, error.headers, "application/json")

    paths = [Path(route.path, Endpoint(route, lambda: services[-1]), methods=[route.method]) for route in all_routes()]
    return Starlette(routes=paths, lifespan=life, exception_handlers={404: missing, 405: missing})
