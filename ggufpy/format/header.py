"""The one place where a GGUF header is checked: bytes of a file in, where everything lies out.

Nothing is decoded or allocated beyond the tables of names: a key leads to the position of its value, a
tensor's name to that of its entry, and both may later be read there without further checks.
"""

from __future__ import annotations

from array import array
from struct import Struct, unpack, unpack_from

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format import blocktypes
from ggufpy.format.blocktypes import Layout
from ggufpy.format.strings import COMPILED_FROM, Buffer, StringArray, walk
from ggufpy.format.values import (
    ARRAY,
    BOOL,
    MAX_DEPTH,
    MAX_DIMS,
    MAX_NAME,
    ORDERS,
    STRING,
    UINT32,
    VALUE_TYPES,
    shown,
)
from ggufpy.support.records import dataclass

DEFAULT_ALIGNMENT = 32
MAGIC = b"GGUF"
_SIZES = {t.id: t.size for t in VALUE_TYPES}
_KEY_BYTES = 8 + 1 + 4 + 1  # the least a key with its value takes: length, name, type, value
_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8  # likewise a tensor's entry: length, name, dimensions, type, offset
_INDEX_MAX = 2**63 - 1


@dataclass(frozen=True)
class Header:
    """A checked header. `order` is "<" or ">"; `keys` and `tensors` lead to positions in the file.

    `keys[k]` is where the value's type number stands, `tensors[name]` where the entry's dimension count
    stands; `data_start` is the first byte of the tensor data, `strings` holds the string arrays by position.
    """

    version: int
    order: str
    alignment: int
    keys: dict[str, int]
    tensors: dict[str, int]
    data_start: int
    strings: dict[int, StringArray]

    @property
    def byteorder(self) -> str:
        """ "little" or "big"."""
        return "little" if self.order == ORDERS["little"] else "big"


@dataclass(frozen=True)
class Entry:
    """A tensor's entry: shape in NumPy order, its type, bytes of data, and where they start in the file."""

    shape: tuple[int, ...]
    layout: Layout
    nbytes: int
    offset: int


def parse(buffer: Buffer, name: str) -> Header:
    """Check a whole header. Raises GGUFError: `name` of the file, the field, and the byte where it stands."""
    start = buffer[:8]
    if start[:4] != MAGIC:
        raise GGUFError(
            f"{name} is not a GGUF file (it begins with {start[:4].hex(' ')}; a GGUF file begins with GGUF)"
            if start
            else f"{name} is empty, not a GGUF file"
        )
    try:
        return _Parser(buffer, *_version(start)).parse()
    except GGUFError as e:
        raise GGUFError(f"{name}: {e}") from None


def read_entry(buffer: Buffer, order: str, at: int, data_start: int) -> tuple[Entry, int]:
    """The tensor entry whose dimension count stands at byte `at`, and the byte after it."""
    (dims,) = unpack_from(order + "I", buffer, at)
    *shape, type_id, offset = unpack_from(f"{order}{dims}QIQ", buffer, at + 4)
    layout = blocktypes.by_id(type_id)
    numpy_shape = tuple(reversed(shape))
    nbytes = blocktypes.total_bytes(layout, numpy_shape)
    return Entry(numpy_shape, layout, nbytes, data_start + offset), at + 16 + 8 * dims


