"""GET /metrics: what Prometheus scrapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.server.families.llama import LLAMA
from ggufpy.server.routes import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ggufpy.server.service import Service


async def metrics(service: Service, request: Request) -> Response:
    """All metrics, in Prometheus' text or, where that is accepted, in OpenMetrics."""
    from prometheus_client.exposition import choose_encoder
    from starlette.responses import Response

    from ggufpy.server.metrics import registry

    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    headers = {"content-type": content_type, "process-start-time-unix": str(service.started)}
    return Response(encode(registry(service)), headers=headers)


ROUTES = (Route("GET", "/metrics", LLAMA, metrics),)
