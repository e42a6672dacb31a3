"""What all answers have, and how a token is named in them."""

from __future__ import annotations

from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.model import Model, Record


def head(asked: Asked, kind: str) -> Record:
    """The fields that every answer and every chunk begins with."""
    return {"id": asked.id, "object": kind, "created": asked.created, "model": asked.model}


def usage_chunk(asked: Asked, kind: str, usage: Record) -> Record:
    """The last chunk of a stream whose caller wants to know what it took (`stream_options`)."""
    return {**head(asked, kind), "choices": [], "usage": usage}


def token_text(llm: Model, token: int) -> str:
    """The text of one token; bytes that are no whole character become U+FFFD."""
    return llm.tokenizer.token_bytes(token).decode("utf-8", "replace")
