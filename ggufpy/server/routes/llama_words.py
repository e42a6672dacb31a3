"""POST /tokenize, /detokenize and /apply-template: llama-server's own, which evaluate nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama import words
from ggufpy.server import exchange
from ggufpy.server.families.llama import LLAMA
from ggufpy.server.routes import Answer, Route
from ggufpy.server.routes._llama import model_of, record_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.llm import Llama
    from ggufpy.server.service import Service

Record = dict[str, Any]


def _answer(known: tuple[str, ...], make: Callable[[Llama, Record], Record]) -> Answer:
    async def answer(service: Service, request: Request) -> Record:
        body = await record_of(service, request, known)
        async with model_of(service, request, body) as served:
            return await service.prepare(lambda: make(served.llm, body), exchange.size_of(request))

    return answer


ROUTES = (
    Route("POST", "/tokenize", LLAMA, _answer(words.TOKENIZE, words.tokenize)),
    Route("POST", "/detokenize", LLAMA, _answer(words.DETOKENIZE, words.detokenize)),
    Route("POST", "/apply-template", LLAMA, _answer(words.TEMPLATE + words.NOT_OF_TEMPLATES, words.apply_template)),
)
