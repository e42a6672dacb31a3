"""Files that are whole or not there: written beside the target, synced, then renamed over it."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import weakref
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ggufpy.errors import GGUFError


class AtomicFile:
    """A binary file open for writing that takes its name only on `commit`.

    Until then it is a hidden temporary file in the same folder, removed on `abort`, on an exception inside a
    `with` block, and when the object is dropped. Raises GGUFError where the folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._target = Path(os.path.realpath(path))
            if self._target.is_dir():
                raise GGUFError(f"cannot write {path}: it is a directory")
            self._temporary = self._target.with_name(f".ggufpy-{secrets.token_hex(8)}.tmp")
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            if sys.platform == "win32":
                flags |= os.O_BINARY
            self.file = os.fdopen(os.open(self._temporary, flags, 0o666), "wb", 1 << 20)
        except FileNotFoundError:
            raise GGUFError(f"cannot write {path}: there is no folder {self._target.parent}") from None
        except OSError as e:
            raise GGUFError(f"cannot write {path}: {e.strerror or e}") from None
        except ValueError as e:  # a NUL inside the name; GGUFError is one too and passes on
            raise e if isinstance(e, GGUFError) else GGUFError(f"cannot write {str(path)!r}: {e}") from None
        self._drop = weakref.finalize(self, _discard, self.file, self._temporary)

    def commit(self) -> None:
        """Bring the data to the disk and give the file its name. GGUFError where either fails."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self._temporary, self._target)
            _sync_folder(self._target.parent)
        except OSError as e:
            self.abort()
            raise GGUFError(f"cannot write {self.path}: {e.strerror or e}") from None
        self._drop.detach()

    def abort(self) -> None:
        """Remove what was written; nothing happens after `commit` or a second time."""
        self._drop()

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()


def _discard(file: BinaryIO, temporary: Path) -> None:
    with contextlib.suppress(OSError):  # what could not be written is thrown away here
        file.close()
    temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can open folders."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
