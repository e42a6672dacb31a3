"""llama-server's manners: errors as {"error": {code, message, type}} with the status in `code`, streams as server-sent
events without a last word (llama.cpp: tools/server, format_error_response)."""

from __future__ import annotations

from collections.abc import Mapping

from ggufpy.server.families import Record, bearer, encode
from ggufpy.server.problems import Problem, TooLong

KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
    501: "not_supported_error", 503: "unavailable_error",
}  # fmt: skip
TOO_LONG = "exceed_context_size_error"


class LlamaServer:
    """See `Family`."""

    media_type = "text/event-stream; charset=utf-8"
    tail = b""
    ping = b": waiting\n\n"

    def error(self, problem: Problem) -> Record:
        """See `Family`. A prompt that is too long says how long it is and what the context holds."""
        kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
        error: Record = {"code": problem.status, "message": problem.message, "type": kind}
        if isinstance(problem, TooLong):
            error |= {"type": TOO_LONG, "n_prompt_tokens": problem.tokens, "n_ctx": problem.holds}
        return {"error": error}

    def frame(self, record: Record) -> bytes:
        """See `Family`."""
        return b"data: " + encode(record) + b"\n\n"

    def broken(self, problem: Problem) -> bytes:
        """See `Family`: an event with the error, as llama-server sends it."""
        return self.frame(self.error(problem))

    def key(self, headers: Mapping[str, str]) -> str | None:
        """See `Family`: llama-server takes Anthropic's header, too."""
        return bearer(headers) or headers.get("x-api-key")


LLAMA = LlamaServer()
