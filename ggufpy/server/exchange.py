"""What a request brings, checked: its body as JSON, who sends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ggufpy.server.problems import BAD_REQUEST, TOO_LARGE, Gone, Problem

if TYPE_CHECKING:
    from starlette.requests import Request

Record = dict[str, Any]


async def read_body(request: Request, limit: int) -> bytes:
    """The body. Raises Problem 413 for one of more than `limit` bytes, Gone where it ends early."""
    from starlette.requests import ClientDisconnect

    told = f"the body is more than the {limit:,} bytes that are taken: send less (ggufpy serve --max-body)"
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise Problem(TOO_LARGE, told, "body_too_large", headers={"connection": "close"})
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Problem(TOO_LARGE, told, "body_too_large", headers={"connection": "close"})
            parts.append(part)
    except ClientDisconnect:
        raise Gone from None
    return b"".join(parts)


def parsed(body: bytes) -> Record:
    """A body as an object of JSON. Raises Problem 400 for anything else."""
    try:
        value = json.loads(body, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Problem(BAD_REQUEST, "the body has a lone surrogate (\\ud800 to \\udfff), which is no text") from None
    except RecursionError:
        raise Problem(BAD_REQUEST, "the body is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise Problem(BAD_REQUEST, f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Problem(BAD_REQUEST, f"the body must be an object of JSON, not {type(value).__name__}")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def client_of(request: Request) -> str:
    """Whose request it is, for turns: the key that it brings, else its address."""
    key = request.headers.get("authorization") or request.headers.get("x-api-key")
    return key or (request.client.host if request.client else "")
