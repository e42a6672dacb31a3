"""Changing the metadata of one file: a list of changes in, the changed file out, never half of it.

A change that keeps the aligned size of the header leaves the tensors where they are. Where, besides, all bytes that
differ lie within one 512-byte sector, that sector is written over in the file itself by a single system call: a disk
writes a sector whole or not at all, and a process that is killed leaves such a call done or not begun. Anything else
goes into a temporary file beside the target, which takes its name at the end: the new header, then the data section,
which the system copies within itself, without reading it where the file system can share blocks. So at any moment
the old file or the new one is there, whole. A file with several hard links is always copied: its other names keep the
old contents.
"""

from __future__ import annotations

import builtins
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import Path
from struct import pack
from typing import Any, BinaryIO, Literal

from ggufpy.errors import GGUFError
from ggufpy.format.atomic import AtomicFile
from ggufpy.format.encode import encode
from ggufpy.format.header import DEFAULT_ALIGNMENT, align_up, parse, read_entry
from ggufpy.format.metadata import Metadata
from ggufpy.format.reader import Shard
from ggufpy.format.values import TensorInfo, Typed, check_name, shown, split_array_type
from ggufpy.format.writer import Writer
from ggufpy.support.records import dataclass

SECTOR = 512  # bytes that every disk writes as one
ALIGNMENT, ARCHITECTURE = "general.alignment", "general.architecture"
TOKEN_ARRAYS = tuple(f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
_STEP = 64 << 20  # bytes copied between two calls of the progress
_COPY_BYTES = 16 << 20
# Reasons for which a file system declines to copy within itself: not supported, other devices, odd files.
_DECLINED = ("EXDEV", "ENOSYS", "EINVAL", "EOPNOTSUPP", "ENOTSUP", "EBADF", "EPERM", "EACCES", "ETXTBSY")

Progress = Callable[[str, int, int], None]
Mode = Literal["none", "in-place", "copy", "rewrite"]


@dataclass(frozen=True)
class Change:
    """What became of one key: `action` is add, set, remove or rename (then `to` is the new name)."""

    action: str
    key: str
    old: Typed | None = None
    new: Typed | None = None
    to: str = ""


@dataclass
class Draft:
    """The metadata to be: `values` maps each key to its new value, or to the key of the file that it is taken from."""

    metadata: Metadata
    values: dict[str, Typed | str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values.update({key: key for key in self.metadata})

    def typed(self, key: str) -> Typed:
        """The value that `key` is to have. GGUFError, with a close name, where there is none."""
        try:
            value = self.values[key]
        except KeyError:
            raise GGUFError(_no_key(key, self.values)) from None
        return self.metadata.typed(value) if isinstance(value, str) else value

    def remove(self, key: str) -> None:
        """Take a key out. GGUFError where there is none."""
        self.changes.append(Change("remove", key, old=self.typed(key)))
        del self.values[key]

    def rename(self, key: str, to: str) -> None:
        """Give a key another name; it keeps its place. GGUFError where the one is missing or the other taken."""
        value = self.typed(key)
        check_name(to, "metadata key")
        if to == key:
            return
        if to in self.values:
            raise GGUFError(f"cannot rename {shown(key)}: there is a key {shown(to)} already; remove it first")
        self.values = {to if k == key else k: v for k, v in self.values.items()}
        self.changes.append(Change("rename", key, old=value, new=value, to=to))

    def set(self, key: str, value: Typed) -> None:
        """Give a key a value, at the end where it is new. GGUFError where the value does not fit its type."""
        check_name(key, "metadata key")
        new = encode(value, "<", f"metadata {shown(key)}")
        old = self.typed(key) if key in self.values else None
        if old is not None and encode(old, "<", key) == new:
            return
        self.values[key] = value
        self.changes.append(Change("add" if old is None else "set", key, old, value))


def _no_key(key: str, known: dict[str, Any]) -> str:
    import difflib

    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"; did you mean {shown(near[0])}?" if near else "; `ggufpy inspect` lists them"
    return f"there is no metadata key {shown(key)}{hint}"


def risks(draft: Draft) -> Iterator[str]:
    """Why the changes would leave a file that does not fit together, a sentence each; nothing where they would not."""
    for change in draft.changes:
        for key in (change.key, change.to):
            if key == ALIGNMENT:
                yield f"{key} says where every tensor lies (the file would be laid out anew)"
            elif key == ARCHITECTURE:
                yield f"{key} says how the model is run, and its other keys begin with it"
            elif key.startswith("split."):
                yield f"{key} must agree with the other files of a split set"
    old_tokens = _count(draft.metadata.typed(TOKEN_ARRAYS[0])) if TOKEN_ARRAYS[0] in draft.metadata else None
    tokens = _count(draft.typed(TOKEN_ARRAYS[0])) if TOKEN_ARRAYS[0] in draft.values else None
    if tokens != old_tokens:
        counts = f"{_elements(tokens)} in place of {_elements(old_tokens)}"
        yield f"{TOKEN_ARRAYS[0]} would have {counts}, one a row of weights"
    for key in TOKEN_ARRAYS[1:]:
        if key not in draft.values:
            if key in draft.metadata:
                yield f"{key} would be gone, and tokens need it"
        elif draft.values[key] != key and _count(draft.typed(key)) != tokens:
            count = _elements(_count(draft.typed(key)))
            yield f"{key} would have {count}, and {TOKEN_ARRAYS[0]} has {_elements(tokens)}"


def _count(value: Typed) -> int | None:
    return None if split_array_type(value.type) is None else len(value.value)


def _elements(count: int | None) -> str:
    return "none" if count is None else f"{count:,} elements"


@dataclass(frozen=True)
class Identity:
    """What tells whether a file is still the one that was read."""

    device: int
    inode: int
    size: int
    modified: int
    links: int

    @staticmethod
    def of(status: os.stat_result) -> Identity:
        """The identity of an open file."""
        return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_nlink)


class Editor:
    """One file open for editing, alone even where it is one of a split set. GGUFError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise GGUFError(f"{path} is not a regular file; a GGUF file is wanted")
            with builtins.open(path, "rb") as file:
                self._identity = Identity.of(os.fstat(file.fileno()))
                if not self._identity.size:
                    raise GGUFError(f"{path} is empty, not a GGUF file")
                self._shard = Shard(str(path), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise GGUFError(f"no such file: {path}") from None
        except OSError as e:
            raise GGUFError(f"cannot open {path}: {e.strerror or e}") from None
        except ValueError as e:  # a NUL inside the name, a pipe
            raise e if isinstance(e, GGUFError) else GGUFError(f"cannot open {str(path)!r}: {e}") from None

    @property
    def metadata(self) -> Metadata:
        """The metadata of the file as it is."""
        return self._shard.metadata

    def draft(self) -> Draft:
        """A draft without changes."""
        return Draft(self.metadata)

    def mode(self, draft: Draft, output: Path | None) -> Mode:
        """How `save` would write: nothing to do, within the file, as a copy, or laid out anew."""
        if output is None and not draft.changes:
            return "none"
        if self._alignment(draft) != self._shard.header.alignment:
            return "rewrite"
        head = self._head(draft)
        span = self._span(head)
        alone = output is None and self._identity.links == 1 and sys.platform != "win32"
        if alone and span is not None and span[0] // SECTOR == max(span[1] - 1, 0) // SECTOR:
            return "in-place"
        return "copy"

    def save(self, draft: Draft, output: Path | None, progress: Progress | None = None) -> tuple[Mode, int]:
        """Write the changes to `output`, or to the file itself; how it was done, and the bytes written.

        Raises GGUFError, with the file as it was, where that fails or the result would not be a valid file.
        """
        mode = self.mode(draft, output)
        if mode == "none":
            return mode, 0
        if mode == "rewrite":
            return mode, self._rewrite(draft, output or self.path, progress)
        head = self._head(draft)
        if mode == "in-place":
            return mode, self._patch(head)
        return mode, self._copy(head, output, progress)

    def _alignment(self, draft: Draft) -> int:
        if ALIGNMENT not in draft.values:
            return DEFAULT_ALIGNMENT
        value = draft.typed(ALIGNMENT)
        return value.value if value.type == "uint32" else 0

    def _head(self, draft: Draft) -> bytes:
        """Everything before the data section: kept values and tensor entries byte for byte as they are.

        Raises GGUFError for keys that a reader would refuse; the tensors' entries were checked when they were read.
        """
        header, buffer = self._shard.header, self._shard.buffer
        spans, entries = self._spans()
        parts = []
        for key, value in draft.values.items():
            raw = check_name(key, "metadata key")
            body = (
                buffer[slice(*spans[value])]
                if isinstance(value, str)
                else encode(value, header.order, f"metadata {shown(key)}")
            )
            parts += [pack(header.order + "Q", len(raw)), raw, body]
        keys = b"".join(parts)
        parse(buffer[:8] + pack(header.order + "QQ", 0, len(draft.values)) + keys, str(self.path))
        head = buffer[:8] + pack(header.order + "QQ", len(header.tensors), len(draft.values)) + keys
        head += buffer[slice(*entries)]
        if self._identity.size < header.data_start:  # no data follow: nothing has to be aligned
            return head
        return head.ljust(align_up(len(head), header.alignment), b"\0")

    def _spans(self) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
        """Where the value of each key lies, its type included, and where the tensors' entries lie."""
        header, order = self._shard.header, self._shard.header.order
        keys, tensors = list(header.keys.items()), list(header.tensors.items())
        entries = (0, 0)
        if tensors:
            begin = tensors[0][1] - len(tensors[0][0].encode()) - 8
            entries = begin, read_entry(self._shard.buffer, order, tensors[-1][1], 0)[1]
        spans: dict[str, tuple[int, int]] = {}
        for i, (key, at) in enumerate(keys):
            if i + 1 < len(keys):
                after, after_at = keys[i + 1]
                end = after_at - len(after.encode()) - 8
            elif tensors:
                end = entries[0]
            else:
                end = at + len(encode(self.metadata.typed(key), order, key))
            spans[key] = at, end
        return spans, entries

    def _span(self, head: bytes) -> tuple[int, int] | None:
        """The bytes of the file that `head` changes; None where its size differs."""
        start = self._shard.header.data_start
        if len(head) != start or self._identity.size < start:
            return None
        old = self._shard.buffer[:start]
        changed = [i for i in range(0, start, SECTOR) if old[i : i + SECTOR] != head[i : i + SECTOR]]
        if not changed:
            return 0, 0
        first, last = changed[0], min(changed[-1] + SECTOR, start)
        while old[first] == head[first]:
            first += 1
        while old[last - 1] == head[last - 1]:
            last -= 1
        return first, last

    def _patch(self, head: bytes) -> int:
        """Write the changed bytes, all of one sector, over the old ones."""
        span = self._span(head)
        assert span is not None
        first, last = span
        assert sys.platform != "win32"
        try:
            descriptor = os.open(self.path, os.O_WRONLY)
            try:
                self._unchanged(os.fstat(descriptor))
                at = first
                while at < last:  # once: a part of a sector is not taken
                    at += os.pwrite(descriptor, head[at:last], at)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as e:
            raise GGUFError(f"cannot write {self.path}: {e.strerror or e}") from None
        return last - first

    def _unchanged(self, status: os.stat_result) -> None:
        if Identity.of(status) != self._identity:
            raise GGUFError(f"{self.path} was changed by another program meanwhile; run the edit again")

    def _copy(self, head: bytes, output: Path | None, progress: Progress | None) -> int:
        start = self._shard.header.data_start
        size = len(head) + max(self._identity.size - start, 0)
        with AtomicFile(output or self.path, size) as atomic:
            try:
                with builtins.open(self.path, "rb") as source:
                    self._unchanged(os.fstat(source.fileno()))
                    # A copy from byte 0 on can share the blocks of the old file; a shifted one cannot.
                    begin = 0 if len(head) == start else start
                    atomic.file.write(b"" if begin == 0 else head)
                    _transfer(source, atomic.file, begin, self._identity.size, progress)
                    if begin == 0:
                        atomic.file.seek(0)
                        atomic.file.write(head)
                    atomic.file.flush()
            except OSError as e:
                raise GGUFError(f"cannot write {atomic.path}: {e.strerror or e}") from None
            atomic.prepare(lambda written: _check(written, size))
        return size

    def _rewrite(self, draft: Draft, target: Path, progress: Progress | None) -> int:
        """Lay the tensors out anew, for another alignment."""
        header = self._shard.header
        tensors = [self._shard.tensor(name) for name in header.tensors]
        total, done = sum(t.nbytes for t in tensors), 0
        infos = [TensorInfo(t.name, t.shape, t.type) for t in tensors]
        values = {key: draft.typed(key) for key in draft.values}
        self._unchanged(os.stat(self.path))
        with Writer(target, values, infos, version=header.version, byteorder=header.byteorder) as writer:
            for tensor in tensors:
                for chunk in tensor.chunks(_COPY_BYTES):
                    writer.append(tensor.name, chunk)
                    done += chunk.size
                    if progress is not None:
                        progress("write", done, total)
                tensor.release()
        return os.stat(target).st_size


def _check(path: Path, size: int) -> None:
    """GGUFError unless the file that was written is whole."""
    with builtins.open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        header = parse(buffer, str(path))
        if len(buffer) != size:
            raise GGUFError(f"{path} has {len(buffer)} bytes, not {size}")
        del header  # its string arrays are views of the buffer, which could not be closed


def _transfer(source: BinaryIO, target: BinaryIO, begin: int, end: int, progress: Progress | None) -> None:
    """Append bytes `begin` to `end` of one file to another, within the system where it can do that."""
    target.flush()
    at, declined = begin, sys.platform != "linux"
    while at < end:
        step = min(_STEP, end - at)
        moved = 0 if declined else _within_system(source, target, at, step)
        declined = declined or not moved
        if not moved:
            source.seek(at)
            data = source.read(min(step, _COPY_BYTES))
            if not data:
                raise OSError(f"{source.name} ends at byte {at}")
            moved = target.write(data)
        at += moved
        if progress is not None:
            progress("write", at - begin, end - begin)


def _within_system(source: BinaryIO, target: BinaryIO, at: int, count: int) -> int:
    """Bytes that the system copied by itself from byte `at`; 0 where it declines."""
    import errno

    assert sys.platform == "linux"
    try:
        moved = os.copy_file_range(source.fileno(), target.fileno(), count, at)
    except OSError as e:
        if e.errno in {vars(errno).get(name) for name in _DECLINED}:
            return 0
        raise
    target.seek(0, os.SEEK_CUR)
    return moved
