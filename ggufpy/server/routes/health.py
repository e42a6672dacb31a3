"""GET /health: whether the server answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggufpy.server.families.llama import LLAMA
from ggufpy.server.routes import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.service import Service


async def health(service: Service, request: Request) -> dict[str, Any]:
    """{"status": "ok"}, as llama-server says it."""
    return {"status": "ok"}


ROUTES = tuple(Route("GET", path, LLAMA, health, open=True) for path in ("/health", "/v1/health"))
