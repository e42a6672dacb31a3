"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggufpy.api.openai import asked
from ggufpy.api.openai.chat import ChatShape
from ggufpy.chat.messages import checked
from ggufpy.server.families.openai import OPENAI
from ggufpy.server.routes import Route
from ggufpy.server.work import Prepared
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.llm import Llama


def prepare(llm: Llama, body: dict[str, Any]) -> Prepared:
    """What a chat completion asks for. Raises GGUFError for what cannot be."""
    options = dict(body)
    stream = checks.switch("stream", options.pop("stream", None))
    messages = checked(options.pop("messages", None))
    made = asked.chat_request(llm, messages, options.pop("max_tokens", None), options)
    return Prepared(made, ChatShape(llm, made), stream)


ROUTES = (Route("POST", "/v1/chat/completions", OPENAI, prepare=prepare),)
