"""GET /health and /v1/health: whether the server answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggufpy.server.families.llama import LLAMA
from ggufpy.server.problems import UNAVAILABLE, Problem
from ggufpy.server.routes import Route
from ggufpy.server.slot import State

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.service import Service

LOADING = (State.FETCHING, State.WAITING, State.LOADING)


async def health(service: Service, request: Request) -> dict[str, Any]:
    """{"status": "ok"}, as llama-server says it; 503 while no model is there and the first one is being loaded."""
    if not service.pool.loaded and _first_loads(service):
        raise Problem(UNAVAILABLE, "Loading model", "loading", headers={"retry-after": "1"})
    return {"status": "ok"}


def _first_loads(service: Service) -> bool:
    """Whether the model that answers requests which name none is being loaded."""
    try:
        return service.pool.state(service.pool.find(None)) in LOADING
    except Problem:  # there is none
        return False


ROUTES = tuple(Route("GET", path, LLAMA, health, open=True) for path in ("/health", "/v1/health"))
