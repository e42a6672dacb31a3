"""Files that are whole or not there: written beside the target, synced, checked, then renamed over it.

A kill may leave the hidden temporary file. Whoever writes holds a lock on it, so that the next writer in the same
folder can tell what a dead process left and removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import stat
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ggufpy.errors import GGUFError

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\.ggufpy-[0-9a-f]{16}\.tmp")
_STALE_SECONDS = 86_400.0  # where there are no locks to ask, a temporary file this old is nobody's
_SPAN = 32 << 20  # bytes that are handed to the disk at a time, long before `commit` waits for them
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of Linux's fs.h


class AtomicFile:
    """A binary file open for writing that takes its name only on `commit`.

    Until then it is a hidden temporary file in the same folder, removed on `abort`, on an exception inside a
    `with` block, and when the object is dropped. A file that it replaces hands down its permissions. Raises GGUFError
    where the folder cannot be written, where the name is that of a folder, a pipe or a device, or where the disk has
    no room for the `size` bytes that are to come.
    """

    def __init__(self, path: str | os.PathLike[str], size: int = 0) -> None:
        self.path = Path(path)
        self._sent = 0  # bytes that the disk was told to take
        self._synced = False
        try:
            self._target = Path(os.path.realpath(path))
            self._mode = _replaced_mode(path)
            check_space(path, size)
            self.file, self._temporary = _create(self._target.parent, self._mode)
        except OSError as e:
            raise GGUFError(f"cannot write {path}: {e.strerror or e}") from None
        except ValueError as e:  # a NUL inside the name; GGUFError is one too and passes on
            raise e if isinstance(e, GGUFError) else GGUFError(f"cannot write {str(path)!r}: {e}") from None
        self._drop = weakref.finalize(self, _discard, self.file, self._temporary)

    def spill(self) -> None:
        """Let the disk begin with what was written so far, without waiting; `commit` then has less to wait for."""
        start = _sync_file_range()
        if start is None or self.file.tell() - self._sent < _SPAN:
            return
        self.file.flush()
        end = self.file.tell()
        start(self.file.fileno(), self._sent, end - self._sent, _WRITE)  # a hint: whether it is taken does not matter
        self._sent = end

    def prepare(self, check: Callable[[Path], None] | None = None) -> None:
        """Bring the data to the disk, and have `check` open and read the temporary file, which raises if it is wrong.

        `commit` does this first unless it was done; files that belong together are all prepared, then all committed.
        GGUFError, and nothing is left, where it fails.
        """
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            if check is not None:
                check(self._temporary)
        except BaseException as e:
            self.abort()
            raise self._failure(e) from None
        self._synced = True

    def commit(self, check: Callable[[Path], None] | None = None) -> None:
        """Bring the data to the disk, `check` them, and give the file its name. GGUFError where any of it fails."""
        if not self._synced:
            self.prepare(check)
        try:
            _set_mode(self._temporary, self._mode)
            if sys.platform == "win32":
                self.file.close()  # Windows does not rename what is open; elsewhere the lock is held until after
            os.replace(self._temporary, self._target)
            self.file.close()
            sync_folder(self._target.parent)
        except BaseException as e:
            self.abort()
            raise self._failure(e) from None
        self._drop.detach()

    def abort(self) -> None:
        """Remove what was written; nothing happens after `commit` or a second time."""
        self._drop()

    def _failure(self, e: BaseException) -> BaseException:
        """The error to raise for `e`: an interruption as it is, all else as one line."""
        if isinstance(e, GGUFError):
            return GGUFError(f"cannot write {self.path}: what was written is not right: {e}")
        if isinstance(e, OSError):
            return GGUFError(f"cannot write {self.path}: {e.strerror or e}")
        return e

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()


def check_target(target: str | os.PathLike[str], sources: Iterable[str | os.PathLike[str]]) -> None:
    """GGUFError if writing `target` would replace one of the files that are being read, under any of its names."""
    for source in sources:
        try:
            same = os.path.samefile(source, target)
        except FileNotFoundError:  # a target that is not there yet is no source
            continue
        except OSError as e:
            raise GGUFError(f"cannot write {target}: {e.strerror or e}") from None
        except ValueError as e:  # a NUL inside the name
            raise GGUFError(f"cannot write {str(target)!r}: {e}") from None
        if same:
            raise GGUFError(f"{target} is the file that is being read ({source}): write to another one")


def check_space(path: str | os.PathLike[str], size: int) -> None:
    """GGUFError if the disk of `path` has no room for `size` bytes more, without what dead processes left there."""
    folder = Path(os.path.realpath(path)).parent
    try:
        _remove_stale(folder)
        usage = shutil.disk_usage(folder)
    except FileNotFoundError:
        raise GGUFError(f"cannot write {path}: there is no folder {folder}") from None
    except OSError as e:
        raise GGUFError(f"cannot write {path}: {e.strerror or e}") from None
    if usage.total and usage.free < size:  # some network file systems do not say and report 0 of 0
        raise GGUFError(
            f"cannot write {path}: it takes {_shown(size)} and its disk has {_shown(usage.free)} free, "
            f"{_shown(size - usage.free)} too little: make room, or write to another disk"
        )


def _shown(count: int) -> str:
    from ggufpy.support.progress import human_bytes

    return human_bytes(count)


def _replaced_mode(path: str | os.PathLike[str]) -> int | None:
    """The permissions of the file that is at `path`, None where there is none. GGUFError for what is no file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise GGUFError(f"cannot write {path}: it is a directory; give the name of a file")
    if not stat.S_ISREG(mode):
        raise GGUFError(f"cannot write {path}: it is a pipe or a device, which a file would replace; give another name")
    return stat.S_IMODE(mode)


