"""Which models there are: /api/tags, /api/ps, /api/show, /api/version; and what is not done to them."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.ollama import about, fields
from ggufpy.errors import GGUFError
from ggufpy.server.families.ollama import OLLAMA
from ggufpy.server.problems import FORBIDDEN, NOT_FOUND, Problem
from ggufpy.server.routes import Route
from ggufpy.server.routes._ollama import body_of, found, name_in
from ggufpy.support import checks

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.catalogue import Entry
    from ggufpy.server.served import Served
    from ggufpy.server.service import Service

Record = dict[str, Any]
LIKE = "0.13.0"  # the ollama whose requests and answers these are: clients compare numbers

# What ollama does to models, and what does it here.
REFUSED = {
    ("POST", "/api/create"): "models are made with 'ggufpy convert' and 'ggufpy quantize', and served by their names",
    ("POST", "/api/copy"): "a model has further names by 'ggufpy serve --alias NAME=MODEL'",
    ("DELETE", "/api/delete"): "remove the file where the server runs",
    ("POST", "/api/push"): "upload the file to Hugging Face with 'hf upload'",
    ("POST", "/api/blobs/{digest}"): "copy the file to where the server runs, into its --models-dir",
    ("HEAD", "/api/blobs/{digest}"): "no file is known by its digest here",
}


async def tags(service: Service, request: Request) -> Record:
    """The models whose files are here, the newest first."""
    return {"models": await service.prepare(partial(_listed, service))}


def _listed(service: Service) -> list[Record]:
    entries = {entry.name: entry for entry in service.pool.catalogue.entries()}
    for name in service.pulls.fetched:
        try:
            entry = service.pool.find(name)
        except Problem:
            continue  # fetched, and not served
        entries.setdefault(entry.name, entry)
    here = sorted((entry for entry in entries.values() if entry.path is not None), key=lambda one: -one.modified)
    made = []
    for entry in here:
        try:
            made.append(about.listed(entry.name, entry.size, entry.modified, entry.digest(), _details(entry)))
        except GGUFError:
            continue  # gone since, or no model: loading it says so
    return made


def _details(entry: Entry) -> Record:
    facts = entry.facts()
    return about.details(facts.architecture, facts.parameters, facts.quantization)


async def running(service: Service, request: Request) -> Record:
    """The models that are loaded; first those that stay longest."""
    loaded = sorted(service.pool.loaded, key=lambda one: math.inf if one.expires is None else one.expires, reverse=True)
    return {"models": await service.prepare(lambda: [_running(service, each) for each in loaded])}


def _running(service: Service, served: Served) -> Record:
    digest, details = "", about.details("", 0, "")
    try:
        entry = service.pool.find(served.name)
        if entry.path is not None:
            digest, details = entry.digest(), _details(entry)
    except (GGUFError, Problem):
        pass  # its file has gone, and it is loaded still
    return about.running(served.name, served.memory, digest, details, served.expires, served.llm.n_ctx())


async def show(service: Service, request: Request) -> Record:
    """What a model is."""
    body = await body_of(service, request)
    name = name_in(body)
    fields.check("/api/show", body)
    verbose = checks.switch("verbose", body.get("verbose"))
    return await service.prepare(partial(_shown, await found(service, name), verbose))


def _shown(entry: Entry, verbose: bool) -> Record:
    from ggufpy import format as gguf_format

    if entry.path is None:
        told = about.told_name(entry.name)
        raise Problem(NOT_FOUND, f"model '{told}' not found here: it is fetched when it is first asked for, or pulled")
    with gguf_format.open(entry.path) as file:
        return about.shown(entry.name, file, entry.modified, _details(entry), verbose)


async def version(service: Service, request: Request) -> Record:
    """The version of ollama that this is like, and ours."""
    import ggufpy

    return {"version": LIKE, "ggufpy": ggufpy.__version__}


async def refuse(service: Service, request: Request) -> Record:
    """What is not done, and what does it."""
    path = request.scope["route"].path
    raise Problem(FORBIDDEN, f"{path} is not done by ggufpy serve: {REFUSED[request.method, path]}", "not_supported")


ROUTES = (
    Route("GET", "/api/tags", OLLAMA, tags),
    Route("GET", "/api/ps", OLLAMA, running),
    Route("POST", "/api/show", OLLAMA, show),
    Route("GET", "/api/version", OLLAMA, version),
    *(Route(method, path, OLLAMA, refuse) for method, path in REFUSED),
)
