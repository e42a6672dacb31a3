"""GET and POST /lora-adapters: how much each adapter counts in calls that do not say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggufpy.api.llama.completion import adapters
from ggufpy.errors import GGUFError
from ggufpy.server.families.llama import LLAMA
from ggufpy.server.routes import Route
from ggufpy.server.routes._llama import body_of, listed, model_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ggufpy.server.service import Service


async def show(service: Service, request: Request) -> Response:
    """[{"id", "path", "scale"}, ...]."""
    async with model_of(service, request) as served:
        llm = served.llm
        pairs = zip(llm.adapters, llm.scales, strict=True)
        return listed([{"id": i, "path": path, "scale": scale} for i, (path, scale) in enumerate(pairs)])


async def scale(service: Service, request: Request) -> dict[str, Any]:
    """Sets the scales, of adapters that are not named to 0; calls at work go on with what they began with."""
    body = await body_of(service, request)
    if not isinstance(body, list):
        raise GGUFError(f"the body must be a list of {{id, scale}}, not {type(body).__name__}")
    named = adapters(body)
    async with model_of(service, request) as served:
        scales = served.llm.adapter_scales(named)
        assert scales is not None
        served.llm.rescale(scales)
    return {"success": True}


ROUTES = (Route("GET", "/lora-adapters", LLAMA, show), Route("POST", "/lora-adapters", LLAMA, scale))
