"""Calls of a model that make no text, as embeddings: many for one request, a few at a time, ended when its client goes.

Each call has a place of the queue, so that requests for texts have their turn between them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ggufpy.server import exchange
from ggufpy.server.problems import TIMEOUT, Gone, Problem
from ggufpy.server.tally import Tally, entry_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from ggufpy.server.served import Served
    from ggufpy.server.service import Service

T = TypeVar("T")
AT_ONCE = 2  # calls of one request


async def each(service: Service, request: Request, served: Served, calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls return, in their order. Raises the first error of any; Gone, and Problem 408."""
    entry_of(request.scope).model = served.name
    served.queue.check()
    room = asyncio.Semaphore(AT_ONCE)
    client = exchange.client_of(request)

    async def one(call: Callable[[], T]) -> T:
        async with room, served.queue.place(client, None, request):
            return await served.evaluate(call)

    tasks = [asyncio.create_task(one(call)) for call in calls]
    whole = asyncio.gather(*tasks)
    watcher = asyncio.create_task(_gone(request))
    waited: set[asyncio.Future[Any]] = {whole, watcher}
    try:
        with anyio.fail_after(service.options.timeout or math.inf):
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            raise Gone
        return whole.result()
    except TimeoutError:
        told = f"the answer took longer than {service.options.timeout:g} s (--timeout)"
        raise Problem(TIMEOUT, told, "timeout") from None
    finally:
        watcher.cancel()
        for task in tasks:
            task.cancel()
        whole.cancel()
        with suppress(asyncio.CancelledError, Exception):  # it was told, or nobody is there to hear it
            await whole


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def note(service: Service, served: Served, tokens: int, seconds: float) -> None:
    """Counts a request that has read so many tokens, and of which no text has come."""
    tally = service.book.tallies.setdefault(served.name, Tally())
    tally.requests += 1
    tally.prompt_tokens += tokens
    tally.prompt_seconds += seconds
    tally.prompts.add(tokens)
