"""Tokens as texts and bytes, in llama-server's records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggufpy.api.asynchronous import AsyncCompletions

Record = dict[str, Any]


def of_token(llm: AsyncCompletions, token: int) -> Record:
    """A token with its text, up to where that is no whole character, and its bytes."""
    octets = llm.tokenizer.token_bytes(token)
    return {"id": token, "token": octets.decode("utf-8", "ignore"), "bytes": list(octets)}


def piece(llm: AsyncCompletions, token: int) -> Record:
    """A token with its text, or its bytes where these are no text."""
    octets = llm.tokenizer.token_bytes(token)
    try:
        return {"id": token, "piece": octets.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(octets)}
