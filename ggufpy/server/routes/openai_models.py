"""GET /v1/models and /v1/models/NAME, and the same without /v1: OpenAI's fields, and beside them llama-server's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.server.families import Family
from ggufpy.server.families.anthropic import ANTHROPIC
from ggufpy.server.families.openai import OPENAI
from ggufpy.server.routes import Route, _anthropic
from ggufpy.server.slot import UNLOADED

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.catalogue import Entry
    from ggufpy.server.service import Service

Record = dict[str, Any]
# By tokenizer.ggml.model (include/llama.h of llama.cpp, enum llama_vocab_type)
VOCABULARIES = {"no_vocab": 0, "llama": 1, "gpt2": 2, "bert": 3, "t5": 4, "rwkv": 5, "plamo2": 6}
TEXT = {"input_modalities": ["text"], "output_modalities": ["text"]}


async def models(service: Service, request: Request) -> Record:
    """All models that may be asked for."""
    if _anthropic.asked(request.headers):
        return await _anthropic.models(service, request)
    entries = await service.prepare(service.pool.catalogue.entries)
    contexts = _contexts(service)
    told = await service.prepare(lambda: [_told(entry, contexts.get(entry.name)) for entry in entries])
    return {"object": "list", "data": [_model(service, *each) for each in zip(entries, told, strict=True)]}


async def model(service: Service, request: Request) -> Record:
    """One model. Raises Problem 404 for a name that is not known."""
    if _anthropic.asked(request.headers):
        return await _anthropic.models(service, request)
    entry = await service.prepare(partial(service.pool.find, request.path_params["name"]))
    context = _contexts(service).get(entry.name)
    return _model(service, entry, await service.prepare(partial(_told, entry, context)))


def _contexts(service: Service) -> dict[str, int]:
    """The contexts of the models that are loaded, by name."""
    return {served.name: served.llm.n_ctx() for served in service.pool.loaded}


def _model(service: Service, entry: Entry, told: Record | None) -> Record:
    state = service.pool.state(entry)
    return {
        "id": entry.name,
        "object": "model",
        "created": int(entry.modified) or service.started,
        "owned_by": "ggufpy",
        "aliases": list(entry.aliases),
        "status": {"value": UNLOADED if state is None else state.word},
        "architecture": TEXT,
        "meta": told,
    }


def _told(entry: Entry, context: int | None) -> Record | None:
    """What its file says, under llama-server's names; null where there is no file yet, or none that can be read.
    `n_ctx` is there for a model that is loaded."""
    try:
        facts = entry.facts()
    except GGUFError:
        return None
    return {
        "vocab_type": VOCABULARIES.get(str(facts.metadata.get("tokenizer.ggml.model", "no_vocab")), 0),
        "n_vocab": facts.vocabulary,
        "n_ctx": context,
        "n_ctx_train": facts.context,
        "n_embd": facts.width,
        "n_params": facts.parameters,
        "size": entry.size,
        "ftype": facts.quantization,
    }


def _manners(headers: Mapping[str, str]) -> Family:
    """Anthropic's clients ask for the same paths."""
    return ANTHROPIC if _anthropic.asked(headers) else OPENAI


ROUTES = (  # GET /models is llama-server's, which says more (`models_admin.py`)
    Route("GET", "/v1/models", OPENAI, models, manners=_manners),
    Route("GET", "/v1/models/{name:path}", OPENAI, model, manners=_manners),
    Route("GET", "/models/{name:path}", OPENAI, model, manners=_manners),
)