def align_up(n: int, alignment: int) -> int:
    """The least multiple of `alignment` not below n."""
    return -(-n // alignment) * alignment


def _version(start: bytes) -> tuple[int, str]:
    """The version and byte order of a file from its first 8 bytes: the order that makes the version known."""
    if len(start) < 8:
        raise GGUFError(f"version at byte 4: the file ends at byte {len(start)}, within its header")
    (little,), (big,) = unpack("<I", start[4:]), unpack(">I", start[4:])
    for version, order in ((little, "<"), (big, ">")):
        if version in (2, 3):
            return version, order
    if 1 in (little, big):
        raise GGUFError("version at byte 4: GGUF version 1 is no longer read; convert the model again")
    raise GGUFError(f"version at byte 4: GGUF version {little} is not known (2 and 3 are)")


class _Parser:
    """One walk over a header; `at` is the next byte."""

    def __init__(self, buffer: Buffer, version: int, order: str) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.version = version
        self.order = order
        self.u32 = Struct(order + "I").unpack_from
        self.u64 = Struct(order + "Q").unpack_from
        self.strings: dict[int, StringArray] = {}
        self.walked = 0  # strings walked in Python so far

    def parse(self) -> Header:
        if self.size < 24:
            raise GGUFError(f"header at byte 8: the file ends at byte {self.size}, within its header")
        n_tensors, n_keys = self.u64(self.buffer, 8)[0], self.u64(self.buffer, 16)[0]
        left = self.size - 24
        self.bound(n_tensors, _TENSOR_BYTES, left, "tensor count at byte 8")
        self.bound(n_keys, _KEY_BYTES, left, "metadata count at byte 16")
        keys, at = self.parse_keys(n_keys)
        alignment = self.alignment(keys)
        tensors, at = self.parse_tensors(n_tensors, at, alignment)
        return Header(self.version, self.order, alignment, keys, tensors, align_up(at, alignment), self.strings)

    def bound(self, count: int, least: int, left: int, field: str) -> None:
        """`count` things of at least `least` bytes each must fit into `left` bytes."""
        if count * least > left:
            raise GGUFError(f"{field}: {count} cannot fit into the {left} bytes left in the file")

    def need(self, n: int, at: int, field: str) -> None:
        if n > self.size - at:
            raise GGUFError(f"{field} at byte {at}: needs {n} bytes, but the file ends at byte {self.size}")

    def name(self, at: int, what: str) -> tuple[str, int]:
        """A key or a tensor's name, and the byte after it."""
        self.need(8, at, f"length of {what}")
        n = self.u64(self.buffer, at)[0]
        if not 0 < n <= MAX_NAME:
            raise GGUFError(f"length of {what} at byte {at}: {n} is not between 1 and {MAX_NAME}")
        start = at + 8
        self.need(n, start, what)
        try:
            return self.buffer[start : start + n].decode(), start + n
        except UnicodeDecodeError:
            raise GGUFError(f"{what} at byte {start}: is not valid UTF-8") from None

    def parse_keys(self, count: int) -> tuple[dict[str, int], int]:
        keys: dict[str, int] = {}
        at = 24
        for i in range(count):
            key, value_at = self.name(at, f"metadata key {i}")
            if key in keys:
                raise GGUFError(f"metadata key {i} at byte {at}: {shown(key)} is there twice")
            keys[key] = value_at
            field = f"metadata {shown(key)}"
            self.need(4, value_at, f"type of {field}")
            type_id = self.u32(self.buffer, value_at)[0]
            at = self.value(value_at + 4, type_id, field, 1)
        return keys, at

    def value(self, at: int, type_id: int, field: str, depth: int) -> int:
        """Check the value of type `type_id` at byte `at`; returns the byte after it."""
        if type_id == ARRAY:
            return self.array_value(at, field, depth)
        if type_id == STRING:
            self.need(8, at, f"length of {field}")
            n = self.u64(self.buffer, at)[0]
            self.need(n, at + 8, field)
            return at + 8 + int(n)
        size = _SIZES.get(type_id)
        if size is None:
            raise GGUFError(f"type of {field} at byte {at - 4}: {type_id} is not a GGUF value type (0 to 12)")
        self.need(size, at, field)
        if type_id == BOOL and self.buffer[at : at + 1] > b"\1":
            raise GGUFError(f"{field} at byte {at}: {self.buffer[at : at + 1].hex()} is not a bool (00 or 01)")
        return at + size

    def array_value(self, at: int, field: str, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise GGUFError(f"{field} at byte {at}: arrays are nested more than {MAX_DEPTH} deep")
        if self.size - at < 12:
            self.need(12, at, f"array header of {field}")
        type_id, count = self.u32(self.buffer, at)[0], self.u64(self.buffer, at + 4)[0]
        size = _SIZES.get(type_id)
        if size is None:
            raise GGUFError(f"element type of {field} at byte {at}: {type_id} is not a GGUF value type (0 to 12)")
        start = at + 12
        least = size or (8 if type_id == STRING else 12)
        if count * least > self.size - start:  # asked here, because millions of small arrays need no message
            self.bound(count, least, self.size - start, f"length of {field} at byte {at + 4}")
        if type_id == STRING:
            return self.string_array(start, count, field, keep=depth == 1)
        if type_id == ARRAY:
            for i in range(count):
                start = self.array_value(start, f"{field}[{i}]", depth + 1)
            return start
        if type_id == BOOL and count:
            self.bools(start, count, field)
        return start + int(count) * size

    def bools(self, start: int, count: int, field: str) -> None:
        values = np.frombuffer(self.buffer, np.uint8, count, start)
        if values.max() > 1:
            i = int((values > 1).argmax())
            raise GGUFError(f"{field}[{i}] at byte {start + i}: is not a bool (00 or 01)")

    def string_array(self, start: int, count: int, field: str, keep: bool) -> int:
        compiled = count > COMPILED_FROM or (self.walked > 1 << 18 and count > 64)
        self.walked += 0 if compiled else count
        end, strings = walk(self.buffer, start, count, self.order, compiled)
        if isinstance(strings, int):
            raise GGUFError(f"{field}[{strings}] at byte {end}: the string passes the end of the file")
        if keep:
            self.strings[start] = strings
        return end

    def alignment(self, keys: dict[str, int]) -> int:
        at = keys.get("general.alignment")
        if at is None:
            return DEFAULT_ALIGNMENT
        if self.u32(self.buffer, at)[0] != UINT32:
            raise GGUFError(f"metadata 'general.alignment' at byte {at}: must be a uint32")
        n = int(self.u32(self.buffer, at + 4)[0])
        if n == 0 or n & (n - 1):
            raise GGUFError(f"metadata 'general.alignment' at byte {at + 4}: {n} is not a power of two")
        return n

    def parse_tensors(self, count: int, at: int, alignment: int) -> tuple[dict[str, int], int]:
        self.bound(count, _TENSOR_BYTES, self.size - at, "tensor count at byte 8")
        tensors: dict[str, int] = {}
        offsets, sizes = array("Q"), array("Q")
        for i in range(count):
            name, entry_at = self.name(at, f"name of tensor {i}")
            if name in tensors:
                raise GGUFError(f"name of tensor {i} at byte {at}: {shown(name)} is there twice")
            tensors[name] = entry_at
            entry, at = self.entry(entry_at, f"tensor {shown(name)}", alignment)
            offsets.append(entry.offset)
            sizes.append(entry.nbytes)
        self.extents(tensors, offsets, sizes, align_up(at, alignment))
        return tensors, at

    def entry(self, at: int, field: str, alignment: int) -> tuple[Entry, int]:
        """Check a tensor's entry by itself; its offset is still relative to the data section."""
        self.need(4, at, f"dimensions of {field}")
        dims = self.u32(self.buffer, at)[0]
        if dims > MAX_DIMS:
            raise GGUFError(f"dimensions of {field} at byte {at}: {dims} is above {MAX_DIMS}")
        self.need(8 * dims + 12, at + 4, f"entry of {field}")
        try:
            entry, end = read_entry(self.buffer, self.order, at, 0)
        except GGUFError as e:
            raise GGUFError(f"{field} at byte {at}: {e}") from None
        extent = max(entry.layout.nbytes, 8)  # of its values in any dtype that they may be asked for in
        for n in entry.shape:
            extent *= max(n, 1)
        if extent > _INDEX_MAX:  # also where a dimension of 0 makes the tensor itself empty
            raise GGUFError(f"shape of {field} at byte {at}: {list(entry.shape)} is beyond 64 bits")
        if entry.offset % alignment:
            raise GGUFError(f"offset of {field} at byte {end - 8}: {entry.offset} is not aligned to {alignment}")
        return entry, end

    def extents(self, tensors: dict[str, int], offsets: array[int], sizes: array[int], start: int) -> None:
        """Every tensor must end within the file, and no two may share a byte."""
        for (name, at), offset, nbytes in zip(tensors.items(), offsets, sizes, strict=True):
            limit = self.size if nbytes else max(self.size, start)
            if start + offset + nbytes > limit:
                raise GGUFError(
                    f"data of tensor {shown(name)} (entry at byte {at}): bytes {start + offset} to "
                    f"{start + offset + nbytes} pass the end of the file at byte {self.size}: it is cut short"
                )
        begin, length = np.frombuffer(offsets, np.uint64), np.frombuffer(sizes, np.uint64)
        filled = np.flatnonzero(length)
        by_offset = filled[np.argsort(begin[filled], kind="stable")]
        ends = begin[by_offset] + length[by_offset]
        clash = np.flatnonzero(ends[:-1] > begin[by_offset][1:])
        if len(clash):
            names = list(tensors)
            first, second = (names[int(i)] for i in by_offset[clash[0] : clash[0] + 2])
            raise GGUFError(
                f"data of tensor {shown(second)} (entry at byte {tensors[second]}): overlap those of {shown(first)}"
            )
