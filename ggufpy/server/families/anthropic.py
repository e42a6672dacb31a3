"""Anthropic's manners: errors as {"type": "error", "error": {type, message}}, streams as named server-sent events."""

from __future__ import annotations

from collections.abc import Mapping

from ggufpy.server.families import Record, bearer, encode
from ggufpy.server.problems import Problem

KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class Anthropic:
    """See `Family`."""

    media_type = "text/event-stream; charset=utf-8"
    tail = b""
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def error(self, problem: Problem) -> Record:
        """See `Family`."""
        kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": problem.message}}

    def frame(self, record: Record) -> bytes:
        """See `Family`: an event has its record's type for a name."""
        return b"event: " + str(record["type"]).encode() + b"\ndata: " + encode(record) + b"\n\n"

    def broken(self, problem: Problem) -> bytes:
        """See `Family`."""
        return self.frame(self.error(problem))

    def key(self, headers: Mapping[str, str]) -> str | None:
        """See `Family`."""
        return headers.get("x-api-key") or bearer(headers)


ANTHROPIC = Anthropic()
