"""Work on a thread of its own, awaited: for what takes long, so that it holds up neither the event loop nor others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def aside(name: str, work: Callable[[], T], drop: Callable[[T], None] | None = None) -> asyncio.Future[T]:
    """What `work` returns or raises. `drop` gets what comes when nobody waits any more: the future was cancelled, or
    the event loop is closed."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def give(result: T) -> None:
        if not future.done():
            future.set_result(result)
        elif drop is not None:
            drop(result)

    def fail(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            _call(loop, lambda error=error: fail(error))  # type: ignore[misc]
            return
        if not _call(loop, lambda: give(result)) and drop is not None:
            drop(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> bool:
    """Calls a function on the event loop; False where that is closed."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return False
    return True
