"""The manners of OpenAI's responses: errors as everywhere in its interface, streams as named server-sent events without
a last word. What fails within a stream is told as `response.failed`, which clients look for (Codex among them)."""

from __future__ import annotations

from ggufpy.server.families import Record, named
from ggufpy.server.families.openai import OpenAI
from ggufpy.server.problems import Problem

CODES = ("server_error", "rate_limit_exceeded", "invalid_prompt")


class ResponseStream(OpenAI):
    """See `Family`. One for each answer: it knows what the stream has said last."""

    tail = b""

    def __init__(self) -> None:
        self._last: Record = {}
        self._response: Record = {}

    def frame(self, record: Record) -> bytes:
        """See `Family`."""
        self._last = record
        self._response = record.get("response", self._response)
        return named(record)

    def broken(self, problem: Problem) -> bytes:
        """See `Family`."""
        error = {"code": "server_error", "message": problem.message}
        number = self._last.get("sequence_number", -1) + 1
        response = {**self._response, "status": "failed", "error": error}
        return self.frame({"type": "response.failed", "sequence_number": number, "response": response})
