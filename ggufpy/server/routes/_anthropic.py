"""GET /v1/models and /v1/models/NAME for Anthropic's clients, which send an `anthropic-version` with it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.anthropic import models as shapes
from ggufpy.api.anthropic.versions import version_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.catalogue import Entry
    from ggufpy.server.service import Service

Record = dict[str, Any]


def asked(headers: Mapping[str, str]) -> bool:
    """Whether a request is of such a client."""
    return "anthropic-version" in headers


async def models(service: Service, request: Request) -> Record:
    """A page of the models, or the one that the path names."""
    name = request.path_params.get("name")
    version_of(request.headers["anthropic-version"])
    if name is not None:
        return _model(service, await service.prepare(partial(service.pool.find, name)))
    entries = await service.prepare(service.pool.catalogue.entries)
    return shapes.page([_model(service, entry) for entry in entries], request.query_params)


def _model(service: Service, entry: Entry) -> Record:
    contexts = {served.name: served.llm.n_ctx() for served in service.pool.loaded}
    return shapes.model(entry.name, entry.modified or service.started, contexts.get(entry.name))
