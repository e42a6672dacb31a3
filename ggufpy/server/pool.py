"""The models that are served, by name: loaded when they are asked for, and kept as long as they are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ggufpy.server.problems import NOT_FOUND, Problem
from ggufpy.server.served import Served

if TYPE_CHECKING:
    from ggufpy.llm import Llama


class Pool:
    """Models by name; the first one answers requests that name none."""

    def __init__(self, names: Sequence[str], load: Callable[[str], Llama], waiting: int) -> None:
        self.names, self._load, self._waiting = tuple(names), load, waiting
        self._served: dict[str, Served] = {}
        self._loading = asyncio.Lock()

    @property
    def loaded(self) -> list[Served]:
        """Those that are loaded."""
        return list(self._served.values())

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Served]:
        """A model, loaded if it is not, and kept while it is used. Raises Problem 404 for a name that is not known."""
        chosen = self.names[0] if name in (None, "") else str(name)
        if chosen not in self.names:
            known = ", ".join(self.names)
            raise Problem(NOT_FOUND, f"there is no model {chosen!r}; known: {known}", "model_not_found", "model")
        async with self._loading:
            if chosen not in self._served:
                clock = asyncio.get_running_loop().time
                start = clock()
                llm = await asyncio.to_thread(self._load, chosen)
                self._served[chosen] = Served(chosen, llm, self._waiting, clock() - start)
        yield self._served[chosen]

    async def close(self) -> None:
        """Ends all models."""
        for served in self.loaded:
            await asyncio.to_thread(served.close)
        self._served.clear()
