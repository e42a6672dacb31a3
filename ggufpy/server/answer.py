"""An answer that is generated: from a request's body to the bytes that its client gets, streamed or whole."""

from __future__ import annotations

import asyncio
import math
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import Request

from ggufpy.errors import GGUFError
from ggufpy.server import exchange
from ggufpy.server.families import Family, encode
from ggufpy.server.problems import BAD_REQUEST, FAILED, TIMEOUT, UNAVAILABLE, Gone, Problem
from ggufpy.server.tally import entry_of
from ggufpy.server.work import Prepared, Work
from ggufpy.support import console
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from ggufpy.llm import Llama
    from ggufpy.server.served import Served
    from ggufpy.server.service import Service
    from ggufpy.server.tally import Entry

Record = dict[str, Any]
Prepare = Callable[["Llama", Record], Prepared]
PATIENCE = 10.0  # seconds of silence before a stream is kept open with a ping


@dataclass(frozen=True)
class Given:
    """A body that has been read already, and how many seconds its model stays after it (None: as the server says)."""

    body: Record
    keep_alive: float | None = None


class Generation:
    """An ASGI application that answers one route by generating. `prepare` checks a body; it may take long, and runs on
    a thread of its own. `given` is the body where somebody has read it before."""

    def __init__(self, service: Service, family: Family, prepare: Prepare, given: Given | None = None) -> None:
        self._service, self._family, self._prepare, self._given = service, family, prepare, given

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        sender = Sender(send, self._family, entry_of(scope))
        seconds = self._service.options.timeout
        async with sender.telling(scope["path"]):
            try:
                with anyio.fail_after(seconds or math.inf):
                    async with AsyncExitStack() as stack:
                        attendant = asyncio.create_task(_attend(sender))
                        stack.callback(attendant.cancel)
                        await self._answer(request, sender, stack)
            except TimeoutError:
                told = f"the answer took longer than {seconds:g} s (--timeout)"
                raise Problem(TIMEOUT, told, "timeout") from None

    async def _answer(self, request: Request, sender: Sender, stack: AsyncExitStack) -> None:
        service, entry, clock = self._service, entry_of(request.scope), time.monotonic
        given = self._given or Given(exchange.parsed(await exchange.read_body(request, service.options.body_limit)))
        with anyio.CancelScope() as wanted:
            watcher = asyncio.create_task(_watch(request, wanted))
            stack.callback(watcher.cancel)
            since = clock()
            served = await stack.enter_async_context(service.pool.use(given.body.get("model"), given.keep_alive))
            loading = clock() - since
            client, body = exchange.client_of(request), {**given.body, "model": served.name}
            entry.model = served.name
            served.queue.check()
            make = partial(self._work, served, body, client)
            prepared, work = await service.prepare(make, exchange.size_of(request))
            work.loading = loading
            served.queue.check(prepared.place)
            try:
                await (_stream if prepared.stream else _whole)(prepared, work, sender)
            finally:
                entry.spent = work.spent
        if wanted.cancelled_caught:
            raise Gone

    def _work(self, served: Served, body: Record, client: str) -> tuple[Prepared, Work]:
        """What a body asks for. Raises Problem for what is wrong with it."""
        try:
            prepared = self._prepare(served.llm, body)
            prepared.shape.prepare()
            return prepared, Work(served, prepared, client)
        except GGUFError as error:
            raise Problem(BAD_REQUEST, str(error), _code(error), _param(error, body)) from error


def _code(error: GGUFError) -> str | None:
    return "context_length_exceeded" if "the context holds" in str(error) else None


def _param(error: GGUFError, body: Record) -> str | None:
    """The field that a message begins with."""
    word = str(error).split(" ", 1)[0]
    name = word.split(".")[0].split("[")[0]
    return word if name in body else None


