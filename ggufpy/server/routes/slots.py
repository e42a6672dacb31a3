"""GET /slots: what a model's places are at; POST /slots/ID?action=save, restore or erase: their texts as files.

Saved files are states of `ggufpy.Llama` (generate/snapshots.py) in the folder --slots-dir, under plain names.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama.settings import common_settings
from ggufpy.errors import GGUFError
from ggufpy.generate import snapshots
from ggufpy.generate.state import LlamaState
from ggufpy.server import names
from ggufpy.server.families.llama import LLAMA
from ggufpy.server.problems import BAD_REQUEST, NOT_SUPPORTED, UNAVAILABLE, Problem
from ggufpy.server.routes import Route
from ggufpy.server.routes._llama import listed, loaded_of, model_of, record_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ggufpy.llm import Llama
    from ggufpy.server.served import Served
    from ggufpy.server.service import Service
    from ggufpy.server.slots import Slot

Record = dict[str, Any]
ACTIONS = "save, restore and erase"


async def show(service: Service, request: Request) -> Response:
    """The places of the model that ?model= names, or of the first. With ?fail_on_no_slot=1 it is 503 if all are
    taken."""
    served = loaded_of(service, request)
    if request.query_params.get("fail_on_no_slot") and all(slot.working for slot in served.slots):
        raise Problem(UNAVAILABLE, "no slot available", "no_slot")
    return listed([described(served, slot) for slot in served.slots])


def described(served: Served, slot: Slot) -> Record:
    """A place as llama-server shows it (tools/server/server-context.cpp, server_slot::to_json), without texts."""
    record: Record = {
        "id": slot.number,
        "n_ctx": served.llm.n_ctx(),
        "speculative": False,
        "is_processing": slot.working,
    }
    shown = slot.latest
    if shown is None:
        return record
    counts, asked = shown.counts(), shown.asked
    limit = served.llm.n_ctx() - counts.prompt if asked.max_tokens is None else asked.max_tokens
    return {
        **record,
        "id_task": shown.task,
        "n_prompt_tokens": counts.prompt,
        "n_prompt_tokens_processed": max(counts.read - counts.cached, 0),
        "n_prompt_tokens_cache": counts.cached,
        "params": common_settings(asked.samplings[shown.number], asked, shown.stream, {}),
        "next_token": [
            {
                "has_next_token": slot.working,
                "has_new_line": shown.new_line(),
                "n_remain": -1 if asked.max_tokens is None else max(limit - counts.made, 0),
                "n_decoded": counts.made,
            }
        ],
    }


async def act(service: Service, request: Request) -> Record:
    """Saves, loads or forgets the text of a place."""
    folder = service.options.slots_dir
    if folder is None:
        told = "texts of slots are not saved: start the server with --slots-dir DIR"
        raise Problem(NOT_SUPPORTED, told, "not_supported")
    action = request.query_params.get("action", "")
    if action not in ("save", "restore", "erase"):
        raise Problem(BAD_REQUEST, f"there is no action {action[:80]!r}: {ACTIONS} are all there are", None, "action")
    body: Record = {}
    if action != "erase":
        body = await record_of(service, request, ("filename", "model"))
        body["filename"] = names.plain_name("filename", body.get("filename"))
    async with model_of(service, request, body) as served:
        slot = _slot(served, request.path_params["number"])
        if action == "erase":
            return await _erase(service, served, slot)
        async with served.slots.moving:
            make = _save if action == "save" else _restore
            return await make(served, slot, os.path.join(folder, ""), body["filename"])


def _slot(served: Served, number: str) -> Slot:
    count = len(served.slots)
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) < count):
        raise Problem(BAD_REQUEST, f"there is no slot {number[:20]!r}: they are 0 to {count - 1}", None, "id_slot")
    return served.slots[int(number)]


async def _save(served: Served, slot: Slot, folder: str, name: str) -> Record:
    """Writes the place's text and what is evaluated of it; a text at work goes on."""
    tokens = slot.tokens
    if not tokens:
        raise GGUFError(f"slot {slot.number} has no text to save: none was evaluated there since it was erased")
    since = time.perf_counter()
    size = await served.evaluate(lambda: _written(served.llm, tokens, folder, name))
    return {
        "id_slot": slot.number,
        "filename": name,
        "n_saved": len(tokens),
        "n_written": size,
        "timings": {"save_ms": (time.perf_counter() - since) * 1000},
    }


def _written(llm: Llama, tokens: list[int], folder: str, name: str) -> int:
    path = names.writable(folder, name)
    data = llm.state_of(tokens).checked()
    try:
        snapshots.write(path, data)
    except GGUFError as error:
        raise GGUFError(str(error).replace(path, repr(name))) from None
    return len(data)


async def _restore(served: Served, slot: Slot, folder: str, name: str) -> Record:
    """Loads a text: a prompt that begins with it costs its new tokens only."""
    since = time.perf_counter()
    tokens, size = await served.evaluate(lambda: _loaded(served.llm, folder, name))
    if not slot.working:
        slot.restore(tokens)
    return {
        "id_slot": slot.number,
        "filename": name,
        "n_restored": len(tokens),
        "n_read": size,
        "timings": {"restore_ms": (time.perf_counter() - since) * 1000},
    }


def _loaded(llm: Llama, folder: str, name: str) -> tuple[list[int], int]:
    """The tokens of a saved text, and how many bytes it has; the model has it then."""
    path = names.existing(folder, name)
    try:
        data = snapshots.read(path)
    except GGUFError as error:
        raise GGUFError(str(error).replace(path, repr(name))) from None
    state = LlamaState.of_bytes(data, repr(name))
    state.seed = None  # what is drawn does not depend on what is loaded
    llm.load_state(state)
    return state.input_ids[: state.n_tokens].tolist(), len(data)


async def _erase(service: Service, served: Served, slot: Slot) -> Record:
    """Forgets the place's text. A text at work goes on, and is shown no more once it has ended."""
    if slot.working:
        raise Problem(UNAVAILABLE, f"slot {slot.number} is at work: erase it once that has ended", "slot_busy")
    tokens = slot.tokens
    count = slot.forget()
    await service.prepare(lambda: served.llm.loop.forget_text(tokens))
    return {"id_slot": slot.number, "n_erased": count}


ROUTES = (Route("GET", "/slots", LLAMA, show), Route("POST", "/slots/{number}", LLAMA, act))
