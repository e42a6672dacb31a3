"""OpenAI's manners: errors as {"error": {message, type, param, code}}, streams as server-sent events."""

from __future__ import annotations

from collections.abc import Mapping

from ggufpy.server.families import Record, bearer, encode
from ggufpy.server.problems import Problem

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class OpenAI:
    """See `Family`."""

    media_type = "text/event-stream; charset=utf-8"
    tail = b"data: [DONE]\n\n"
    ping = b": waiting\n\n"

    def error(self, problem: Problem) -> Record:
        """See `Family`."""
        kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
        error = {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}
        return {"error": error}

    def frame(self, record: Record) -> bytes:
        """See `Family`."""
        return b"data: " + encode(record) + b"\n\n"

    def broken(self, problem: Problem) -> bytes:
        """See `Family`."""
        return self.frame(self.error(problem))

    def key(self, headers: Mapping[str, str]) -> str | None:
        """See `Family`: Anthropic's clients, which ask for models here too, have a header of their own."""
        return bearer(headers) or headers.get("x-api-key")


OPENAI = OpenAI()
