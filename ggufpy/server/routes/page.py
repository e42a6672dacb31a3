"""GET / and /page/NAME: the page to chat, whose files are in `server/page/`.

Files are looked up by name in what the package has, so no other path can be asked for.
"""

from __future__ import annotations

import mimetypes
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from starlette.responses import Response
from xxhash import xxh3_64

from ggufpy.server.families.openai import OPENAI
from ggufpy.server.problems import NOT_FOUND, Problem
from ggufpy.server.routes import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; manifest-src 'self'"
)
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


@cache
def files() -> dict[str, bytes]:
    """The page's files by name."""
    folder = resources.files("ggufpy.server") / "page"
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file() and each.name[0] not in "_."}


async def page(service: Service, request: Request) -> Response:
    """One of them; index.html where none is named."""
    name = request.path_params.get("name", "index.html")
    body = files().get(name)
    if body is None:
        raise Problem(NOT_FOUND, f"the page has no file {name[:80]!r}", "not_found")
    suffix = f".{name.rpartition('.')[2]}"
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",
        "etag": f'"{xxh3_64(body).hexdigest()}"',
    }
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    kind = TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(body, headers=headers, media_type=kind)


ROUTES = (
    Route("GET", "/", OPENAI, page, open=True),
    Route("GET", "/page/{name}", OPENAI, page, open=True),
)
