"""Chat handlers that a program has registered under names of its own, as llama-cpp-python lets it.

A handler answers a chat itself: `handler(llama=..., messages=..., tools=..., ..., stream=...)` gives a completion, or
with `stream` an iterator of chunks. The registry is one for the process, because programs register in one place and
say the name in another (`Llama(chat_format=...)`).
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from ggufpy.errors import GGUFError

Handler = Callable[..., Any]


class Handlers:
    """Handlers by name. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_name: dict[str, Handler] = {}

    def names(self) -> list[str]:
        """Registered names, sorted."""
        with self._lock:
            return sorted(self._by_name)

    def get(self, name: str) -> Handler | None:
        """The handler of this name, None without one."""
        with self._lock:
            return self._by_name.get(name)

    def add(self, name: str, handler: Handler, overwrite: bool = False) -> None:
        """Raises GGUFError for a name that is taken, unless `overwrite`."""
        if not callable(handler):
            raise GGUFError(f"a chat handler must be callable, not {type(handler).__name__}")
        with self._lock:
            if name in self._by_name and not overwrite:
                raise GGUFError(f"a chat handler named {name!r} is registered already; overwrite=True replaces it")
            self._by_name[name] = handler

    def remove(self, name: str) -> None:
        """Raises GGUFError for a name without a handler."""
        with self._lock:
            if self._by_name.pop(name, None) is None:
                raise GGUFError(f"no chat handler is registered under the name {name!r}")


handlers = Handlers()
