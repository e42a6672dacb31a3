"""What every request passes before its route: whose page may ask, under which name the server was called.

A server on this machine can be reached by any page that a browser shows: by a request that the page sends without
reading its answer, or under a name of its own that it has pointed at 127.0.0.1 (DNS rebinding). Both are refused
unless they were allowed; ollama does the same (its OLLAMA_ORIGINS).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from ggufpy.server.answer import Sender
from ggufpy.server.families import Family, family_of
from ggufpy.server.problems import BAD_REQUEST, FORBIDDEN, Problem
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = "GET, POST, DELETE, OPTIONS"
HEADERS = "authorization, content-type, x-api-key, anthropic-version, anthropic-beta"
HOUR = "3600"


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(value: str) -> str:
    """The name or address of a Host header or an origin, lower case, without its port; empty where there is none."""
    try:
        return urlsplit(value if "//" in value else f"//{value}").hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True)
class Access:
    """origins: pages that may ask ("*" for all), beside the server's own and, on a loopback address, those of this
    machine. hosts: names under which the server may be called; on a loopback address those of this machine beside."""

    loopback: bool
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def takes_host(self, host: str) -> bool:
        """Whether the server may be called so."""
        if not self.hosts and not self.loopback:
            return True
        return host in self.hosts or is_loopback(host)

    def takes_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may ask a server that was called `host` (with its port)."""
        if "*" in self.origins or origin in self.origins:
            return True
        scheme, _, netloc = origin.partition("://")
        if scheme not in ("http", "https"):
            return False
        return netloc.lower() == host.lower() or (self.loopback and is_loopback(host_of(origin)))


class Guard:
    """An ASGI application before another."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        family: Family = family_of(scope["path"])
        hosts = headers.getlist("host")
        origin, host = headers.get("origin"), "".join(hosts[:1])
        if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):  # RFC 9112, 3.2
            told = "a request says once by which name it calls the server (Host)"
            await Sender(send, family).problem(Problem(BAD_REQUEST, told, "wrong_host"))
        elif hosts and not self._access.takes_host(host_of(host)):  # HTTP/1.0 without one is no browser's
            told = f"the server is not called {host_of(host)[:80]!r}: allow the name with ggufpy serve --allowed-host"
            await Sender(send, family).problem(Problem(FORBIDDEN, told, "wrong_host"))
        elif origin is None:
            await self._app(scope, receive, send)
        elif not self._access.takes_origin(origin, host):
            told = f"pages of {origin[:80]!r} may not ask this server: allow them with ggufpy serve --cors"
            await Sender(send, family).problem(Problem(FORBIDDEN, told, "wrong_origin"))
        elif scope["method"] == "OPTIONS":
            await self._preflight(origin, headers, send)
        else:
            await self._app(scope, receive, _with(send, self._allowed(origin)))

    def _allowed(self, origin: str) -> list[tuple[bytes, bytes]]:
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"x-request-id, request-id, retry-after"),
            (b"vary", b"Origin"),
        ]

    async def _preflight(self, origin: str, headers: Headers, send: Send) -> None:
        asked = headers.get("access-control-request-headers", HEADERS)
        more = [
            (b"access-control-allow-methods", METHODS.encode()),
            (b"access-control-allow-headers", asked.encode("latin-1")),
            (b"access-control-max-age", HOUR.encode()),
        ]
        if headers.get("access-control-request-private-network") == "true":
            more.append((b"access-control-allow-private-network", b"true"))
        await send({"type": "http.response.start", "status": 204, "headers": [*self._allowed(origin), *more]})
        await send({"type": "http.response.body", "body": b""})


def _with(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    """`send`, with these headers in the answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return sending
