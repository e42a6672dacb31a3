"""A loader whose loads a test holds up, fails and counts, and a pool of it: for tests of the pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from llm_fakes import fake_llama

from ggufpy.llm import Llama
from ggufpy.server.catalogue import Catalogue, Entry
from ggufpy.server.loader import Progress
from ggufpy.server.pool import Pool
from ggufpy.server.settings import ServerOptions

SOON = 5.0  # seconds that nothing here takes


class Loads:
    """A loader of fake models. `needs` are bytes by name; a name in `gates` loads once that is set, one in `errors`
    fails as often as there are any."""

    places = 4

    def __init__(self, **needs: int) -> None:
        self.needs = needs
        self.gates: dict[str, threading.Event] = {}
        self.errors: dict[str, list[Exception]] = {}
        self.fetching: dict[str, list[Exception]] = {}
        self.loads: list[str] = []
        self.threads: set[str] = set()
        self.llms: list[Llama] = []

    def fetch(self, entry: Entry, progress: Progress) -> Entry:
        if self.fetching.get(entry.name):
            raise self.fetching[entry.name].pop(0)
        return entry

    def need(self, entry: Entry) -> int:
        return self.needs.get(entry.name, 1)

    def load(self, entry: Entry, progress: Progress) -> Llama:
        self.loads.append(entry.name)
        self.threads.add(threading.current_thread().name)
        if gate := self.gates.get(entry.name):
            while not gate.wait(0.002):
                progress("load", 1, 2)
        if self.errors.get(entry.name):
            raise self.errors[entry.name].pop(0)
        self.llms.append(fake_llama(n_parallel=2))
        return self.llms[-1]

    def gate(self, name: str) -> threading.Event:
        """Holds up loads of a model until it is set."""
        return self.gates.setdefault(name, threading.Event())


@asynccontextmanager
async def pool_of(loads: Any, names: Sequence[str] | Catalogue = "abc", **options: Any) -> AsyncIterator[Pool]:
    """A pool of these names, or of a catalogue; it is closed at the end, and nothing of it is left."""
    catalogue = names if isinstance(names, Catalogue) else Catalogue.of_names(list(names))
    pool = Pool(catalogue, loads, ServerOptions(**options))
    try:
        yield pool
    finally:
        for gate in getattr(loads, "gates", {}).values():
            gate.set()
        await asyncio.wait_for(pool.close(), SOON)
        assert not pool.loaded


async def use(pool: Pool, name: str | None, keep_alive: float | None = None) -> str:
    """Uses a model for a moment; its name."""
    async with pool.use(name, keep_alive) as served:
        return served.name


async def until(true: Callable[[], bool]) -> None:
    """Waits for something that must come."""
    end = asyncio.get_running_loop().time() + SOON
    while not true():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.002)


def loaded(pool: Pool) -> set[str]:
    """The names of the models that are loaded."""
    return {served.name for served in pool.loaded}


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time a test puts forward."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped
