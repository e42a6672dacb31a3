"""POST /api/pull: a model is fetched into the cache, where the server allows it (--allow-pull)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ggufpy.api.ollama import about, fields
from ggufpy.errors import GGUFError
from ggufpy.server.families.ollama import OLLAMA
from ggufpy.server.problems import FORBIDDEN, Problem
from ggufpy.server.pulling import Progress, Pull
from ggufpy.server.routes import Route
from ggufpy.server.routes._ollama import body_of, name_in
from ggufpy.support import checks

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ggufpy.server.service import Service

Record = dict[str, Any]


async def pull(service: Service, request: Request) -> Response | Record:
    """How far it is, as a stream; or its end."""
    from starlette.responses import StreamingResponse

    body = await body_of(service, request)
    name = about.asked_name(name_in(body))
    fields.check("/api/pull", body)
    stream = body.get("stream")
    streams = stream is None or checks.flag("stream", stream)
    served = await service.prepare(lambda: any(name == each.source for each in service.pool.catalogue.entries()))
    if not (served or service.options.allow_pull):
        told = "models are not fetched for clients: start the server with --allow-pull, or run 'ggufpy pull' there"
        raise Problem(FORBIDDEN, told, "pull_not_allowed")
    work = service.pulls.start(name)
    if streams:
        return StreamingResponse(_lines(work), media_type=OLLAMA.media_type)
    await work.ended.wait()
    if work.error is not None:
        raise work.error
    return {"status": "success"}


async def _lines(work: Pull) -> AsyncIterator[bytes]:
    try:
        async for progress in work.progress():
            yield OLLAMA.frame(_record(work.name, progress))
    except GGUFError as error:
        yield OLLAMA.frame({"error": str(error)})
        return
    yield OLLAMA.frame({"status": "success"})


def _record(name: str, progress: Progress) -> Record:
    """A line of the stream, in ollama's words (server/images.go, PullModel)."""
    if progress.step == "manifest":
        return {"status": "pulling manifest"}
    if progress.step == "unpack":
        return {"status": "verifying sha256 digest"}
    sizes = {"total": progress.total, "completed": progress.done} if progress.total else {"completed": progress.done}
    if not progress.digest:
        return {"status": f"pulling {name}", **sizes}
    return {"status": f"pulling {progress.digest[:12]}", "digest": f"sha256:{progress.digest}", **sizes}


ROUTES = (Route("POST", "/api/pull", OLLAMA, pull),)
