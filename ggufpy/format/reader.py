"""Opening GGUF files: a path in; checked, memory-mapped metadata and tensors out."""

from __future__ import annotations

import builtins
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.header import Header, parse, read_entry
from ggufpy.format.metadata import Metadata, MissingKeyError
from ggufpy.format.strings import Buffer
from ggufpy.format.tensor import Tensor
from ggufpy.format.values import shown
from ggufpy.support import checks

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


class Shard:
    """One file of a model: its bytes and its checked header."""

    def __init__(self, name: str, buffer: Buffer) -> None:
        self.name = name
        self.buffer = buffer
        self.header: Header = parse(buffer, name)
        self.metadata = Metadata(buffer, self.header)

    def tensor(self, name: str) -> Tensor:
        """A tensor that `header.tensors` names."""
        header = self.header
        entry, _ = read_entry(self.buffer, header.order, header.tensors[name], header.data_start)
        return Tensor(name, entry, self.buffer, header.byteorder)


class Tensors(Mapping[str, Tensor]):
    """Tensors by name, in the order of the file (of a split set: shard after shard)."""

    def __init__(self, shards: list[Shard]) -> None:
        self._shards: dict[str, Shard] = {}
        for shard in shards:
            for name in shard.header.tensors:
                if name in self._shards:
                    other = self._shards[name].name
                    raise GGUFError(f"{shard.name}: tensor {shown(name)} is also in {other}")
                self._shards[name] = shard

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._shards[name].tensor(name)
        except KeyError:
            raise MissingKeyError(f"there is no tensor {shown(str(name))} in the file") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)

    def __contains__(self, name: object) -> bool:
        return name in self._shards


class GGUFFile:
    """An open GGUF file, or all files of a split set. A context manager.

    Closing lets the file go as soon as no tensor, view or metadata object of it is left; those stay usable.
    A file that is cut short while it is mapped ends the process when the missing part is read: replace model
    files, as `write` does, rather than changing them.
    """

    def __init__(self, path: Path, shards: list[Shard]) -> None:
        self.path = path
        self._tensors: Tensors | None = Tensors(shards)
        self._metadata: Metadata | None = shards[0].metadata
        self.version: int = shards[0].header.version
        self.byteorder: str = shards[0].header.byteorder
        self.alignment: int = shards[0].header.alignment
        self.files: tuple[str, ...] = tuple(shard.name for shard in shards)

    @property
    def metadata(self) -> Metadata:
        """Keys and values, those of the first file of a split set. GGUFError after `close`."""
        if self._metadata is None:
            raise GGUFError(f"{self.path} was closed; open it again")
        return self._metadata

    @property
    def tensors(self) -> Tensors:
        """Tensors by name. GGUFError after `close`."""
        if self._tensors is None:
            raise GGUFError(f"{self.path} was closed; open it again")
        return self._tensors

    def close(self) -> None:
        """Let the file go; may be called again."""
        self._tensors = None
        self._metadata = None

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r})"


def open(path: str | os.PathLike[str]) -> GGUFFile:
    """Open a GGUF file, or from any of its files a split set (NAME-00001-of-00003.gguf).

    Nothing is copied: tensors are views of the mapped file. Raises GGUFError, naming the field and the byte
    where it stands, for whatever is wrong with the file or with the other files of its set.
    """
    path = Path(checks.path("path", path, "the path of a GGUF file (str or Path)"))
    shard = _map(path)
    return GGUFFile(path, _split_set(path, shard))


def from_bytes(data: bytes, name: str = "<bytes>") -> GGUFFile:
    """Open a GGUF file that is in memory; not one of a split set. Raises GGUFError as `open` does."""
    shard = Shard(name, data)
    if _split_value(shard, "split.count", 1) > 1:
        raise GGUFError(f"{name}: is one file of a split set; open it by its path")
    return GGUFFile(Path(name), [shard])


def _map(path: Path) -> Shard:
    """Map one file and check its header."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise GGUFError(f"{path} is a directory; a GGUF file is wanted")
        if not stat.S_ISREG(mode):
            raise GGUFError(f"{path} is not a regular file and cannot be memory-mapped")
        with builtins.open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise GGUFError(f"{path} is empty, not a GGUF file")
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise GGUFError(f"no such file: {path}") from None
    except OSError as e:
        raise GGUFError(f"cannot open {path}: {e.strerror or e}") from None
    except ValueError as e:
        if isinstance(e, GGUFError):
            raise
        raise GGUFError(f"cannot open {str(path)!r}: {e}") from None
    return Shard(str(path), buffer)


def _split_value(shard: Shard, key: str, default: int) -> int:
    if key not in shard.metadata:
        return default
    value: Any = shard.metadata[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GGUFError(f"{shard.name}: metadata {key!r} is {shard.metadata.type(key)}, not a whole number")
    return value


def _split_set(path: Path, first: Shard) -> list[Shard]:
    """All shards of the set that `first` belongs to, in order; [first] where it stands alone."""
    count = _split_value(first, "split.count", 1)
    if count <= 1:
        return [first]
    match = _SHARD.fullmatch(path.name)
    if match is None:
        raise GGUFError(
            f"{path} is one of {count} files (split.count); to find the others, give it back its name, "
            f"which ends in -00001-of-{count:05d}.gguf or another number"
        )
    if int(match["count"]) != count:
        raise GGUFError(f"{path}: is one of {count} files (split.count), but its name says {int(match['count'])}")
    shards = []
    for i in range(count):
        name = f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf"
        if name == path.name:
            shard = first
        else:
            other = path.with_name(name)
            if not other.exists():
                raise GGUFError(f"{path.name} is one of {count} files, and {other} is missing")
            shard = _map(other)
        _check_shard(shard, i, count)
        shards.append(shard)
    _check_total(shards)
    return shards


def _check_shard(shard: Shard, number: int, count: int) -> None:
    if _split_value(shard, "split.count", 1) != count:
        raise GGUFError(f"{shard.name}: metadata 'split.count' is not {count} as in the other files of its set")
    said = _split_value(shard, "split.no", number)
    if said != number:
        raise GGUFError(
            f"{shard.name}: is file {said + 1} of its set (split.no), its name says {number + 1}; rename it"
        )


def _check_total(shards: list[Shard]) -> None:
    count = sum(len(shard.header.tensors) for shard in shards)
    for shard in shards:
        said = _split_value(shard, "split.tensors.count", count)
        if said != count:
            raise GGUFError(f"{shard.name}: metadata 'split.tensors.count' is {said}, its files hold {count}")
