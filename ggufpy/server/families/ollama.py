"""ollama's manners: errors as {"error": message}, streams as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping

from ggufpy.server.families import Record, bearer, encode
from ggufpy.server.problems import Problem


class Ollama:
    """See `Family`."""

    media_type = "application/x-ndjson"
    tail = b""
    ping = b""

    def error(self, problem: Problem) -> Record:
        """See `Family`."""
        return {"error": problem.message}

    def frame(self, record: Record) -> bytes:
        """See `Family`."""
        return encode(record) + b"\n"

    def broken(self, problem: Problem) -> bytes:
        """See `Family`."""
        return self.frame(self.error(problem))

    def key(self, headers: Mapping[str, str]) -> str | None:
        """See `Family`."""
        return bearer(headers)


OLLAMA = Ollama()