def keep_mode(path: Path, replaced: Path) -> None:
    """Give the file at `path` the permissions of the one that it is to replace."""
    _set_mode(path, _replaced_mode(replaced))


def _set_mode(path: Path, mode: int | None) -> None:
    if mode is not None and sys.platform != "win32":
        with contextlib.suppress(OSError):  # some file systems have no permissions, and refuse to set any
            path.chmod(mode)


def _create(folder: Path, mode: int | None) -> tuple[BinaryIO, Path]:
    """A new temporary file, locked, and open to no others than a file of that `mode` is."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    if sys.platform == "win32":
        flags |= os.O_BINARY
    while True:
        temporary = folder / f".ggufpy-{secrets.token_hex(8)}.tmp"
        file = os.fdopen(os.open(temporary, flags, 0o666 if mode is None else 0o600 | mode & 0o666), "wb", 1 << 20)
        try:
            take_lock(file.fileno())
            if temporary.exists():
                return file, temporary
        except BlockingIOError:
            pass
        except BaseException:
            _discard(file, temporary)
            raise
        _discard(file, temporary)  # another process took it for stale before it was locked: once more


def take_lock(descriptor: int) -> bool:
    """Take the lock that says that a file is in use: BlockingIOError if another has it, False where there are none."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # some network file systems have none
        return False
    return True


def _remove_stale(folder: Path) -> None:
    """Remove what processes that were killed left in a folder."""
    paths: list[str] = []
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:  # it may be writable, not readable
        paths = [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    for path in paths:
        with contextlib.suppress(OSError):  # another process was quicker, or it belongs to another user
            if sys.platform == "win32":
                if time.time() - os.stat(path).st_mtime > _STALE_SECONDS:
                    os.unlink(path)
                continue
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if take_lock(descriptor):
                    os.unlink(path)
            finally:
                os.close(descriptor)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], Any] | None:
    """Linux's call that starts writing a range of a file to the disk, where there is one."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function


def _discard(file: BinaryIO, temporary: Path) -> None:
    """Close and remove a file that is not to be; what of it cannot be removed is hidden and found stale later."""
    with contextlib.suppress(OSError):  # what could not be written is thrown away here
        file.close()
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can open folders and sync them: the file is there already."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
