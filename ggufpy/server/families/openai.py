"""OpenAI's manners: errors as {"error": {message, type, param, code}}, streams as server-sent events."""

from __future__ import annotations

from ggufpy.server.families import Events, Record
from ggufpy.server.problems import Problem

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class OpenAI(Events):
    """See `Family`."""

    tail = b"data: [DONE]\n\n"

    def error(self, problem: Problem) -> Record:
        """See `Family`."""
        kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
        error = {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}
        return {"error": error}


OPENAI = OpenAI()
