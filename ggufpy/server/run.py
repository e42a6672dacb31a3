"""Starts a server and serves until it is told to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvicorn

from ggufpy.llm import Llama
from ggufpy.server.app import make_app
from ggufpy.server.pool import Pool
from ggufpy.server.service import Service
from ggufpy.server.settings import ServerOptions

if TYPE_CHECKING:
    from ggufpy.generate.loading import LoadOptions

DRAIN = 30  # seconds that answers at work have once the server is told to end


def serve(names: Sequence[str], load: LoadOptions, options: ServerOptions, keys: Sequence[str]) -> None:
    """Serves models by name until SIGINT or SIGTERM; what is at work then may end."""

    async def start() -> Service:
        return Service(Pool(names, lambda name: Llama.from_options(name, load), options.queue), options, keys)

    config = uvicorn.Config(
        make_app(start), options.host, options.port, log_level="warning", access_log=False, lifespan="on",
        timeout_graceful_shutdown=DRAIN, server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run()
