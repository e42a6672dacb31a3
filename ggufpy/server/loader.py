"""From an entry of the catalogue to a loaded model: fetched, reckoned, loaded. All of it on threads of the pool."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ggufpy.errors import GGUFError
from ggufpy.server.problems import FAILED, FORBIDDEN, NOT_FOUND, UNAVAILABLE, Problem

if TYPE_CHECKING:
    from ggufpy.generate.loading import LoadOptions
    from ggufpy.llm import Llama
    from ggufpy.server.catalogue import Catalogue, Entry

Progress = Callable[[str, int, int], None]


class Abandoned(Exception):
    """A load that nobody wants any more, raised from within its progress."""


class Loader(Protocol):
    """How entries become models. Each call is on a thread of its own; `progress(stage, done, total)` may raise."""

    @property
    def places(self) -> int:
        """Texts that a model evaluates at once."""
        ...

    def fetch(self, entry: Entry, progress: Progress) -> Entry:
        """The entry with its file, fetched if need be."""

    def need(self, entry: Entry) -> int:
        """Bytes that it takes once it is loaded, at most."""

    def load(self, entry: Entry, progress: Progress) -> Llama:
        """The model. Raises GGUFError for a file that cannot be run, MemoryError."""


class Files:
    """Loads files as `options` say. `memory` is what models may take in all (0 for no bound): a model whose context
    nobody has said has one with which it takes at most half of that, so that another finds room beside it."""

    def __init__(self, catalogue: Catalogue, options: LoadOptions, memory: int = 0) -> None:
        self._catalogue, self._options, self._memory = catalogue, options, memory

    @property
    def places(self) -> int:
        """See `Loader`."""
        return self._options.n_parallel

    def fetch(self, entry: Entry, progress: Progress) -> Entry:
        """See `Loader`. Says on stderr that it fetches, and that it has."""
        from ggufpy import hub
        from ggufpy.support import console

        if entry.path is not None:
            return entry
        console.note(f"ggufpy: fetching {entry.source}")
        path = hub.resolve(entry.source, progress)
        console.note(f"ggufpy: {entry.source} is here")
        return self._catalogue.fetched(entry, path)

    def need(self, entry: Entry) -> int:
        """See `Loader`."""
        from ggufpy.server.memory import needed

        assert entry.path is not None
        return needed(entry.path, self._chosen(entry.path)).total

    def load(self, entry: Entry, progress: Progress) -> Llama:
        """See `Loader`."""
        from ggufpy.llm import Llama

        assert entry.path is not None
        return Llama.from_options(entry.path, replace(self._chosen(entry.path), progress=progress))

    def _chosen(self, path: str | os.PathLike[str]) -> LoadOptions:
        from ggufpy.server.memory import with_context

        return with_context(path, self._options, self._memory // 2)


def fetch_problem(name: str, error: Exception) -> Problem:
    """What to tell of a model that could not be fetched: that there is none, or that the network or disk fails."""
    cause = error.__cause__
    kinds = {kind.__name__ for kind in type(cause).__mro__} if cause is not None else set()
    told = str(error) if isinstance(error, GGUFError) else f"{name} cannot be fetched: {_first(error)}"
    if (cause is None and isinstance(error, GGUFError)) or "RepositoryNotFoundError" in kinds:
        return Problem(NOT_FOUND, told, "model_not_found", "model")
    if "GatedRepoError" in kinds:
        return Problem(FORBIDDEN, told, "model_not_found", "model")
    status = FAILED if "ImportError" in kinds else UNAVAILABLE
    return Problem(status, told, "model_not_fetched", "model")


def load_problem(name: str, error: Exception) -> Problem:
    """What to tell of a model that could not be loaded: memory that is short may come, a broken file stays so."""
    if isinstance(error, MemoryError) or str(error).startswith("not enough memory"):
        told = f"there is not enough memory to load {name}: {_first(error)}"
        return Problem(UNAVAILABLE, told, "out_of_memory", "model", {"retry-after": "30"})
    return Problem(FAILED, f"{name} cannot be loaded: {_first(error)}", "model_not_loaded", "model")


def _first(error: Exception) -> str:
    """An error on one line."""
    lines = str(error).strip().splitlines()
    text = lines[0][:400] if lines else ""
    return text if isinstance(error, GGUFError) else f"{type(error).__name__} {text}".strip()
