"""A server in a thread of the test's process, over a small model or one that a test gives: for tests of routes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvicorn

from ggufpy.llm import Llama
from ggufpy.server.catalogue import Catalogue, Entry
from ggufpy.server.loader import Progress
from ggufpy.server.pool import Pool
from ggufpy.server.run import listen, make_config
from ggufpy.server.service import Service
from ggufpy.server.settings import ServerOptions


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The records of server-sent events, [DONE] left out."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def lines(self) -> list[Any]:
        """The records of lines of JSON."""
        return [json.loads(line) for line in self.body.decode().splitlines()]


@dataclass(frozen=True)
class Running:
    """A server that runs: where, and what it is."""

    url: str
    service: Service

    def ask(
        self, path: str, body: Any = None, method: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        """One request; `body` is an object, or bytes as they are."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answered(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return Answered(error.code, dict(error.headers), error.read())


@dataclass(frozen=True)
class Factories:
    """A loader of models that functions make."""

    models: Mapping[str, Callable[[], Llama]]
    places: int = 64

    def fetch(self, entry: Entry, progress: Progress) -> Entry:
        return entry

    def need(self, entry: Entry) -> int:
        return 0

    def load(self, entry: Entry, progress: Progress) -> Llama:
        return self.models[entry.name]()


@contextmanager
def serving(
    models: Mapping[str, Callable[[], Llama]], options: ServerOptions | None = None, keys: tuple[str, ...] = ()
) -> Iterator[Running]:
    """A server at a free port of 127.0.0.1; `models` makes a model where one is asked for by its name."""
    chosen = options or ServerOptions()
    made: list[Service] = []

    async def start() -> Service:
        pool = Pool(Catalogue.of_names(list(models)), Factories(models), chosen)
        made.append(Service(pool, chosen, keys))
        return made[0]

    chosen = replace(chosen, port=0)
    listening = listen(chosen)
    server = uvicorn.Server(make_config(start, chosen))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            threading.Event().wait(0.01)
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", made[0])
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


def until(true: Callable[[], bool], seconds: float = 5) -> None:
    """Waits for something that must come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
