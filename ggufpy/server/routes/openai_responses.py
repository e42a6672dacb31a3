"""POST /v1/responses (llama-server has it without /v1, too), and what is kept of them: GET and DELETE
/v1/responses/ID, its input items; and how many tokens a request's prompt has.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.server import exchange
from ggufpy.server.families.openai import OPENAI
from ggufpy.server.problems import BAD_REQUEST, Problem
from ggufpy.server.responses import count, preparing
from ggufpy.server.routes import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from ggufpy.server.responses_store import Kept
    from ggufpy.server.service import Service

Record = dict[str, Any]

PAGE, MOST_PAGE = 20, 100


def _owner(request: Request) -> str:
    return OPENAI.key(request.headers) or ""


async def create(service: Service, request: Request) -> ASGIApp:
    """A response, streamed or whole."""
    from ggufpy.server.answer import Generation
    from ggufpy.server.families.responses import ResponseStream

    return Generation(service, ResponseStream(), preparing(service.responses, _owner(request)))


async def input_tokens(service: Service, request: Request) -> Record:
    """How many tokens the prompt of a request would have; nothing is generated."""
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    async with service.pool.use(body.get("model")) as served:
        body = {**body, "model": served.name}
        return await service.prepare(partial(count, service.responses, _owner(request), served.llm, body))


def _kept(service: Service, request: Request) -> Kept:
    return service.responses.find(_owner(request), request.path_params["id"])


async def retrieve(service: Service, request: Request) -> Record:
    """A response that is kept."""
    if request.query_params.get("stream", "false").lower() not in ("false", "0"):
        raise Problem(BAD_REQUEST, "stream cannot be honoured: a response that is kept has ended", None, "stream")
    return _kept(service, request).record


async def delete(service: Service, request: Request) -> Record:
    """Forgets a response."""
    name = request.path_params["id"]
    service.responses.delete(_owner(request), name)
    return {"id": name, "object": "response", "deleted": True}


async def cancel(service: Service, request: Request) -> Record:
    """Responses that are kept have ended: there is nothing to cancel, as OpenAI says it, too."""
    _kept(service, request)
    told = "this response has ended: only those that are made in the background can be cancelled, and there are none"
    raise Problem(BAD_REQUEST, told, "response_not_cancellable")


async def input_items(service: Service, request: Request) -> Record:
    """What a response was made from, page by page: the newest first, unless `order` is "asc"."""
    query = request.query_params
    items = _kept(service, request).input.all()
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Problem(BAD_REQUEST, f'order is {order[:40]!r}; it must be "asc" or "desc"', None, "order")
    limit = query.get("limit", str(PAGE))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= MOST_PAGE):
        raise Problem(BAD_REQUEST, f"limit is {limit[:40]!r}; it must be from 1 to {MOST_PAGE}", None, "limit")
    if order == "desc":
        items.reverse()
    if (after := query.get("after")) is not None:
        places = [i for i, item in enumerate(items) if item["id"] == after]
        if not places:
            raise Problem(BAD_REQUEST, f"after is {after[:80]!r}, which is no item of the response", None, "after")
        items = items[places[0] + 1 :]
    page = items[: int(limit)]
    ids = [item["id"] for item in page] or [None]
    more = len(items) > len(page)
    return {"object": "list", "data": page, "first_id": ids[0], "last_id": ids[-1], "has_more": more}


ROUTES = (
    *(Route("POST", path, OPENAI, create) for path in ("/v1/responses", "/responses")),
    *(Route("POST", f"{path}/input_tokens", OPENAI, input_tokens) for path in ("/v1/responses", "/responses")),
    Route("GET", "/v1/responses/{id}", OPENAI, retrieve),
    Route("DELETE", "/v1/responses/{id}", OPENAI, delete),
    Route("POST", "/v1/responses/{id}/cancel", OPENAI, cancel),
    Route("GET", "/v1/responses/{id}/input_items", OPENAI, input_items),
)
