"""The models that are served, by name: loaded when they are asked for, and kept as long as they are wanted.

Each model is fetched, reckoned, loaded and closed on threads of its own; who asks for it meanwhile waits for the same
load, and requests to other models go on. All of the pool is on the event loop, and nothing in it is locked.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.server.aside import aside
from ggufpy.server.loader import Abandoned, Loader, fetch_problem, load_problem
from ggufpy.server.memory import allowed, give_back
from ggufpy.server.problems import FAILED, TOO_MANY, UNAVAILABLE, Problem
from ggufpy.server.room import RETRY, Room
from ggufpy.server.served import Served
from ggufpy.server.settings import ServerOptions
from ggufpy.server.slot import Slot, State
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.llm import Llama
    from ggufpy.server.catalogue import Catalogue, Entry

ENDING = 20.0  # seconds that what is being fetched has when the server ends
ENDS = "the server is ending"
TOLD = 256  # models whose last failure is remembered


class Pool:
    """Models by name; the first of the catalogue answers requests that name none. Made on the event loop."""

    def __init__(self, catalogue: Catalogue, loader: Loader, options: ServerOptions) -> None:
        self.catalogue, self._loader, self._options = catalogue, loader, options
        self._slots: dict[str, Slot] = {}
        self._failures: OrderedDict[str, str] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._scan: asyncio.Future[list[Entry]] | None = None
        self._closing = False
        memory = allowed(options.max_memory)
        self.room = Room(options.max_models, memory, options.load_wait, self._slots.values, self._end)

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for."""
        return tuple(entry.name for entry in self.catalogue.entries())

    @property
    def loaded(self) -> list[Served]:
        """Those that are loaded. On any thread."""
        slots = list(self._slots.values())
        return [slot.served for slot in slots if slot.state is State.LOADED and slot.served is not None]

    def find(self, name: str | None) -> Entry:
        """The entry of a name; None and "" are the first's. Raises Problem 404 for one that is not known, 400 for one
        that means several. On any thread: a folder of models may be looked at."""
        return self.catalogue.find(name)

    def state(self, entry: Entry) -> State | None:
        """What happens with a model; None where it is not loaded."""
        slot = self._slots.get(entry.name)
        return None if slot is None else slot.state

    def progress(self, entry: Entry) -> tuple[str, int, int] | None:
        """Stage, how much is done and of how much, of a model that is fetched or loaded."""
        slot = self._slots.get(entry.name)
        return None if slot is None or slot.state is State.LOADED else slot.progress

    def failure(self, entry: Entry) -> str | None:
        """Why a model could not be loaded when that was last tried."""
        return self._failures.get(entry.name)

    @asynccontextmanager
    async def use(self, name: str | None, keep_alive: float | None = None) -> AsyncIterator[Served]:
        """A model, loaded if it is not, and kept while it is used.

        `keep_alive` says how many seconds it stays afterwards: below 0 for ever, 0 not at all, None as it was. Raises
        Problem 404 for a name that is not known, 429 where too many wait for the model, 503 where there is no room for
        it, 500 where it cannot be loaded.
        """
        entry = await self._look(name)
        slot = await self._slot(entry)
        slot.enter(keep_alive)
        try:
            yield await self._ready(slot)
        finally:
            slot.leave()
            self._left(slot)

    async def unload(self, name: str | None) -> bool:
        """Ends a model, where it is loaded, and waits until it is closed. One that is at work goes when its requests
        have ended: that is not waited for, and False is returned."""
        slot = self._slots.get((await self._look(name)).name)
        if slot is None:
            return True
        slot.keep_alive = 0
        if slot.served is not None:
            slot.served.keep_alive = 0
        if slot.users:
            return False
        slot.abandoned = True
        self._left(slot)
        await slot.gone.wait()
        return True

    def preload(self, entry: Entry) -> None:
        """Begins to load a model; what goes wrong is said on stderr, and by `failure`."""
        if entry.name not in self._slots:
            self._begin(self._preload(entry.name))

    async def _preload(self, name: str) -> None:
        try:
            async with self.use(name):
                pass
        except Problem as problem:
            console.note(f"ggufpy: {problem.status}: {problem.message}")

    async def close(self) -> None:
        """Ends all models; loads at work are given up."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        for slot in list(self._slots.values()):
            slot.abandoned = True
            slot.wake.set()
            if slot.state is State.LOADED:
                self._end(slot)
        clock = asyncio.get_running_loop().time
        end = clock() + ENDING
        while self._tasks and (left := end - clock()) > 0:
            await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    # -- names --

    async def _look(self, name: str | None) -> Entry:
        """As `find`, with the folder looked at on a thread, once for all who wait for that."""
        if isinstance(name, str) and name and self.catalogue.known(name) is None and self.catalogue.changes:
            if self._scan is None:
                self._scan = aside("ggufpy-models", self.catalogue.entries)
                self._scan.add_done_callback(self._scanned)
            await asyncio.shield(self._scan)
        return self.catalogue.find(name, look=False)

    def _scanned(self, scan: asyncio.Future[list[Entry]]) -> None:
        self._scan = None

    # -- from a name to a model --

    async def _slot(self, entry: Entry) -> Slot:
        """The model's slot, a new one where it is not loaded, or where its file has changed and nobody uses it."""
        while True:
            slot = self._slots.get(entry.name)
            if self._closing:
                raise Problem(UNAVAILABLE, ENDS, "ending")
            if slot is None:
                slot = self._slots[entry.name] = Slot(entry, self._options.keep_alive)
                self._begin(self._load(slot))
                return slot
            if slot.idle and self._is_stale(slot, entry):
                self._end(slot)
            if slot.state is not State.CLOSING and not slot.abandoned:
                return slot
            await slot.gone.wait()

    @staticmethod
    def _is_stale(slot: Slot, entry: Entry) -> bool:
        try:
            return bool(entry.files) and entry.stamp() != slot.stamp
        except GGUFError:
            return False  # the file is gone: what is loaded serves on

    async def _ready(self, slot: Slot) -> Served:
        """The model once it is loaded. Raises Problem: each who waits has one of its own."""
        if not slot.done.done() and slot.users > self._options.queue + self._loader.places:
            told = f"{slot.users - 1} requests wait for {slot.entry.name} to be loaded, which is as many as may"
            raise Problem(TOO_MANY, f"{told}: try again in 10 s (ggufpy serve --queue)", "queue_full", headers=RETRY)
        wrong = await asyncio.shield(slot.done)
        if wrong is not None:
            raise Problem(wrong.status, wrong.message, wrong.code, wrong.param, wrong.headers)
        if slot.served is None:
            raise Problem(UNAVAILABLE, ENDS, "ending")
        return slot.served

    async def _load(self, slot: Slot) -> None:
        name = slot.entry.name
        made: Served | Problem
        try:
            made = await self._loaded(slot)
            self._failures.pop(name, None)
        except Problem as problem:
            made = problem
            self._failures[name] = problem.message
            while len(self._failures) > TOLD:
                self._failures.popitem(last=False)
        except Abandoned:
            made = Problem(UNAVAILABLE, f"the load of {name} was given up", "model_not_loaded", "model")
        except Exception as error:  # a fault of ours
            console.note(f"ggufpy: {name}: {traceback.format_exc()}")
            made = Problem(FAILED, f"{name} cannot be loaded: {type(error).__name__}", "internal_error", "model")
        if isinstance(made, Problem):
            slot.done.set_result(made)
            self._forget(slot)
            return
        slot.served, slot.state = made, State.LOADED
        slot.done.set_result(None)
        made.users, made.keep_alive, made.used = slot.users, slot.keep_alive, time.time()
        slot.used = asyncio.get_running_loop().time()
        self._left(slot)

    async def _loaded(self, slot: Slot) -> Served:
        name = slot.entry.name
        try:
            fetch = partial(self._loader.fetch, slot.entry, slot.report)
            slot.entry = await aside(f"ggufpy-fetch-{name}", fetch)
        except (Problem, Abandoned):
            raise
        except Exception as error:
            raise fetch_problem(name, error) from error
        slot.state = State.WAITING
        try:
            slot.stamp = slot.entry.stamp()
            need = await aside(f"ggufpy-reckon-{name}", partial(self._loader.need, slot.entry))
            await self.room.take(slot, need)
            slot.state = State.LOADING
            start = time.monotonic()
            load = partial(self._loader.load, slot.entry, slot.report)
            llm: Llama = await aside(f"ggufpy-load-{name}", load, lambda llm: llm.close())
        except (Problem, Abandoned):
            raise
        except Exception as error:
            raise load_problem(name, error) from error
        served = Served(name, llm, self._options.queue, time.monotonic() - start)
        served.path, served.memory = slot.entry.path, need
        return served

    # -- the end of a model --

    def _left(self, slot: Slot) -> None:
        """Somebody has left, or a model has come: it may go at once, its time begins, or others have its room."""
        if slot.idle and (slot.keep_alive == 0 or slot.abandoned or self._closing):
            self._end(slot)
        if not slot.users:
            self._set_timer()
            slot.wake.set()
            self.room.changed()

    def _set_timer(self) -> None:
        """Wakes the pool when the next model is to go, and not before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = [slot.ends for slot in self._slots.values() if slot.ends is not None]
        if ends and not self._closing:
            self._timer = asyncio.get_running_loop().call_at(min(ends), self._expire)

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        for slot in list(self._slots.values()):
            if slot.ends is not None and slot.ends <= now:
                self._end(slot)
        self._set_timer()

    def _end(self, slot: Slot) -> None:
        slot.state = State.CLOSING
        self._begin(self._close(slot))

    async def _close(self, slot: Slot) -> None:
        """Waits for the step that is made, on a thread. Nothing holds the model afterwards."""
        served, slot.served = slot.served, None
        assert served is not None
        try:
            await aside(f"ggufpy-close-{slot.entry.name}", served.close)
        except Exception:  # a fault of ours: its room is free all the same
            console.note(f"ggufpy: {slot.entry.name}: {traceback.format_exc()}")
        del served
        self._forget(slot)
        if not self._closing:
            await aside("ggufpy-trim", give_back)

    def _forget(self, slot: Slot) -> None:
        slot.holds = False
        del self._slots[slot.entry.name]
        slot.gone.set()
        self.room.changed()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
