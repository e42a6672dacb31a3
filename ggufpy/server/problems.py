"""What goes wrong with a request: a status and one line. How it is written is a family's matter (`families/`)."""

from __future__ import annotations

from collections.abc import Mapping

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TIMEOUT, TOO_LARGE, CODED = 400, 401, 403, 404, 408, 413, 415
TOO_MANY, FAILED, NOT_SUPPORTED, UNAVAILABLE = 429, 500, 501, 503


class Problem(Exception):
    """A request that is refused or has failed. `code` is a word for programs, `param` the field that is wrong."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})
        self.request_id: str | None = None  # that of the answer that tells it


class TooLong(Problem):
    """A prompt of more tokens than the context holds."""

    def __init__(self, message: str, tokens: int, holds: int) -> None:
        super().__init__(BAD_REQUEST, message, "context_length_exceeded", "prompt")
        self.tokens, self.holds = tokens, holds


class Gone(Exception):
    """The client has left: nobody wants an answer."""
