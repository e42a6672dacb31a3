"""Anthropic's manners: errors as {"type": "error", "error": {type, message, details}, "request_id"}, streams as
named server-sent events.

How versions differ: `api/anthropic/versions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ggufpy.server.families import Events, Record, bearer, named
from ggufpy.server.problems import Problem

KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class Anthropic(Events):
    """See `Family`."""

    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def error(self, problem: Problem) -> Record:
        """See `Family`."""
        kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
        error: Record = {"type": kind, "message": problem.message}
        if problem.code:
            error["details"] = {"error_code": problem.code}
        return {"type": "error", "error": error, "request_id": problem.request_id}

    def frame(self, record: Record) -> bytes:
        """See `Family`: an event has its record's type for a name."""
        return named(record)

    def key(self, headers: Mapping[str, str]) -> str | None:
        """See `Family`."""
        return headers.get("x-api-key") or bearer(headers)


class Legacy(Anthropic):
    """As version 2023-01-01 has it: events without names, and a last word."""

    tail = b"data: [DONE]\n\n"
    ping = b'data: {"type":"ping"}\n\n'

    def frame(self, record: Record) -> bytes:
        """See `Family`."""
        return Events.frame(self, record)


ANTHROPIC = Anthropic()
LEGACY = Legacy()