async def _watch(request: Request, wanted: anyio.CancelScope) -> None:
    """Ends what is done for a client once that leaves: from the load of its model on, and within a step."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    wanted.cancel()


async def _attend(sender: Sender) -> None:
    """Keeps a silent stream open."""
    while True:
        await asyncio.sleep(PATIENCE)
        await sender.ping()


async def _whole(prepared: Prepared, work: Work, sender: Sender) -> None:
    said: list[list[Any]] = [[] for _ in prepared.asked.samplings]
    async with aclosing(work.deltas()) as deltas:
        async for made in deltas:
            for number, delta in made:
                said[number].append(delta)
    await sender.whole(prepared.shape.whole(said, work.spent))


async def _stream(prepared: Prepared, work: Work, sender: Sender) -> None:
    shape = prepared.shape
    await sender.records(list(shape.begin()))
    async with aclosing(work.deltas()) as deltas:
        async for made in deltas:
            records = [record for number, delta in made for record in shape.delta(number, delta)]
            if records:
                await sender.records(records)
    await sender.records(list(shape.end(work.spent)), last=True)


class Sender:
    """Writes an answer's bytes; what fails after the first of them is told within the stream."""

    def __init__(self, send: Send, family: Family, entry: Entry | None = None) -> None:
        self._bare, self._family, self._entry = send, family, entry
        self._begun = self._ended = False
        self._id = f"req_{token_hex(12)}"  # what clients of OpenAI and Anthropic show of an answer that went wrong
        self._sending = False
        self._since = time.monotonic()  # the last time that something began or ended to be sent

    async def _send(self, message: Message) -> None:
        self._sending, self._since = True, time.monotonic()
        try:
            await self._bare(message)
        finally:
            self._sending, self._since = False, time.monotonic()

    async def _start(self, status: int, media_type: str, headers: dict[str, str]) -> None:
        self._begun = True
        named = {"content-type": media_type, "request-id": self._id, "x-request-id": self._id, **headers}
        coded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": coded})

    async def whole(self, record: Record, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """An answer that is one record."""
        body = encode(record)
        sized = {"content-length": str(len(body)), **(headers or {})}
        await self._start(status, "application/json", sized)
        self._ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def records(self, records: list[Record], last: bool = False) -> None:
        """Records of a stream, which begins with the first."""
        if not self._begun:
            quiet = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            await self._start(200, self._family.media_type, quiet)
        body = b"".join(map(self._family.frame, records)) + (self._family.tail if last else b"")
        self._ended = last
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def ping(self) -> None:
        """Keeps a stream that has been silent open, where its interface has something for that."""
        silent = self._begun and not (self._ended or self._sending) and time.monotonic() - self._since >= PATIENCE
        if silent and self._family.ping:
            await self._send({"type": "http.response.body", "body": self._family.ping, "more_body": True})

    @asynccontextmanager
    async def telling(self, path: str) -> AsyncIterator[None]:
        """Whatever goes wrong within is told, before or within the answer; a fault of ours to whoever runs the server,
        too."""
        try:
            yield
        except Gone:
            if self._entry is not None:
                self._entry.gone = True
        except Problem as problem:
            await self.problem(problem)
        except GGUFError as error:
            await self.problem(Problem(BAD_REQUEST, str(error)))
        except asyncio.CancelledError:  # uvicorn's, once answers have had their time to end
            await self.problem(Problem(UNAVAILABLE, "the server is ending", "ending"))
        except Exception as error:
            console.note(f"ggufpy: {path}: {traceback.format_exc()}")
            await self.problem(Problem(FAILED, f"the server has failed: {type(error).__name__}", "internal_error"))

    async def problem(self, problem: Problem) -> None:
        """What went wrong."""
        if problem.status >= FAILED:
            console.note(f"ggufpy: {problem.status}: {problem.message}")
        if self._entry is not None:
            self._entry.refused(problem)
        if self._ended:
            return
        problem.request_id = self._id
        if not self._begun:
            await self.whole(self._family.error(problem), problem.status, problem.headers)
            return
        self._ended = True
        await self._send({"type": "http.response.body", "body": self._family.broken(problem)})
