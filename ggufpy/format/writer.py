"""Writing GGUF files: whole, or not there at all."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from struct import pack
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format import blocktypes
from ggufpy.format.arrays import DIMENSION_MAX, Data, as_bytes, measured, shape_and_type
from ggufpy.format.atomic import AtomicFile
from ggufpy.format.blocktypes import Layout
from ggufpy.format.encode import encode, infer
from ggufpy.format.header import DEFAULT_ALIGNMENT, MAGIC, align_up, parse
from ggufpy.format.metadata import Metadata
from ggufpy.format.tensor import Tensor
from ggufpy.format.values import (
    ORDERS,
    Blocks,
    TensorInfo,
    Typed,
    check_name,
    shown,
)
from ggufpy.support import checks
from ggufpy.support.records import dataclass

_COPY_BYTES = 16 << 20  # bytes of a tensor swapped and written at a time
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class _Planned:
    """A tensor of the file to be: its bytes, and where they go from the start of the data section."""

    name: str
    layout: Layout
    nbytes: int
    offset: int


class Writer:
    """Writes a file tensor by tensor, for models larger than memory.

    Metadata and tensor infos are given first; then `append` takes each tensor's data, in that order, in as
    many chunks as suit. The file gets its name on `close` or at the end of a `with` block, once it is on the disk and
    its header was read again; after an error nothing is left of it. `size` is the bytes that it will have. Raises
    GGUFError for names, shapes, types, values and sizes that cannot be, and where the disk has no room.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Any],
        tensors: Iterable[TensorInfo],
        *,
        version: int = 3,
        byteorder: str = "little",
        alignment: int | None = None,
    ) -> None:
        path = Path(checks.path("path", path))
        if checks.whole("version", version) not in (2, 3):
            raise GGUFError(f"GGUF version {version} cannot be written; 2 and 3 can")
        if checks.text("byteorder", byteorder) not in ORDERS:
            raise GGUFError(f"byteorder is {byteorder!r}; it must be 'little' or 'big'")
        values, self.alignment = _with_alignment(_typed(metadata), alignment)
        _check_split(path, values)
        head, self._plan = _head(values, tensors, self.alignment, version, ORDERS[byteorder])
        self._swap = byteorder == "big"
        self._next = 0  # the tensor that takes the next chunk
        self._done = 0  # bytes of it so far
        self._ready = False
        self._start = align_up(len(head), self.alignment)
        self.size = self._start + _data_bytes(self._plan, self.alignment)
        self._atomic = AtomicFile(path, self.size)
        self._put(head)
        self._skip_complete()

    def append(self, name: str, data: Data) -> None:
        """Append data of tensor `name`, the next: whole blocks in little-endian layout (bytes or uint8), or
        an array of the tensor's own NumPy dtype. Tensors of no bytes are skipped."""
        checks.text("name", name)
        if self._next == len(self._plan):
            raise GGUFError(f"tensor {shown(name)}: every tensor declared has its data already")
        tensor = self._plan[self._next]
        if name != tensor.name:
            raise GGUFError(f"tensor {shown(name)}: the data of {shown(tensor.name)} come next")
        chunk = as_bytes(data, tensor.layout, name)
        if chunk.size % tensor.layout.nbytes:
            raise GGUFError(f"tensor {shown(name)}: {chunk.size} bytes are not whole {tensor.layout.name} blocks")
        if self._done + chunk.size > tensor.nbytes:
            raise GGUFError(
                f"tensor {shown(name)}: {self._done + chunk.size} bytes, but its shape takes {tensor.nbytes}"
            )
        if not self._done:
            self._pad(self._start + tensor.offset)
        step = _COPY_BYTES // tensor.layout.nbytes * tensor.layout.nbytes
        for i in range(0, chunk.size, step):
            part = chunk[i : i + step]
            self._put((blocktypes.swapped(part, tensor.layout) if self._swap else part).data)
        self._done += chunk.size
        self._skip_complete()

    def close(self) -> None:
        """Finish the file and give it its name; GGUFError, and no file, where data are missing."""
        self.prepare()
        if not self._atomic.file.closed:
            self._atomic.commit()

    def prepare(self) -> None:
        """All of `close` but the name: files that belong together are all prepared, then all closed."""
        if self._next < len(self._plan):
            tensor = self._plan[self._next]
            self.abort()
            raise GGUFError(
                f"{self._atomic.path} was not written: tensor {shown(tensor.name)} has {self._done} of its "
                f"{tensor.nbytes} bytes"
            )
        if not self._ready and not self._atomic.file.closed:
            self._pad(self.size)
            self._atomic.prepare(self._read_back)
            self._ready = True

    def abort(self) -> None:
        """Give up: nothing of the file is left."""
        self._atomic.abort()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _read_back(self, path: Path) -> None:
        """GGUFError unless the header of the file at `path` is whole and says what was to be written."""
        with open(path, "rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = parse(buffer, str(path))
        if len(buffer) != self.size or list(header.tensors) != [tensor.name for tensor in self._plan]:
            raise GGUFError(f"{path} has {len(buffer)} bytes and {len(header.tensors)} tensors, not as planned")

    def _skip_complete(self) -> None:
        while self._next < len(self._plan) and self._done == self._plan[self._next].nbytes:
            self._next, self._done = self._next + 1, 0

    def _pad(self, to: int) -> None:
        """Fill with zeros up to byte `to`; long stretches become holes in the file."""
        try:
            file = self._atomic.file
            file.flush()
            if file.tell() < to:
                file.truncate(to)
                file.seek(to)
        except (OSError, ValueError) as e:
            raise self._failed(e) from None

    def _put(self, data: bytes | memoryview) -> None:
        try:
            self._atomic.file.write(data)
            self._atomic.spill()
        except (OSError, ValueError) as e:
            raise self._failed(e) from None

    def _failed(self, e: OSError | ValueError) -> GGUFError:
        closed = self._atomic.file.closed
        self.abort()
        reason = "the writer is closed" if closed else e
        return GGUFError(f"cannot write {self._atomic.path}: {reason}")


def file_size(metadata: Mapping[str, Any], tensors: Iterable[TensorInfo]) -> int:
    """The bytes that a file of these metadata and tensors takes. GGUFError where it could not be written."""
    values, alignment = _with_alignment(_typed(metadata), None)
    head, plan = _head(values, tensors, alignment, 3, ORDERS["little"])
    return align_up(len(head), alignment) + _data_bytes(plan, alignment)


def header(metadata: Mapping[str, Any]) -> bytes:
    """The whole of a file of these metadata and no tensors. Raises GGUFError for what cannot be written."""
    values, alignment = _with_alignment(_typed(metadata), None)
    return _head(values, (), alignment, 3, ORDERS["little"])[0]


def write(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any] | Blocks | Tensor],
    *,
    version: int = 3,
    byteorder: str = "little",
    alignment: int | None = None,
) -> None:
    """Write a whole GGUF file.

    A metadata value is plain Python or `Typed`; the metadata of an open file keep their exact types. A tensor
    is a NumPy array (float16/32/64, int8/16/32/64), `Blocks`, or a Tensor of an open file. `alignment`
    defaults to the metadata's "general.alignment", else 32. Raises GGUFError for whatever cannot be written,
    leaving no file.
    """
    checks.mapping("tensors", tensors)
    infos = [TensorInfo(name, *shape_and_type(tensors[name], str(name))) for name in tensors]
    with Writer(path, metadata, infos, version=version, byteorder=byteorder, alignment=alignment) as writer:
        for name in tensors:
            for chunk in _chunks(tensors[name]):
                writer.append(name, chunk)


