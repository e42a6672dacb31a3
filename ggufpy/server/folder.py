"""A folder of models: which .gguf files below it are models, and under which names.

Links of files are followed where they end within the folder, links of folders never. Hidden files and folders,
projector and adapter files are no models. What cannot be read is left out, and said once on stderr.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ggufpy.errors import GGUFError
from ggufpy.server.facts import Reader
from ggufpy.support import console
from ggufpy.support.records import dataclass

MOST = 10_000  # files that are looked at
DEEPEST = 16  # folders within folders
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})$")


@dataclass(frozen=True)
class Found:
    """A model of the folder: its name, its files in order, their bytes, the time of the newest (Unix seconds)."""

    name: str
    files: tuple[Path, ...]
    size: int
    modified: float


def stem_of(file_name: str) -> str:
    """A file's name without .gguf, and without the number of a split set's file."""
    stem = file_name[:-5] if file_name.lower().endswith(".gguf") else file_name
    match = _SHARD.fullmatch(stem)
    return match["stem"] if match else stem


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files of the split set that a file is one of, whether they are there or not; else the file alone."""
    match = _SHARD.fullmatch(path.name[:-5]) if path.name.lower().endswith(".gguf") else None
    if match is None:
        return (path,)
    count = int(match["count"])
    names = [f"{match['stem']}-{i + 1:05d}-of-{count:05d}{path.name[-5:]}" for i in range(count)]
    return tuple(path.with_name(name) for name in names) if path.name in names else (path,)


class Folder:
    """The models below `top`. Raises GGUFError where that is no folder."""

    def __init__(self, top: str | os.PathLike[str]) -> None:
        self.top = Path(top)
        if not self.top.is_dir():
            raise GGUFError(f"{self.top} is no folder: --models-dir wants one with .gguf files in it")
        self.reader = Reader()
        self._told: set[str] = set()

    def models(self) -> list[Found]:
        """Those that are there now, by name."""
        found: dict[str, Found] = {}
        for path in self._files():
            one = self._model(path)
            if one is not None:
                name = one.name if one.name not in found else path.relative_to(self.top).as_posix()
                found[name] = Found(name, one.files, one.size, one.modified)
        return [found[name] for name in sorted(found)]

    def _files(self) -> Iterator[Path]:
        """The .gguf files below the folder, in order of their paths."""
        seen = 0
        for at, folders, files in os.walk(self.top, onerror=self._unreadable):
            depth = len(Path(at).relative_to(self.top).parts)
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < DEEPEST else []
            for name in sorted(files):
                seen += 1
                if seen > MOST:
                    self._tell(str(self.top), f"has more than {MOST:,} files: the others are not looked at")
                    return
                if name.lower().endswith(".gguf") and not name.startswith("."):
                    yield Path(at, name)

    def _unreadable(self, error: OSError) -> None:
        self._tell(str(error.filename), error.strerror or str(error))

    def _model(self, path: Path) -> Found | None:
        """A file, or a set by its first file, as a model; None where it is none."""
        files = parts_of(path)
        if path != files[0] and files[0].exists():
            return None  # the first file stands for the set
        name = path.relative_to(self.top).with_name(stem_of(path.name)).as_posix()
        try:
            if not name.isprintable():
                raise GGUFError("its name has characters that cannot be shown: rename it")
            stats = [self._checked(file) for file in files]
            if path.name.lower().startswith("mmproj") or self.reader.facts(files).kind != "model":
                return None
            from ggufpy import models

            models.find(self.reader.facts(files).architecture)
        except GGUFError as error:
            self._tell(str(path), str(error))
            return None
        return Found(name, files, sum(each.st_size for each in stats), max(each.st_mtime for each in stats))

    def _checked(self, path: Path) -> os.stat_result:
        """Raises GGUFError for what is not there, no plain file, or elsewhere."""
        try:
            if path.is_symlink() and not path.resolve(strict=True).is_relative_to(self.top.resolve()):
                raise GGUFError("is a link that leads out of the folder")
            found = path.stat()
        except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself, before Python 3.13
            raise GGUFError(f"{path.name}: {getattr(error, 'strerror', None) or error}") from None
        if not stat.S_ISREG(found.st_mode):
            raise GGUFError("is no plain file")
        return found

    def _tell(self, path: str, why: str) -> None:
        """Says once what is left out."""
        text = f"ggufpy: {printable(path)} is left out: {printable(why.removeprefix(path).lstrip(': '))}"
        if text not in self._told and len(self._told) < MOST:
            self._told.add(text)
            console.note(text)


def printable(text: str) -> str:
    """Text on one line: control characters and bytes that are no UTF-8 are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
