"""GET /v1/models and /v1/models/NAME for Anthropic's clients, which send an `anthropic-version` with it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.anthropic import models as shapes
from ggufpy.api.anthropic.versions import version_of
from ggufpy.errors import GGUFError
from ggufpy.server.families import encode
from ggufpy.server.families.anthropic import ANTHROPIC
from ggufpy.server.problems import BAD_REQUEST, Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from ggufpy.server.catalogue import Entry
    from ggufpy.server.service import Service

Record = dict[str, Any]


def asked(request: Request) -> bool:
    """Whether a request is of such a client."""
    return "anthropic-version" in request.headers


async def models(service: Service, request: Request) -> ASGIApp | Record:
    """A page of the models, or the one that the path names."""
    name = request.path_params.get("name")
    try:
        version_of(request.headers["anthropic-version"])
        if name is not None:
            return _model(service, await service.prepare(partial(service.pool.find, name)))
        entries = await service.prepare(service.pool.catalogue.entries)
        return shapes.page([_model(service, entry) for entry in entries], request.query_params)
    except GGUFError as error:
        return _refused(Problem(BAD_REQUEST, str(error)))
    except Problem as problem:
        return _refused(problem)


def _refused(problem: Problem) -> ASGIApp:
    """An error in Anthropic's shape: the path's own is OpenAI's."""
    from starlette.responses import Response

    return Response(encode(ANTHROPIC.error(problem)), problem.status, problem.headers, "application/json")


def _model(service: Service, entry: Entry) -> Record:
    contexts = {served.name: served.llm.n_ctx() for served in service.pool.loaded}
    return shapes.model(entry.name, entry.modified or service.started, contexts.get(entry.name))
