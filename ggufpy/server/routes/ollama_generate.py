"""POST /api/chat and /api/generate: what is said, or a model that is loaded or unloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.ollama import asked, fields, moments, options, shapes
from ggufpy.server.answer import Generation, Given
from ggufpy.server.families.ollama import OLLAMA
from ggufpy.server.routes import Route
from ggufpy.server.routes._ollama import body_of, found, name_in
from ggufpy.server.work import Prepared
from ggufpy.support import checks

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.llm import Llama
    from ggufpy.server.service import Service

Record = dict[str, Any]


def prepare_chat(name: str, llm: Llama, body: Record) -> Prepared:
    """What a chat asks for; `name` is what its client calls the model. Raises GGUFError for what cannot be."""
    made = asked.chat_request(llm, {**body, "model": name})
    return Prepared(made, shapes.ChatShape(llm, made), _streams(body))


def prepare_text(name: str, llm: Llama, body: Record) -> Prepared:
    """What a text asks for, likewise."""
    made = asked.text_request(llm, {**body, "model": name})
    return Prepared(made, shapes.GenerateShape(llm, made, asked.is_told_context(body)), _streams(body))


def _streams(body: Record) -> bool:
    """Streaming is what ollama does unless it is told not to."""
    stream = body.get("stream")
    return stream is None or checks.flag("stream", stream)


async def chat(service: Service, request: Request) -> Generation | Record:
    """A chat's answer."""
    return await _answer(service, await body_of(service, request), asked.CHAT, prepare_chat)


async def generate(service: Service, request: Request) -> Generation | Record:
    """A text."""
    return await _answer(service, await body_of(service, request), asked.GENERATE, prepare_text)


async def _answer(
    service: Service, body: Record, path: str, prepare: Callable[[str, Llama, Record], Prepared]
) -> Generation | Record:
    name = name_in(body)
    fields.check(path, body)
    entry, seconds = await found(service, name), moments.keep_alive(body.get("keep_alive"))
    chats = path == asked.CHAT
    said = body.get("messages" if chats else "prompt")
    if said is not None and said != ([] if chats else ""):
        return Generation(service, OLLAMA, partial(prepare, name), Given({**body, "model": entry.name}, seconds))
    options.checked(body.get("options"))
    if seconds == 0:
        await service.pool.unload(entry.name)
        return shapes.at_once(name, "unload", chats)
    async with service.pool.use(entry.name, seconds):
        return shapes.at_once(name, "load", chats)


ROUTES = (Route("POST", asked.CHAT, OLLAMA, chat), Route("POST", asked.GENERATE, OLLAMA, generate))
