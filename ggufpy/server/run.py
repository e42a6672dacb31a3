"""Starts a server and serves until it is told to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvicorn

from ggufpy.server.app import make_app
from ggufpy.server.catalogue import Catalogue, Given
from ggufpy.server.folder import Folder
from ggufpy.server.loader import Files
from ggufpy.server.pool import Pool
from ggufpy.server.service import Service
from ggufpy.server.settings import ServerOptions

if TYPE_CHECKING:
    from ggufpy.generate.loading import LoadOptions

DRAIN = 30  # seconds that answers at work have once the server is told to end


def serve(given: Sequence[Given], load: LoadOptions, options: ServerOptions, keys: Sequence[str]) -> None:
    """Serves the models of the command line (`given_models`) and of the options until SIGINT or SIGTERM; what is at
    work then may end. Raises GGUFError for a folder of models that is none."""
    folder = None if options.models_dir is None else Folder(options.models_dir)
    catalogue = Catalogue(given, folder, options.allow_pull)

    async def start() -> Service:
        return Service(Pool(catalogue, Files(catalogue, load), options), options, keys)

    config = uvicorn.Config(
        make_app(start), options.host, options.port, log_level="warning", access_log=False, lifespan="on",
        timeout_graceful_shutdown=DRAIN, server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run()
