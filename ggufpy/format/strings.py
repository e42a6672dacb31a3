"""Arrays of strings, walked once and decoded when asked for."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import overload

import numpy as np
from numpy.typing import NDArray

Buffer = mmap.mmap | bytes
Ints = NDArray[np.int64]

COMPILED_FROM = 4096  # strings; below this a Python loop is done before compiled code is loaded


class StringArray(Sequence[bytes]):
    """The strings of a metadata array, as bytes.

    `buffer` is the whole file (uint8, read-only); string i is buffer[starts[i] : starts[i] + lengths[i]],
    both int64 arrays of the array's length.
    """

    __slots__ = ("buffer", "lengths", "starts")

    def __init__(self, buffer: Buffer, starts: Ints, lengths: Ints) -> None:
        self.buffer: NDArray[np.uint8] = np.frombuffer(buffer, np.uint8)
        self.starts = starts
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, i: int) -> bytes: ...
    @overload
    def __getitem__(self, i: slice) -> list[bytes]: ...
    def __getitem__(self, i: int | slice) -> bytes | list[bytes]:
        """String i as bytes, or a list of them for a slice."""
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        start = int(self.starts[i])
        return self.buffer[start : start + int(self.lengths[i])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        if not len(self):
            return
        base = int(self.starts[0])
        end = int(self.starts[-1]) + int(self.lengths[-1])
        chunk = self.buffer[base:end].tobytes()
        for start, length in zip((self.starts - base).tolist(), self.lengths.tolist(), strict=True):
            yield chunk[start : start + length]

    def decode(self) -> list[str]:
        """All strings as text; bytes that are not UTF-8 become lone surrogates ("surrogateescape")."""
        return [s.decode("utf-8", "surrogateescape") for s in self]


def walk(buffer: Buffer, at: int, count: int, order: str, compiled: bool) -> tuple[int, StringArray | int]:
    """Walk `count` strings (64-bit length, bytes) from byte `at`.

    Returns the byte after the last and the array, or the byte where string i starts and i, where that one
    does not end within the file. The caller has bounded `count` by the bytes left. `order` is "<" or ">".
    """
    if compiled:
        return _walk_compiled(buffer, at, count, order)
    size = len(buffer)
    length_at = Struct(order + "Q").unpack_from
    starts: list[int] = []
    lengths: list[int] = []
    for i in range(count):
        start = at + 8
        if start > size:
            return at, i
        (n,) = length_at(buffer, at)
        if n > size - start:
            return at, i
        starts.append(start)
        lengths.append(n)
        at = start + n
    return at, StringArray(buffer, np.array(starts, np.int64), np.array(lengths, np.int64))


def _walk_compiled(buffer: Buffer, at: int, count: int, order: str) -> tuple[int, StringArray | int]:
    from ggufpy.format import walking

    starts = np.empty(count, np.int64)
    lengths = np.empty(count, np.int64)
    data = np.frombuffer(buffer, np.uint8)
    native = "<" if np.little_endian else ">"
    end = walking.walk_strings(data, at, len(buffer), count, order != native, starts, lengths)
    if end >= 0:
        return end, StringArray(buffer, starts, lengths)
    bad = -1 - end
    return (int(starts[bad - 1] + lengths[bad - 1]) if bad else at), bad
