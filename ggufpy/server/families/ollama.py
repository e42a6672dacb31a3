"""ollama's manners: errors as {"error": message}, streams as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping

from ggufpy.server.families import Record, bearer, encode
from ggufpy.server.problems import Problem

# What else may end a line beside the control characters, which JSON escapes in any case: as UTF-8, and escaped.
LINE_ENDS = tuple((chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029))


class Ollama:
    """See `Family`."""

    media_type = "application/x-ndjson"
    tail = b""
    ping = b""

    def error(self, problem: Problem) -> Record:
        """See `Family`."""
        return {"error": problem.message}

    def frame(self, record: Record) -> bytes:
        """See `Family`. No character but the last is one at which clients (httpx: LineDecoder) end a line."""
        line = encode(record)
        for end, escape in LINE_ENDS:
            line = line.replace(end, escape)
        return line + b"\n"

    def broken(self, problem: Problem) -> bytes:
        """See `Family`."""
        return self.frame(self.error(problem))

    def key(self, headers: Mapping[str, str]) -> str | None:
        """See `Family`."""
        return bearer(headers)


OLLAMA = Ollama()
