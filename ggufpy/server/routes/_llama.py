"""What the routes of llama-server's kind share: bodies that are read for a model, answers that are lists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ggufpy.server import exchange
from ggufpy.server.families import encode
from ggufpy.server.fields import check_names
from ggufpy.server.problems import UNAVAILABLE, Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ggufpy.server.served import Served
    from ggufpy.server.service import Service

Record = dict[str, Any]


async def body_of(service: Service, request: Request) -> Any:
    """A body of JSON, whatever it is. Raises Problem 400 for what is none."""
    return exchange.value_of(await exchange.read_body(request, service.options.body_limit))


async def record_of(
    service: Service, request: Request, known: Iterable[str], refused: Mapping[str, str] | None = None
) -> Record:
    """A body that is an object with no fields but those `known`."""
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    check_names(body, known, refused)
    return body


@asynccontextmanager
async def model_of(service: Service, request: Request, body: Record | None = None) -> AsyncIterator[Served]:
    """The model that a body or the query (?model=) names, loaded if it is not; else the first."""
    name = (body or {}).get("model") or request.query_params.get("model")
    async with service.pool.use(name) as served:
        yield served


def loaded_of(service: Service, request: Request) -> Served:
    """The model that the query names, or the first, as it is loaded. Raises Problem 404 for one that is not known and
    503 for one that is not loaded: looking at a model neither loads nor keeps it."""
    name = service.pool.catalogue.find(request.query_params.get("model"), look=False).name  # what is loaded is listed
    for served in service.pool.loaded:
        if served.name == name:
            return served
    raise Problem(UNAVAILABLE, f"the model {name} is not loaded: a request that generates loads it", "not_loaded")


def listed(record: Any) -> Response:
    """An answer that is a list."""
    from starlette.responses import Response

    return Response(encode(record), media_type="application/json")
