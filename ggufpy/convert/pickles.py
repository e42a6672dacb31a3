"""PyTorch's files of weights (.bin, .pt): a pickle that says which tensors there are, and the bytes of storages.

In: a file of either layout, the zip one (data.pkl, data/<key>, byteorder) or the older stream of pickles. Out: tensors
by name as `Stored`, whose numbers stay in the mapped file. What is said of them is checked against the file's size.
Layout: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ggufpy.convert.safetensors import DTYPES, Stored
from ggufpy.convert.unpickling import Dictionary, Machine, Storage, View
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Bytes
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

PICKLE_MAX = 1 << 26  # bytes of a pickle; 10,000 tensors take two million
MEMBERS_MAX = 1 << 20
DIRECTORY_MAX = 1 << 26  # bytes of a zip file's directory; a storage takes about a hundred
_OLD_MAGIC, _OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # what training programs have weights under


def open_pickle(path: Path) -> dict[str, Stored]:
    """Maps a file. Raises GGUFError, naming the file, for whatever is wrong with it, and for one that has more than
    tensors in it. Of the data nothing is read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 4:
                raise GGUFError(f"it has {size} bytes, too few for a file of PyTorch")
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if buffer[:4] != b"PK\3\4":
                return _old(buffer)
            return _zipped(file, buffer)
    except OSError as e:
        raise GGUFError(f"{path} cannot be read: {e.strerror or e}") from None
    except GGUFError as e:
        raise GGUFError(f"{path}: {e}") from None


# -- where the bytes are ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    """The mapped file, where each storage is in it (first byte, bytes), and the order of bytes of its numbers."""

    buffer: mmap.mmap
    places: Mapping[str, tuple[int, int]]
    big: bool


class _Limited:
    """A file as zipfile reads it, which takes any length of a directory at its word. GGUFError for absurd ones."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(DIRECTORY_MAX + 1 if count < 0 else min(count, DIRECTORY_MAX + 1))
        if len(data) > DIRECTORY_MAX:
            raise GGUFError(f"its directory has more than {DIRECTORY_MAX:,} bytes, more than that of any checkpoint")
        return data


def _members(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """What a zip file's directory says. Nothing else is read."""
    try:
        with zipfile.ZipFile(cast(BinaryIO, _Limited(file))) as archive:
            return archive.infolist()
    except GGUFError:
        raise
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, UnicodeError):
        raise GGUFError("it is no whole zip file: download it again") from None


def _zipped(file: BinaryIO, buffer: mmap.mmap) -> dict[str, Stored]:
    infos = _members(file)
    if len(infos) > MEMBERS_MAX:
        raise GGUFError(f"it has {len(infos):,} members, more than a checkpoint has")
    members: dict[str, tuple[int, int]] = {}
    for info in infos:
        if info.orig_filename in members:
            raise GGUFError(f"it has {shown(info.orig_filename)} twice")
        members[info.orig_filename] = _place(info, buffer)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise GGUFError(f"it has {len(pickles)} members named data.pkl, where files of PyTorch have one")
    root = pickles[0].removesuffix("data.pkl")
    data = root + "data/"
    places = {name.removeprefix(data): place for name, place in members.items() if name.startswith(data)}
    order = _text(buffer, members.get(root + "byteorder"))
    if order not in ("little", "big"):
        raise GGUFError(f"its order of bytes is {shown(order)}, neither little nor big")
    at, length = members[pickles[0]]
    if length > PICKLE_MAX:
        raise GGUFError(f"its pickle takes {length:,} bytes, more than that of any checkpoint")
    made, _ = Machine(buffer, at, at + length).run()
    return _tensors(made, _Data(buffer, places, order == "big"))


def _place(info: zipfile.ZipInfo, buffer: mmap.mmap) -> tuple[int, int]:
    """First byte and bytes of a member, which must lie uncompressed within the file."""
    name = shown(info.orig_filename)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
        raise GGUFError(f"its member {name} is compressed or encrypted, which PyTorch's files are not")
    at = info.header_offset
    head = buffer[at : at + 30] if 0 <= at < len(buffer) else b""
    if len(head) != 30 or head[:4] != b"PK\3\4":
        raise GGUFError(f"its member {name} is not where it should be")
    first = at + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if first + info.file_size > len(buffer):
        raise GGUFError(f"its member {name} goes beyond the file: it is cut short")
    return first, info.file_size


def _text(buffer: mmap.mmap, place: tuple[int, int] | None) -> str:
    """A short member; files without "byteorder" are little-endian."""
    if place is None:
        return "little"
    return buffer[place[0] : place[0] + min(place[1], 32)].decode("latin-1").strip()


