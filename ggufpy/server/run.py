"""Starts a server and serves until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable

import uvicorn

from ggufpy.errors import GGUFError
from ggufpy.server.app import make_app
from ggufpy.server.guards import Access, Guard, is_loopback
from ggufpy.server.problems import Problem
from ggufpy.server.protocol import BoundedProtocol
from ggufpy.server.service import Service
from ggufpy.server.settings import ServerOptions
from ggufpy.support import console

DRAIN = 30  # seconds that answers at work have once the server is told to end
SWITCH = 0.0005  # seconds after which the event loop leaves Python to an engine's thread: a step waits for it
BACKLOG = 2048  # connections that may wait to be taken
KEEP_ALIVE = 75  # seconds that a connection stays open without a request: longer than proxies keep theirs (60)


def serve(start: Callable[[], Service], options: ServerOptions) -> None:
    """Serves what `start` makes on the event loop, until SIGINT or SIGTERM; answers at work may end then.

    Raises GGUFError where it cannot listen, and for a first model that cannot be loaded.
    """
    sys.setswitchinterval(SWITCH)
    _check(options)
    listening = listen(options)
    server = _Server(make_config(lambda: server.begin(start()), options), url_of(listening, options.host))
    server.run([listening])
    if server.problem is not None:
        raise server.problem


def _check(options: ServerOptions) -> None:
    """Raises GGUFError for options that would let nobody in."""
    for origin in options.cors:
        scheme, colon, name = origin.partition("://")
        if origin not in ("*", "null") and (not scheme or not colon or "/" in name):
            told = "an origin is a scheme and a name, such as https://chat.example.com, without a path; * is for all"
            raise GGUFError(f"--cors is {origin[:80]!r}; {told}")
    for name, seconds in (("--timeout", options.timeout), ("--load-wait", options.load_wait)):
        if seconds < 0:
            raise GGUFError(f"{name} is {seconds:g}; seconds are wanted, or 0")


def make_config(start: Callable[[], Awaitable[Service]], options: ServerOptions) -> uvicorn.Config:
    """How uvicorn runs the application."""
    access = Access(is_loopback(options.host), tuple(options.cors), tuple(options.allowed_hosts))
    return uvicorn.Config(
        Guard(make_app(start), access), log_level="error", access_log=False, lifespan="on", http=BoundedProtocol,
        ws="none", timeout_graceful_shutdown=DRAIN, server_header=False, timeout_keep_alive=KEEP_ALIVE, backlog=BACKLOG,
    )  # fmt: skip


def listen(options: ServerOptions) -> socket.socket:
    """A socket at the address. Raises GGUFError where that cannot be."""
    host, port = options.host, options.port
    if port > 65535:
        raise GGUFError(f"--port is {port}; ports go to 65535")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        made = socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        told = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise GGUFError(f"{told}; choose another --host or --port") from None
    made.setblocking(False)
    return made


def url_of(listening: socket.socket, host: str) -> str:
    """Where a browser finds the server."""
    name = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}"


class _Server(uvicorn.Server):
    """Says where it listens, and ends where the first model that it was given cannot be loaded; `problem` says why."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url
        self.problem: GGUFError | None = None
        self._first: asyncio.Task[None] | None = None

    async def begin(self, service: Service) -> Service:
        """The service, whose first model is being loaded."""
        self._first = asyncio.create_task(self._load(service))
        return service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        console.note(f"ggufpy: listening at {self._url} (Ctrl-C ends it)")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        if (count := len(self.server_state.tasks)) and not self.force_exit:
            console.note(f"ggufpy: ending; requests at work ({count}) have {DRAIN} s (Ctrl-C again ends them now)")
        await super().shutdown(sockets)
        if self.force_exit:  # told twice: all that is at work breaks off, and nobody wants to read where
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    async def _load(self, service: Service) -> None:
        if not service.pool.catalogue.given:
            console.note(f"ggufpy: {len(service.pool.names)} models, loaded when they are asked for")
            return
        try:
            async with service.pool.use(None) as served:
                llm = served.llm
                places = f"{llm.n_parallel()} at a time, {llm.n_ctx():,} tokens each"
                console.note(f"ggufpy: {served.name} is loaded in {served.load_seconds:.1f} s: {places}")
        except GGUFError as error:
            self.problem = error
        except Problem as problem:
            self.problem = GGUFError(problem.message)
        self.should_exit = self.should_exit or self.problem is not None
