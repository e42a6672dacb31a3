"""Split sets: one model in, files NAME-00001-of-0000N.gguf out, and the other way round.

The first file of a set has all metadata; every file has split.no (uint16), split.count (uint16) and
split.tensors.count (int32), as llama.cpp's tools/gguf-split writes them. Where files are cut follows it too: by the
number of tensors, or by the bytes of their data.

A set is written into a hidden folder beside its target, synced, opened and checked as a set; only then do its files
take their names, the first file last, because a set opens only with it. An error at any point, while names are taken
too, puts back what was there. A kill while files are being written leaves the target folder as it was, but for the
hidden folder, which the next split there removes. A kill in the instant between two names leaves some files of the
new set, each whole: never a half-written one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ggufpy.errors import GGUFError
from ggufpy.format.atomic import check_space, check_target, keep_mode, sync_folder, take_lock
from ggufpy.format.edit import ALIGNMENT
from ggufpy.format.header import align_up
from ggufpy.format.reader import GGUFFile
from ggufpy.format.reader import open as open_gguf
from ggufpy.format.tensor import Tensor
from ggufpy.format.values import TensorInfo, Typed, shown
from ggufpy.format.writer import Writer
from ggufpy.support.records import dataclass

DEFAULT_TENSORS = 128
MAX_FILES = 65_535  # split.count is a uint16
PADDING = 32  # llama.cpp counts every tensor as padded to this, whatever the alignment of the file
_COPY_BYTES = 16 << 20
_FOLDER = ".ggufpy-split-"
_SYSTEM = "split."

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Limits:
    """Where a set is cut: at `bytes` of tensor data a file, else at `tensors` a file. `first`: whether the first file
    has tensors at all, or the metadata alone."""

    bytes: int | None = None
    tensors: int = DEFAULT_TENSORS
    first: bool = True


@dataclass(frozen=True)
class Part:
    """One file of the set to be: its path, its tensors by name, and the bytes of their data."""

    path: Path
    tensors: tuple[str, ...]
    nbytes: int


def shard_name(prefix: str, number: int, count: int) -> str:
    """The name of file `number` (from 1) of `count`."""
    return f"{prefix}-{number:05d}-of-{count:05d}.gguf"


def plan(file: GGUFFile, prefix: Path, limits: Limits) -> list[Part]:
    """The files that `file` is to be split into. GGUFError where a limit cannot be kept."""
    if not prefix.name:
        raise GGUFError(f"{prefix} is a folder and no prefix; give also what the names begin with, such as model")
    groups = cut([(tensor.name, tensor.nbytes) for tensor in file.tensors.values()], limits)
    sizes = {tensor.name: tensor.nbytes for tensor in file.tensors.values()}
    return [
        Part(
            prefix.with_name(shard_name(prefix.name, i + 1, len(groups))),
            tuple(group),
            sum(sizes[name] for name in group),
        )
        for i, group in enumerate(groups)
    ]


def cut(sizes: Sequence[tuple[str, int]], limits: Limits) -> list[list[str]]:
    """The tensors of each file, of (name, bytes) in order. GGUFError where a limit cannot be kept."""
    groups: list[list[str]] = [[]] if limits.first else [[], []]
    size = 0
    for i, (name, nbytes) in enumerate(sizes):
        padded = align_up(nbytes, PADDING)
        if limits.bytes is not None and padded > limits.bytes:
            raise GGUFError(
                f"tensor {shown(name)} alone has {padded:,} bytes, and a file may have {limits.bytes:,}; "
                f"give --split-max-size at least that"
            )
        by_count = limits.bytes is None and i > 0 and i % limits.tensors == 0
        if by_count or (limits.bytes is not None and size + padded > limits.bytes):
            groups.append([])
            size = 0
        size += padded
        groups[-1].append(name)
    if len(groups) > MAX_FILES:
        raise GGUFError(f"that would be {len(groups):,} files, and a set has at most {MAX_FILES:,}; raise the limit")
    return groups


def split(file: GGUFFile, parts: Sequence[Part], *, force: bool = False, progress: Progress | None = None) -> int:
    """Write the files of `plan`; all of them, or none. Returns the bytes written.

    Raises GGUFError where one is there already (unless `force`), is a file that is being read, or cannot be written.
    """
    folder = parts[0].path.parent
    for part in parts:
        check_target(part.path, file.files)
        refuse_existing(part.path, force)
    check_space(parts[0].path, sum(part.nbytes for part in parts))
    with hidden_folder(folder) as staging:
        total, done = sum(part.nbytes for part in parts), 0
        for i, part in enumerate(parts):
            values = _shard_metadata(file, i, len(parts))
            tensors = [file.tensors[name] for name in part.tensors]
            for count in _write(staging / part.path.name, values, tensors, file):
                done += count
                if progress is not None:
                    progress("write", done, total)
        with open_gguf(staging / parts[0].path.name) as written:
            if list(written.tensors) != list(file.tensors):
                raise GGUFError(f"the set written for {file.path} has other tensors; nothing was changed")
        size = sum((staging / part.path.name).stat().st_size for part in parts)
        _publish(staging, [part.path for part in parts])
    return size


def merge(file: GGUFFile, target: Path, *, force: bool = False, progress: Progress | None = None) -> int:
    """Write all files of a set as one, without the split.* keys. Returns its bytes.

    Raises GGUFError where `file` is no set, the target is there (unless `force`) or of the set, or cannot be written.
    """
    if "split.count" not in file.metadata or not file.metadata["split.count"]:
        raise GGUFError(f"{file.path} is not one of a split set (it has no split.count); there is nothing to merge")
    check_target(target, file.files)
    refuse_existing(target, force)
    tensors = list(file.tensors.values())
    total, done = sum(t.nbytes for t in tensors), 0
    check_space(target, total)
    for count in _write(target, _plain_metadata(file), tensors, file):
        done += count
        if progress is not None:
            progress("write", done, total)
    return target.stat().st_size


def refuse_existing(target: Path, force: bool) -> None:
    """GGUFError where there is a file of that name already, unless `force`; a folder is never replaced."""
    if target.is_dir():
        raise GGUFError(f"{target} is a folder; give another name")
    if not force and os.path.lexists(target):
        raise GGUFError(f"{target} is there already; remove it, give another name, or replace it with --force")


def _plain_metadata(file: GGUFFile) -> dict[str, Typed]:
    return {k: v for k, v in file.metadata.typed_items().items() if not k.startswith(_SYSTEM)}


def _shard_metadata(file: GGUFFile, number: int, count: int) -> dict[str, Typed]:
    """All metadata for the first file; for the others the alignment, where it is said, and what makes them a set."""
    values = _plain_metadata(file)
    if number:
        values = {k: v for k, v in values.items() if k == ALIGNMENT}
    return {
        **values,
        "split.no": Typed("uint16", number),
        "split.count": Typed("uint16", count),
        "split.tensors.count": Typed("int32", len(file.tensors)),
    }


def _write(path: Path, values: dict[str, Typed], tensors: Sequence[Tensor], file: GGUFFile) -> Iterator[int]:
    """Write one file, in the version and byte order of `file`; yields bytes as they are written."""
    infos = [TensorInfo(t.name, t.shape, t.type) for t in tensors]
    with Writer(path, values, infos, version=file.version, byteorder=file.byteorder) as writer:
        for tensor in tensors:
            for chunk in tensor.chunks(_COPY_BYTES):
                writer.append(tensor.name, chunk)
                yield chunk.size
            tensor.release()


@contextlib.contextmanager
def hidden_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside the target for as long as the block lasts; those of killed processes are removed."""
    try:
        _remove_stale(folder)
        staging, lock = _make_staging(folder)
    except OSError as e:
        raise GGUFError(f"cannot write in {folder}: {e.strerror or e}") from None
    try:
        yield staging
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(folder: Path) -> tuple[Path, int]:
    """A new folder and a descriptor that holds its lock: it is in use until that is closed or the process ends."""
    while True:
        staging = folder / f"{_FOLDER}{secrets.token_hex(8)}"
        staging.mkdir()
        # Another split may take it for left over before the lock holds, and remove it.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            return staging, _lock(staging)[0]