def _old(buffer: mmap.mmap) -> dict[str, Stored]:
    """The layout before PyTorch 1.6: pickles of a magic number, a version, the system, the tensors and the storages'
    keys, then each storage with a count before it."""
    at, parts = 0, []
    storages: dict[str, Storage] = {}
    for _ in range(5):
        machine = Machine(buffer, at, min(at + PICKLE_MAX, len(buffer)), storages=storages)
        made, at = machine.run()
        parts.append(made)
        if parts[0] != _OLD_MAGIC or parts[1:2] not in ([], [_OLD_VERSION]):
            raise GGUFError("it is no file of PyTorch's")
    _, _, system, made, keys = parts
    big = isinstance(system, dict) and system.get("little_endian") is False
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise GGUFError("it has no list of storages: it is cut short or damaged")
    places = {}
    for key in keys:
        if key not in storages:
            raise GGUFError(f"its storage {shown(key)} belongs to no tensor")
        size = np.dtype(DTYPES[storages[key].dtype]).itemsize
        count = int.from_bytes(buffer[at : at + 8], "big" if big else "little")
        if at + 8 + count * size > len(buffer):
            raise GGUFError(f"its storage {shown(key)} goes beyond the file: it is cut short")
        places[key] = (at + 8, count * size)
        at += 8 + count * size
    return _tensors(made, _Data(buffer, places, big))


# -- tensors ---------------------------------------------------------------------------------------------------


class _Pickled(Stored):
    """A tensor of a pickle: it may have strides, and numbers that begin with their high byte."""

    def __init__(self, name: str, view: View, data: _Data, offset: int) -> None:
        super().__init__(name, view.dtype, view.shape, data.buffer, offset)
        self._strides, self._big = view.strides, data.big
        self._plain = _contiguous(view.shape, view.strides) and not data.big

    @property
    def array(self) -> NDArray[Any]:
        if self._plain:
            return super().array
        return self._lying().astype(DTYPES[self.dtype])

    def _lying(self) -> NDArray[Any]:
        """The numbers where they are, in the file's order of bytes."""
        dtype = np.dtype(DTYPES[self.dtype]).newbyteorder(">" if self._big else "<")
        if not math.prod(self.shape):
            return np.empty(self.shape, dtype)
        strides = [stride * dtype.itemsize for stride in self._strides]
        lying: NDArray[Any] = np.ndarray(self.shape, dtype, self._buffer, self._offset, strides)
        return lying

    def rows(self, start: int, stop: int) -> Bytes:
        if self._plain:
            return super().rows(start, stop)
        lying = self._lying()
        if lying.ndim < 2:
            part = lying.reshape(-1, self.columns)[start:stop]
        else:
            part = lying[np.unravel_index(np.arange(start, stop), lying.shape[:-1])]
        part = np.ascontiguousarray(part, DTYPES[self.dtype])
        return Stored(self.name, self.dtype, part.shape, part).rows(0, len(part))

    def release(self) -> None:
        if self._plain:
            super().release()


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != step:
            return False
        step *= length
    return True


def _named(made: Any) -> dict[str, View]:
    """Tensors by name, of the dictionary itself or of what a training program has put them under."""
    for _ in range(len(_WRAPPERS)):
        if not isinstance(made, Dictionary):
            break
        views = {name: value for name, value in made.items() if isinstance(value, View)}
        if views:
            if not all(isinstance(name, str) for name in views):
                raise GGUFError("its tensors have names that are no texts")
            return views
        made = next((made[key] for key in _WRAPPERS if isinstance(made.get(key), Dictionary)), None)
    raise GGUFError("it has no dictionary of tensors by name")


def _tensors(made: Any, data: _Data) -> dict[str, Stored]:
    tensors: dict[str, Stored] = {}
    for name, view in _named(made).items():
        try:
            tensors[name] = _Pickled(name, view, data, _offset(view, data))
        except GGUFError as e:
            raise GGUFError(f"tensor {shown(name)}: {e}") from None
    return tensors


def _offset(view: View, data: _Data) -> int:
    """The first byte of a tensor, all of which must lie in its storage, and that in the file."""
    storage = view.storage
    if storage.key not in data.places:
        raise GGUFError(f"its storage {shown(storage.key)} is not in the file")
    first, there = data.places[storage.key]
    size = np.dtype(DTYPES[view.dtype]).itemsize
    whole = storage.count * (np.dtype(DTYPES[storage.dtype]).itemsize)
    begin = storage.first * np.dtype(DTYPES[storage.dtype]).itemsize
    if begin + whole > there:
        raise GGUFError(f"its storage takes {begin + whole:,} bytes, and the file has {there:,} of it")
    count = math.prod(view.shape)
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    if count and ((last + 1) * size > whole or count * size > whole):
        raise GGUFError(f"shape {list(view.shape)} with strides {list(view.strides)} goes beyond its storage")
    return first + begin + view.offset * size
