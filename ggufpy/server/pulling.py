"""Models that are fetched because a client asks for it: a thread for each, heard by all who asked for the same.

In: a known name or hf:owner/repo[:file-or-quant], never a path. Out: how far it is, as it goes on. A client that leaves
stops listening; the fetch goes on, and what it brings is in the cache.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

from ggufpy import hub
from ggufpy.errors import GGUFError
from ggufpy.hub import hf
from ggufpy.server.problems import BAD_REQUEST, TOO_MANY, Problem
from ggufpy.support import console
from ggufpy.support.folders import cache_dir
from ggufpy.support.records import dataclass

MOST = 4  # models that are fetched at once
PAUSE = 0.2  # seconds between two looks at how far it is
LONGEST = 512  # characters of a name


@dataclass(frozen=True)
class Progress:
    """How far a fetch is: what is done, and bytes; a `total` of 0 is not known. `digest` is the file's SHA-256."""

    step: str
    done: int = 0
    total: int = 0
    digest: str = ""


def checked_name(name: str) -> str:
    """A name that can be fetched. Raises Problem 400 for another one, whatever file has it."""
    if len(name) <= LONGEST and name in hub.MODELS:
        return name
    if len(name) > LONGEST or not name.startswith("hf:"):
        known = ", ".join(hub.MODELS)
        told = f"{name[:80]!r} cannot be fetched: there are {known}, and hf.co/owner/repo[:quant] of Hugging Face"
        raise Problem(BAD_REQUEST, told, "invalid_model_name", "model")
    try:
        ref = hf.parse(name)
    except GGUFError as error:
        raise Problem(BAD_REQUEST, str(error), "invalid_model_name", "model") from None
    if ".." in ref.repo or ".." in ref.choice.split("/") or not ref.choice.isprintable():
        raise Problem(BAD_REQUEST, f"{name[:80]!r} is no name of a repository", "invalid_model_name", "model")
    return name


class Pull:
    """One fetch at work; `over` is called at its end. Made on the event loop."""

    def __init__(self, name: str, over: Callable[[Pull], None]) -> None:
        self.name, self._over = name, over
        self.error: GGUFError | None = None
        self.ended = asyncio.Event()
        self._known = hub.MODELS.get(name)
        self._progress = Progress("manifest")
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name=f"ggufpy-pull-{name[:40]}", daemon=True).start()

    async def progress(self) -> AsyncIterator[Progress]:
        """How far it is, as often as that changes. Raises GGUFError for what it fails with."""
        told = None
        while not self.ended.is_set():
            now = await self._look()
            if now != told:
                told = now
                yield now
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.ended.wait(), PAUSE)
        if self.error is not None:
            raise self.error

    async def _look(self) -> Progress:
        if self._known is not None:
            return self._progress
        done = await asyncio.to_thread(_arrived, self.name)  # its library tells nobody how far it is
        return Progress("download", done) if done else self._progress

    def _run(self) -> None:
        try:
            hub.pull(self.name, self._said)
        except GGUFError as error:
            self.error = error
        except Exception as error:
            self.error = GGUFError(f"{self.name} could not be fetched: {type(error).__name__}: {error}")
            console.note(f"ggufpy: {self.error}")
        with suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._over(self)
        self.ended.set()

    def _said(self, label: str, done: int, total: int) -> None:
        """What the fetch says of itself, on its thread."""
        step = "unpack" if label == "unpack" else "download"
        self._progress = Progress(step, done, total, self._known.sha256 if self._known else "")


class Pulls:
    """All fetches. Everything here happens on the event loop."""

    def __init__(self) -> None:
        self.fetched: list[str] = []  # names, in the order in which they came
        self._running: dict[str, Pull] = {}

    def start(self, name: str) -> Pull:
        """The fetch of a model: one that is at work already is joined. Raises Problem 400 and 429."""
        checked_name(name)
        if name not in self._running:
            if len(self._running) >= MOST:
                told = f"{MOST} models are being fetched: try again when one of them is here"
                raise Problem(TOO_MANY, told, "too_many_pulls", headers={"retry-after": "10"})
            self._running[name] = Pull(name, self._over)
        return self._running[name]

    def _over(self, pull: Pull) -> None:
        del self._running[pull.name]
        if pull.error is None and pull.name not in self.fetched:
            self.fetched.append(pull.name)


def _arrived(name: str) -> int:
    """Bytes of a repository's files that are on their way, as huggingface_hub keeps them."""
    blobs = cache_dir() / "huggingface" / f"models--{hf.parse(name).repo.replace('/', '--')}" / "blobs"
    return sum(_size(path) for path in blobs.glob("*.incomplete"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it is whole meanwhile