def _lock(staging: Path) -> tuple[int, bool]:
    """A descriptor that holds the lock of a hidden folder, and whether the file system has such locks at all.

    BlockingIOError where the folder is in use, FileNotFoundError where it is gone.
    """
    if sys.platform == "win32":  # has no such locks
        return os.open(os.devnull, os.O_RDONLY), False
    descriptor = os.open(staging, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        locked = take_lock(descriptor)
        os.stat(staging)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, locked


def _remove_stale(folder: Path) -> None:
    """Remove hidden folders that no living process holds. Where there are no locks, as on Windows, they stay."""
    if sys.platform == "win32":
        return
    for old in folder.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):  # held by another split, gone meanwhile, or somebody else's
            descriptor, locked = _lock(old)
            if locked:
                shutil.rmtree(old, ignore_errors=True)
            os.close(descriptor)


def _publish(staging: Path, targets: Sequence[Path]) -> None:
    """Give the files in `staging` their names, the first one last; on an error all that was there is put back."""
    kept = staging / "old"
    done: list[Path] = []
    try:
        kept.mkdir()
        for target in targets:
            if os.path.lexists(target):
                os.link(target, kept / target.name, follow_symlinks=sys.platform == "win32")
                keep_mode(staging / target.name, target)
        for target in reversed(targets):
            done.append(target)
            os.replace(staging / target.name, target)
    except BaseException as e:  # an interruption too: the old files go with the hidden folder
        for target in done:
            _put_back(staging, kept, target)
        if not isinstance(e, OSError):
            raise
        raise GGUFError(f"cannot write {e.filename or targets[0]}: {e.strerror or e}; nothing was changed") from None
    sync_folder(targets[0].parent)


def _put_back(staging: Path, kept: Path, target: Path) -> None:
    """Undo one rename, where it happened."""
    if (staging / target.name).exists():
        return
    if os.path.lexists(kept / target.name):
        os.replace(kept / target.name, target)
    else:
        target.unlink(missing_ok=True)
