"""Models loaded and unloaded by hand, and what happens with each, as llama-server's router has it: GET /models,
POST /models/load and /models/unload (llama.cpp: tools/server/README.md, "Using multiple models").

A load is begun, and not waited for: its end is in GET /models. What llama-server does beyond that to its cache (POST
and DELETE /models) and its stream of events (/models/sse) are not here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.server import exchange
from ggufpy.server.families.llama import LLAMA
from ggufpy.server.fields import check_names
from ggufpy.server.problems import BAD_REQUEST, Problem
from ggufpy.server.routes import Route
from ggufpy.server.slot import UNLOADED, State

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.catalogue import Entry
    from ggufpy.server.service import Service

Record = dict[str, Any]
REFUSED = {
    "POST": "a model is fetched when a request first names it (ggufpy serve --allow-pull), or by 'ggufpy pull'",
    "DELETE": "remove the file where the server runs",
}


async def listed(service: Service, request: Request) -> Record:
    """All models with their states. `reload`: the folder is looked at for every listing, so it changes nothing."""
    check_names(dict(request.query_params), ("reload",))
    entries = await service.prepare(service.pool.catalogue.entries)
    facts = await service.prepare(lambda: [_facts(entry) for entry in entries])
    return {"object": "list", "data": [_about(service, *pair) for pair in zip(entries, facts, strict=True)]}


def _facts(entry: Entry) -> Record | None:
    """What its file says of it, None where that cannot be read."""
    if entry.path is None:
        return None
    try:
        facts = entry.facts()
    except GGUFError:
        return None
    return {
        "n_vocab": facts.vocabulary,
        "n_ctx_train": facts.context,
        "n_embd": facts.width,
        "n_params": facts.parameters,
        "size": entry.size,
    }


def _about(service: Service, entry: Entry, facts: Record | None) -> Record:
    state = service.pool.state(entry)
    status: Record = {"value": UNLOADED if state is None else state.word}
    progress = service.pool.progress(entry)
    if progress is not None and progress[2]:
        status["progress"] = {"stage": progress[0], "value": round(progress[1] / progress[2], 3)}
    failure = service.pool.failure(entry)
    if state is None and failure is not None:
        status |= {"failed": True, "message": failure}
    return {
        "id": entry.name,
        "aliases": list(entry.aliases),
        "tags": [],
        "object": "model",
        "owned_by": "ggufpy",
        "created": int(entry.modified) or service.started,
        "path": None if entry.path is None else str(entry.path),
        "status": status,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        **({} if facts is None else {"meta": facts}),
    }


async def load(service: Service, request: Request) -> Record:
    """Begins to load a model. Raises Problem 404 for one that there is not, 400 for one that is loaded."""
    entry = await _named(service, request)
    if service.pool.state(entry) is State.LOADED:
        raise Problem(BAD_REQUEST, f"{entry.name} is loaded already", "already_loaded", "model")
    service.pool.preload(entry)
    return {"success": True}


async def unload(service: Service, request: Request) -> Record:
    """Ends a model; one that is at work goes when its requests have ended. Raises Problem 404, and 400 for one that is
    not loaded."""
    entry = await _named(service, request)
    if service.pool.state(entry) is None:
        raise Problem(BAD_REQUEST, f"{entry.name} is not loaded", "not_loaded", "model")
    await service.pool.unload(entry.name)
    return {"success": True}


async def refuse(service: Service, request: Request) -> Record:
    """What is not done to models here, and what does it."""
    raise Problem(BAD_REQUEST, f"{request.method} /models is not done here: {REFUSED[request.method]}", "not_supported")


async def _named(service: Service, request: Request) -> Entry:
    body = exchange.parsed(await exchange.read_body(request, service.options.body_limit))
    check_names(body, ("model",))
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise Problem(BAD_REQUEST, "model is missing: the name of a model is wanted", None, "model")
    return await service.prepare(partial(service.pool.find, name))


ROUTES = (
    Route("GET", "/models", LLAMA, listed),
    Route("POST", "/models/load", LLAMA, load),
    Route("POST", "/models/unload", LLAMA, unload),
    *(Route(method, "/models", LLAMA, refuse) for method in REFUSED),
)
