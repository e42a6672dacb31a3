"""How each interface writes its errors and its streams. A module a family."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

from ggufpy.server.problems import Problem

Record = dict[str, Any]


class Family(Protocol):
    """An interface's manners."""

    media_type: str  # of streams
    tail: bytes  # behind a stream's last record
    ping: bytes  # what keeps a silent stream open; empty where the interface has nothing for it

    def error(self, problem: Problem) -> Record:
        """The body of an error."""

    def frame(self, record: Record) -> bytes:
        """A record of a stream as it is sent."""

    def broken(self, problem: Problem) -> bytes:
        """What ends a stream that has begun and failed."""

    def key(self, headers: Mapping[str, str]) -> str | None:
        """The key that a request brings."""


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def encode(record: Any) -> bytes:
    """A record as compact JSON, in one line for everybody: httpx ends lines where `str.splitlines` does, so that
    line ends which JSON need not escape are escaped. Half a character (a name of a file) becomes "?"."""
    text = _JSON.encode(record)
    if not text.isascii():
        text = text.translate(LINE_ENDS)
    return text.encode("utf-8", "replace")


def bearer(headers: Mapping[str, str]) -> str | None:
    """The key of an Authorization header."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


class Events(ABC):
    """What families of server-sent events have in common; a family says how its errors look (`error`)."""

    media_type = "text/event-stream; charset=utf-8"
    tail = b""
    ping = b": waiting\n\n"

    @abstractmethod
    def error(self, problem: Problem) -> Record:
        """See `Family`."""

    def frame(self, record: Record) -> bytes:
        """See `Family`."""
        return b"data: " + encode(record) + b"\n\n"

    def broken(self, problem: Problem) -> bytes:
        """See `Family`: an event with the error."""
        return self.frame(self.error(problem))

    def key(self, headers: Mapping[str, str]) -> str | None:
        """See `Family`: Anthropic's clients have a header of their own, which llama-server takes, too."""
        return bearer(headers) or headers.get("x-api-key")


def named(record: Record) -> bytes:
    """A record as an event that has its type for a name."""
    return b"event: " + str(record["type"]).encode() + b"\ndata: " + encode(record) + b"\n\n"


def family_of(path: str) -> Family:
    """In whose manners a path is refused before its route is known."""
    from ggufpy.server.families.anthropic import ANTHROPIC
    from ggufpy.server.families.ollama import OLLAMA
    from ggufpy.server.families.openai import OPENAI

    if path.startswith("/api/"):
        return OLLAMA
    return ANTHROPIC if path.startswith("/v1/messages") else OPENAI
