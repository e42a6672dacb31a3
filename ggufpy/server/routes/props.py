"""GET /props: what a model and the server are, as llama-server tells it. POST, which changes it there, is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggufpy.api.llama.settings import common_settings
from ggufpy.server.families.llama import LLAMA
from ggufpy.server.problems import NOT_SUPPORTED, Problem
from ggufpy.server.routes import Route
from ggufpy.server.routes._llama import model_of
from ggufpy.support.version import __version__

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.served import Served
    from ggufpy.server.service import Service

Record = dict[str, Any]
TEMPLATE = "tokenizer.chat_template"
REFUSED = {"POST": "what a server is cannot be changed by requests: start it anew"}


async def show(service: Service, request: Request) -> Record:
    """About the model that ?model= names, or the first: it is loaded where it is not."""
    async with model_of(service, request) as served:
        return await service.prepare(lambda: props(service, served))


def props(service: Service, served: Served) -> Record:
    """The record. Its names are llama-server's (tools/server/server-context.cpp, get_res_props)."""
    llm = served.llm
    template = llm.chat_template
    tool_use = llm.metadata.get(f"{TEMPLATE}.tool_use")
    has_text = llm.metadata.get("tokenizer.ggml.model") not in (None, "none", "no_vocab")
    record: Record = {
        "default_generation_settings": {
            "params": common_settings(llm.sampling(seed=-1), None, False, {}),
            "n_ctx": llm.n_ctx(),
        },
        "total_slots": len(served.slots),
        "model_alias": served.name,
        "model_ftype": llm.engine.type_name,
        "model_path": llm.name,
        "modalities": {"vision": False, "video": False, "audio": False},
        "media_marker": "",
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "ui": True,
        "ui_settings": {},
        "chat_template": "" if template is None else template.source,
        "chat_template_caps": {},
        "bos_token": _text(served, llm.token_bos()) if has_text else "",
        "eos_token": _text(served, llm.token_eos()) if has_text else "",
        "build_info": f"ggufpy-{__version__}",
        "is_sleeping": False,
        "cors_proxy_enabled": False,
        "slots_dir": service.options.slots_dir is not None,
    }
    if isinstance(tool_use, str):
        record["chat_template_tool_use"] = tool_use
    return record


def _text(served: Served, token: int) -> str:
    return "" if token < 0 else str(served.llm.tokenizer.vocab.texts[token])


async def refuse(service: Service, request: Request) -> Record:
    """Nothing can be changed."""
    raise Problem(NOT_SUPPORTED, REFUSED["POST"], "not_supported")


ROUTES = (Route("GET", "/props", LLAMA, show), Route("POST", "/props", LLAMA, refuse))