def _typed(metadata: Mapping[str, Any]) -> dict[str, Typed]:
    if isinstance(metadata, Metadata):
        return metadata.typed_items()
    items = checks.mapping("metadata", metadata).items()
    return {key: infer(value, f"metadata {shown(str(key))}") for key, value in items}


def _with_alignment(values: dict[str, Typed], wanted: int | None) -> tuple[dict[str, Typed], int]:
    """The metadata with the alignment asked for, and that alignment."""
    if wanted is None:
        said = values.get(_ALIGNMENT)
        if said is None:
            return values, DEFAULT_ALIGNMENT
        if said.type != "uint32":
            raise GGUFError(f"metadata {_ALIGNMENT!r} must be a uint32, not {said.type}")
        wanted = said.value
    elif not isinstance(wanted, int) or wanted != DEFAULT_ALIGNMENT or _ALIGNMENT in values:
        values = {**values, _ALIGNMENT: Typed("uint32", wanted)}
    if not isinstance(wanted, int) or not 0 < wanted < 2**32 or wanted & (wanted - 1):
        raise GGUFError(f"alignment is {checks.shown(wanted)}; it must be a power of two below 2^32")
    return values, wanted


def _check_split(path: Path, values: dict[str, Typed]) -> None:
    count = values.get("split.count")
    if count is not None and isinstance(count.value, int) and count.value > 1:
        wanted = f"-of-{count.value:05d}.gguf"
        if not path.name.endswith(wanted):
            raise GGUFError(
                f"{path}: 'split.count' is {count.value}, so the name must end in -00001{wanted} or another "
                "number; leave the split.* keys out to write a single file"
            )


