"""What all routes share: the models, the options, the threads that prepare requests."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ggufpy.server.pool import Pool
from ggufpy.server.pulling import Pulls
from ggufpy.server.responses_store import Responses
from ggufpy.server.settings import ServerOptions
from ggufpy.server.tally import Book

T = TypeVar("T")
PREPARING = 4  # requests whose bodies are looked at at once: templates, tokens, grammars
LARGE = 1 << 20  # bytes of a body that can take seconds, and memory: those are looked at one after the other


def digest(key: str) -> bytes:
    """What is kept of a key, and compared: of one length, whatever the key is."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Service:
    """A server's state. Made on its event loop."""

    def __init__(self, pool: Pool, options: ServerOptions, keys: Sequence[str] = ()) -> None:
        self.pool, self.options, self.keys = pool, options, tuple(map(digest, keys))
        self.started = int(time.time())
        self.responses = Responses()
        self.book = Book()
        self.pulls = Pulls()
        self._threads = ThreadPoolExecutor(PREPARING, "ggufpy-prepare")
        self._large = ThreadPoolExecutor(1, "ggufpy-prepare-large")

    async def prepare(self, work: Callable[[], T], size: int = 0) -> T:
        """Does what would hold up the event loop on a thread. `size`: of the body that it is about, in bytes; nobody
        waits for a large one but other large ones."""
        return await asyncio.get_running_loop().run_in_executor(self._large if size > LARGE else self._threads, work)

    async def close(self) -> None:
        """Ends models and threads."""
        await self.pool.close()
        for threads in (self._threads, self._large):
            threads.shutdown(wait=False, cancel_futures=True)
