"""Caches of what models have read (llama_cpp.llama_cache): states by their tokens, for `Llama.set_cache`.

In: a state, with the tokens that it stands for. Out: the state that begins as a prompt does. A cache may serve several
models, objects and threads; one on disk several processes, too. What was used longest ago goes first.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from ggufpy.errors import GGUFError
from ggufpy.generate import snapshots
from ggufpy.generate.state import LlamaState
from ggufpy.generate.stateful import StatefulModel
from ggufpy.support import checks

CAPACITY = 2 << 30  # bytes, llama_cpp's
_NAME = re.compile(r"[0-9a-f]{32}\.ggufstate")

Key = tuple[int, ...]


class BaseLlamaCache(ABC):
    """What `Llama.set_cache` takes. `capacity_bytes`: how much states may take together."""

    def __init__(self, capacity_bytes: int = CAPACITY) -> None:
        self.capacity_bytes = checks.whole("capacity_bytes", capacity_bytes, 0)

    @property
    @abstractmethod
    def cache_size(self) -> int:
        """Bytes of all states."""

    @abstractmethod
    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        """The state whose tokens have most of those of `key` in common from the first on; KeyError if none has any."""

    @abstractmethod
    def __contains__(self, key: Sequence[int]) -> bool:
        """Whether there is such a state."""

    @abstractmethod
    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        """Keeps a state, as long as there is room for it."""

    def find(self, key: Sequence[int], model: str) -> LlamaState:
        """As `self[key]`, of the states of one model (`LlamaState.model`) where a cache can tell them apart."""
        return self[key]


class LlamaRAMCache(BaseLlamaCache):
    """States in memory."""

    def __init__(self, capacity_bytes: int = CAPACITY) -> None:
        super().__init__(capacity_bytes)
        self._lock = Lock()
        # By model and tokens; what was used last is at the end.
        self._states: OrderedDict[tuple[str, Key], LlamaState] = OrderedDict()
        self._size = 0

    @property
    def cache_size(self) -> int:
        return self._size

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        return self._found(key, None)

    def find(self, key: Sequence[int], model: str) -> LlamaState:
        return self._found(key, model)

    def _found(self, key: Sequence[int], model: str | None) -> LlamaState:
        with self._lock:
            ours = [known for known in self._states if model in (None, known[0])]
            best = _longest([tokens for _, tokens in ours], key)
            if best is None:
                raise KeyError("no state begins so")
            found = ours[best]
            self._states.move_to_end(found)
            return self._states[found]

    def __contains__(self, key: Sequence[int]) -> bool:
        with self._lock:
            return _longest([tokens for _, tokens in self._states], key) is not None

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        known = (_checked(value).model, tuple(key))
        with self._lock:
            self._drop(known)
            self._states[known] = value
            self._size += value.llama_state_size
            while self._size > self.capacity_bytes:
                self._drop(next(iter(self._states)))

    def _drop(self, known: tuple[str, Key]) -> None:
        state = self._states.pop(known, None)
        if state is not None:
            self._size -= state.llama_state_size


LlamaCache = LlamaRAMCache  # its older name


class _Entry(NamedTuple):
    """A file of a disk cache: what is known of it without reading all of it."""

    path: Path
    model: str
    tokens: Key


class LlamaDiskCache(BaseLlamaCache):
    """States as files of a folder, which several processes may use at once; nothing of it is executed or unpickled.

    Files are whole or not there, and are checked when they are read. What is damaged, or was put there by something
    else, is left out with a warning.
    """

    def __init__(
        self, cache_dir: str | os.PathLike[str] = ".cache/llama_cache", capacity_bytes: int = CAPACITY
    ) -> None:
        super().__init__(capacity_bytes)
        self.cache_dir = Path(checks.path("cache_dir", cache_dir, "the path of a folder (str or Path)"))
        self._lock = Lock()
        self._known: dict[tuple[str, int], _Entry | None] = {}  # by name and size; None is no state

    @property
    def cache_size(self) -> int:
        return sum(size for _, size, _ in self._files())

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        return self._found(key, None)

    def find(self, key: Sequence[int], model: str) -> LlamaState:
        return self._found(key, model)

    def __contains__(self, key: Sequence[int]) -> bool:
        return _longest([entry.tokens for entry in self._entries(None)], key) is not None

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        data = _checked(value).checked()
        if len(data) > self.capacity_bytes:
            return
        digest = hashlib.sha256(f"{value.model} {value.input_ids[: value.n_tokens].tolist()}".encode())
        path = self.cache_dir / f"{digest.hexdigest()[:32]}.ggufstate"
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GGUFError(f"cannot make the folder {self.cache_dir}: {error.strerror or error}") from None
        value.save(path)
        self._trim(path)

    def _found(self, key: Sequence[int], model: str | None) -> LlamaState:
        entries = self._entries(model)
        while (best := _longest([entry.tokens for entry in entries], key)) is not None:
            entry = entries.pop(best)
            try:
                state = LlamaState.load(entry.path)
                os.utime(entry.path)  # used last
            except OSError:  # another process has removed it, or owns it: what was read counts
                pass
            except GGUFError as error:
                self._ignore(entry.path, error)
                continue
            return state
        raise KeyError("no state begins so")

    def _files(self) -> list[tuple[str, int, int]]:
        """Name, size and time of last use (ns) of the files that have the name of a state."""
        found = []
        for entry in _scan(self.cache_dir):
            try:
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    about = entry.stat(follow_symlinks=False)
                    found.append((entry.name, about.st_size, about.st_mtime_ns))
            except FileNotFoundError:  # another process has removed it
                continue
        return found

    def _entries(self, model: str | None) -> list[_Entry]:
        """The states that are there, of a model."""
        with self._lock:
            files = {(name, size) for name, size, _ in self._files()}
            self._known = {file: entry for file, entry in self._known.items() if file in files}
            for name, size in files - set(self._known):
                self._known[name, size] = self._read(self.cache_dir / name)
            entries = [entry for entry in self._known.values() if entry is not None]
        return [entry for entry in entries if model in (None, entry.model)]

    def _read(self, path: Path) -> _Entry | None:
        """What a file has, of which only the beginning is read; None if it is no state."""
        try:
            with open(path, "rb") as file:
                start = file.read(snapshots.PREFIX.size + snapshots.MOST_HEAD)
                head = snapshots.read_head(memoryview(start), str(path))
                head.check_size(os.fstat(file.fileno()).st_size, str(path))
                start += file.read(max(head.start + 4 * head.count - len(start), 0))
            return _Entry(path, head.model, snapshots.read_tokens(start, str(path))[1])
        except FileNotFoundError:
            return None
        except (OSError, GGUFError) as error:
            warnings.warn(f"{path} is not used as a cached state: {error}", stacklevel=2)
            return None

    def _ignore(self, path: Path, error: GGUFError) -> None:
        """A file that looked like a state and is none."""
        warnings.warn(f"{path} is not used as a cached state: {error}", stacklevel=2)
        with self._lock:
            self._known.update({file: None for file, entry in self._known.items() if entry and entry.path == path})

    def _trim(self, newest: Path) -> None:
        """Removes what was used longest ago, as long as there is too much."""
        files = sorted(self._files(), key=lambda file: (file[0] == newest.name, file[2]))
        size = sum(file[1] for file in files)
        for name, taken, _ in files:
            if size <= self.capacity_bytes:
                return
            try:
                (self.cache_dir / name).unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                warnings.warn(f"the cache in {self.cache_dir} is too large: {error}", stacklevel=2)
                return
            size -= taken


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder; nothing where there is none. Raises GGUFError for one that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield from list(entries)
    except FileNotFoundError:
        return
    except OSError as error:
        raise GGUFError(f"cannot read the folder {folder}: {error.strerror or error}") from None


def _longest(some: Sequence[Key], key: Sequence[int]) -> int | None:
    """Which of some texts shares most of another from the first token on, the shortest of equals; None if none does."""
    wanted = tuple(key)
    best, order = None, (0, 0)
    for i, tokens in enumerate(some):
        count = StatefulModel.longest_token_prefix(tokens, wanted)
        if count and (count, -len(tokens)) > order:
            best, order = i, (count, -len(tokens))
    return best


def _checked(value: object) -> LlamaState:
    if not isinstance(value, LlamaState):
        raise GGUFError(f"a cache keeps states (LlamaState), and was given {checks.shown(value)}")
    return value