def _head(
    values: dict[str, Typed], tensors: Iterable[TensorInfo], alignment: int, version: int, order: str
) -> tuple[bytes, list[_Planned]]:
    """Everything before the data, not padded, and where the data go."""
    plan, entries = _lay_out(tensors, alignment, order)
    return MAGIC + pack(order + "IQQ", version, len(plan), len(values)) + _keys(values, order) + entries, plan


def _data_bytes(plan: list[_Planned], alignment: int) -> int:
    return align_up(max((t.offset + t.nbytes for t in plan), default=0), alignment)


def _keys(values: dict[str, Typed], order: str) -> bytes:
    parts = []
    for key, value in values.items():
        raw = check_name(key, "metadata key")
        parts += [pack(order + "Q", len(raw)), raw, encode(value, order, f"metadata {shown(key)}")]
    return b"".join(parts)


def _lay_out(tensors: Iterable[TensorInfo], alignment: int, order: str) -> tuple[list[_Planned], bytes]:
    """Where each tensor goes, and the bytes of all entries."""
    plan: list[_Planned] = []
    entries: list[bytes] = []
    names: set[str] = set()
    offset = 0
    for info in checks.items("tensors", tensors, "a list of TensorInfo"):
        if not isinstance(info, TensorInfo):
            raise GGUFError(f"tensors holds {checks.shown(info)}; it must be a list of TensorInfo")
        raw = check_name(info.name, "tensor name")
        if info.name in names:
            raise GGUFError(f"tensor {shown(info.name)} is declared twice")
        names.add(info.name)
        shape, layout, nbytes = measured(info)
        dims = tuple(reversed(shape))
        entries += [
            pack(order + "Q", len(raw)),
            raw,
            pack(f"{order}I{len(dims)}QIQ", len(dims), *dims, layout.id, offset),
        ]
        plan.append(_Planned(info.name, layout, nbytes, offset))
        offset = align_up(offset + nbytes, alignment)
        if offset > DIMENSION_MAX:
            raise GGUFError(f"tensor {shown(info.name)}: the file would pass 2^63 bytes")
    return plan, b"".join(entries)


def _chunks(value: NDArray[Any] | Blocks | Tensor) -> Iterator[Data]:
    """The data of a tensor in little-endian layout, little at a time where they have to be swapped."""
    if isinstance(value, Tensor):
        yield from value.chunks(_COPY_BYTES)
    else:
        data = value.data if isinstance(value, Blocks) else np.asarray(value)
        if data.size:
            yield data
