"""GET /v1/models and /v1/models/NAME."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggufpy.server.families.openai import OPENAI
from ggufpy.server.problems import NOT_FOUND, Problem
from ggufpy.server.routes import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.service import Service


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.started, "owned_by": "ggufpy"}


async def models(service: Service, request: Request) -> dict[str, Any]:
    """All models that may be asked for."""
    return {"object": "list", "data": [_model(service, name) for name in service.pool.names]}


async def model(service: Service, request: Request) -> dict[str, Any]:
    """One model."""
    name = request.path_params["name"]
    if name not in service.pool.names:
        raise Problem(NOT_FOUND, f"there is no model {name!r}", "model_not_found", "model")
    return _model(service, name)


ROUTES = (
    Route("GET", "/v1/models", OPENAI, models),
    Route("GET", "/v1/models/{name:path}", OPENAI, model),
)
