"""What a request brings, checked: its body as JSON, who sends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio

from ggufpy.server.problems import BAD_REQUEST, CODED, TIMEOUT, TOO_LARGE, Gone, Problem

if TYPE_CHECKING:
    from starlette.requests import Request

Record = dict[str, Any]
SIZE = "ggufpy.size"  # where a scope has its body's
BODY_SECONDS = 60.0  # for a body to come
CLIENT = "ggufpy.client"  # the key, in a request's ASGI scope, of whose request it is
LINGER = 5.0  # of a body that is not wanted
MOST_VALUES = 1 << 20  # of a body: ten times as many hold up everybody for seconds, and take a gigabyte
_KINDS = {
    "NoneType": "null", "bool": "true or false", "int": "a number", "float": "a number", "str": "a text",
    "list": "a list",
}  # fmt: skip


async def read_body(request: Request, limit: int) -> bytes:
    """The body. Raises Problem 413 for one of more than `limit` bytes, 415 for one that is compressed and 408 for one
    that does not come, Gone where it ends early."""
    from starlette.requests import ClientDisconnect

    if (coding := request.headers.get("content-encoding", "identity").lower()) not in ("", "identity"):
        told = f"the body has Content-Encoding {coding[:40]!r}: send it as it is, without compression"
        raise Problem(CODED, told, "content_encoding", headers={"connection": "close"})
    declared = request.headers.get("content-length", "0")
    waits = request.headers.get("expect", "").lower() == "100-continue"  # for a word before it sends the body
    try:
        if declared.isdecimal() and int(declared) > limit:
            await _pass_over(request, 0 if waits else LINGER)
            raise _too_large(limit)
        with anyio.fail_after(BODY_SECONDS):
            parts, size = [], 0
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    await _pass_over(request, LINGER)
                    raise _too_large(limit)
                parts.append(part)
            request.scope[SIZE] = size
            return b"".join(parts)
    except ClientDisconnect:
        raise Gone from None
    except TimeoutError:
        told = f"the body did not come within {BODY_SECONDS:g} s"
        raise Problem(TIMEOUT, told, "timeout", headers={"connection": "close"}) from None


def size_of(request: Request) -> int:
    """Bytes of the body that has been read."""
    return int(request.scope.get(SIZE, 0))


async def _pass_over(request: Request, seconds: float) -> None:
    """Reads what comes for a while, and keeps none of it: a client that sends does not see an answer before."""
    if not seconds:
        return
    with anyio.move_on_after(seconds):
        while (message := await request.receive())["type"] == "http.request" and message.get("more_body", False):
            pass


def _too_large(limit: int) -> Problem:
    told = f"the body is more than the {limit:,} bytes that are taken: send less (ggufpy serve --max-body)"
    return Problem(TOO_LARGE, told, "body_too_large", headers={"connection": "close"})


def parsed(body: bytes) -> Record:
    """A body as an object of JSON. Raises Problem 400 for anything else."""
    value = value_of(body)
    if not isinstance(value, dict):
        raise Problem(BAD_REQUEST, f"the body must be an object of JSON, not {_KINDS[type(value).__name__]}")
    return value


def value_of(body: bytes) -> Any:
    """A body as JSON of any kind. Raises Problem 400 for anything else, and for very many values."""
    if _marks(body) > MOST_VALUES and _has_many_values(body):
        raise Problem(BAD_REQUEST, f"the body has more than {MOST_VALUES:,} values of JSON: send less")
    try:
        value = json.loads(body, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Problem(BAD_REQUEST, "the body has a lone surrogate (\\ud800 to \\udfff), which is no text") from None
    except RecursionError:
        raise Problem(BAD_REQUEST, "the body is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise Problem(BAD_REQUEST, f"the body is no JSON: byte {error.start} of it is no UTF-8") from None
    except ValueError as error:
        long = "Exceeds the limit" in str(error)  # of Python, for the digits of a whole number
        told = "a whole number has more than 4,300 digits" if long else str(error)
        raise Problem(BAD_REQUEST, f"the body is no JSON: {told}") from None
    return value


def _marks(body: bytes) -> int:
    """What begins a value of JSON, or goes before one."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _has_many_values(body: bytes) -> bool:
    """Whether there are too many, where what is within texts does not count."""
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * MOST_VALUES:  # two for each text, and each value may have a text for a key
        return True
    return _marks(b"".join(bare.split(b'"')[::2])) > MOST_VALUES


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def name_client(request: Request, key: str | None) -> None:
    """Notes whose request it is: the key's that it brings, else its address."""
    request.scope[CLIENT] = key or (request.client.host if request.client else "")


def client_of(request: Request) -> str:
    """Whose request it is, for turns."""
    return str(request.scope.get(CLIENT, ""))
