"""llama-server's manners: errors as {"error": {code, message, type}} with the status in `code`, streams as server-sent
events without a last word (llama.cpp: tools/server, format_error_response)."""

from __future__ import annotations

from ggufpy.server.families import Events, Record
from ggufpy.server.problems import Problem, TooLong

KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
    501: "not_supported_error", 503: "unavailable_error",
}  # fmt: skip
TOO_LONG = "exceed_context_size_error"


class LlamaServer(Events):
    """See `Family`."""

    def error(self, problem: Problem) -> Record:
        """See `Family`. A prompt that is too long says how long it is and what the context holds."""
        kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
        error: Record = {"code": problem.status, "message": problem.message, "type": kind}
        if isinstance(problem, TooLong):
            error |= {"type": TOO_LONG, "n_prompt_tokens": problem.tokens, "n_ctx": problem.holds}
        return {"error": error}


LLAMA = LlamaServer()
