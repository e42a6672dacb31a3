"""Files of safetensors: a header of JSON, then the bytes of tensors, which are mapped and read when they are wanted.

A header is checked whole before anything is offered: no holes, no overlaps, nothing beyond the file, no name twice, and
bytes that shape and dtype account for. Layout: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format.rows import PIECE, Bytes, Rows, plain_bytes
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

HEADER_MAX = 100_000_000  # bytes, as in the library
DIMS_MAX = 8
DTYPES: Mapping[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|u1",
    "F8_E4M3": "|u1", "F8_E5M2": "|u1", "F8_E8M0": "|u1",
}  # fmt: skip
_AS_THEY_ARE = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8")


class _Unknown(GGUFError):
    """What another version of the format may have."""


class Stored(Rows):
    """A tensor as it lies in a checkpoint: `dtype` is safetensors' name of what its numbers are.

    Floats and whole numbers of a type that GGUF has are themselves, floats of 8 bits are BF16, which holds them all.
    """

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...], buffer: Any, offset: int = 0) -> None:
        self.name, self.dtype = name, dtype
        self._shape, self._buffer, self._offset = shape, buffer, offset

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def type(self) -> str:
        return self.dtype if self.dtype in _AS_THEY_ARE else "BF16"

    @property
    def array(self) -> NDArray[Any]:
        """The numbers, of `shape`, read-only; those that NumPy has no dtype for as the bits that they are."""
        count = math.prod(self._shape)
        if not count:
            return np.empty(self._shape, DTYPES[self.dtype])
        return np.frombuffer(self._buffer, DTYPES[self.dtype], count, self._offset).reshape(self._shape)

    @property
    def size(self) -> int:
        """Bytes in the checkpoint."""
        return math.prod(self._shape) * np.dtype(DTYPES[self.dtype]).itemsize

    def pieces(self) -> Iterator[NDArray[Any]]:
        """All numbers, some at a time."""
        flat = self.array.reshape(-1)
        for start in range(0, flat.size, PIECE):
            yield flat[start : start + PIECE]

    def rows(self, start: int, stop: int) -> Bytes:
        raw = self.array.reshape(-1, self.columns)[start:stop]
        if self.dtype in _AS_THEY_ARE:
            return plain_bytes(raw)
        if self.dtype not in ("F8_E4M3", "F8_E5M2"):
            raise GGUFError(f"{self.name} is {self.dtype}, which are no weights by themselves")
        return plain_bytes(bf16_of_eight(self.dtype)[raw])

    def release(self) -> None:
        if isinstance(self._buffer, mmap.mmap) and sys.platform != "win32" and self.size:
            start = self._offset - self._offset % mmap.PAGESIZE
            self._buffer.madvise(mmap.MADV_DONTNEED, start, self._offset + self.size - start)

    def __repr__(self) -> str:
        return f"Stored({self.name!r}, {self.dtype}, {self._shape})"


class Part(Stored):
    """One of a stack of tensors, which are the first dimension of `stack`; a matrix that is `turned` has its rows and
    columns exchanged."""

    def __init__(self, stack: Stored, index: int, turned: bool = False) -> None:
        shape = stack.shape[1:]
        super().__init__(stack.name, stack.dtype, shape[::-1] if turned else shape, None)
        self._stack, self._index, self._turned = stack, index, turned

    @property
    def array(self) -> NDArray[Any]:
        part: NDArray[Any] = self._stack.array[self._index, ...]
        return part.T if self._turned else part

    def release(self) -> None:
        self._stack.release()


def floats_of_eight(dtype: str) -> NDArray[np.float32]:
    """What each byte stands for: E4M3 (no infinity; 0x7f and 0xff are NaN) or E5M2 (as IEEE 754), (256,).

    Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433
    """
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent, mantissa, bias = (
        ((codes >> 3) & 15, (codes & 7) / 8, 7) if dtype == "F8_E4M3" else ((codes >> 2) & 31, (codes & 3) / 4, 15)
    )
    values = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - float(bias)))
    if dtype == "F8_E4M3":
        values[(codes & 0x7F) == 0x7F] = np.nan
    else:
        values[exponent == 31] = np.where(mantissa[exponent == 31] == 0, np.inf, np.nan)
    return (sign * values).astype(np.float32)


def bf16_of_eight(dtype: str) -> NDArray[np.uint16]:
    """The bits of bfloat16 of each byte, (256,): exact, for it has more bits of both kinds."""
    bits: NDArray[np.uint16] = (floats_of_eight(dtype).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return bits


@dataclass(frozen=True)
class SafetensorsFile:
    """An open file: its tensors by name, in the order of their bytes, and what its header says besides."""

    path: Path
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]


def open_safetensors(path: Path) -> SafetensorsFile:
    """Maps a file. Raises GGUFError, naming the file, for whatever is wrong with it; nothing of the data is read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise GGUFError(f"it has {size} bytes, too few for a file of safetensors")
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(buffer[:8], "little")
        if length > min(HEADER_MAX, size - 8):
            raise GGUFError(f"its header would take {length:,} bytes, and the file has {size:,}: it is cut short, or "
                            "none of safetensors")  # fmt: skip
        header = _parsed(buffer[8 : 8 + length])
        metadata = _texts(header.pop("__metadata__", {}))
        tensors = _tensors(header, buffer, 8 + length, size)
    except OSError as e:
        raise GGUFError(f"{path} cannot be read: {e.strerror or e}") from None
    except GGUFError as e:
        hint = "" if isinstance(e, _Unknown) else ": download the file again"
        raise GGUFError(f"{path}: {e}{hint}") from None
    return SafetensorsFile(path, tensors, metadata)


def _parsed(raw: bytes) -> dict[str, Any]:
    """The header's object. GGUFError for what is not JSON, and for a name twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise GGUFError(f"its header has {shown(twice)} twice")
        return made

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    except GGUFError:
        raise
    except (ValueError, RecursionError):
        raise GGUFError("its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise GGUFError("its header is not an object of JSON")
    return header


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise GGUFError("its __metadata__ is not an object of texts")
    return value


def _tensors(header: Mapping[str, Any], buffer: mmap.mmap, start: int, size: int) -> dict[str, Stored]:
    """Every tensor, if together they fill what follows the header without holes or overlaps."""
    entries = []
    for name, entry in header.items():
        dtype, shape, (begin, end) = _entry(name, entry)
        wanted = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if end - begin != wanted:
            raise GGUFError(
                f"tensor {shown(name)} has {end - begin:,} bytes, and {dtype} {list(shape)} takes {wanted:,}"
            )
        entries.append((begin, end, name, dtype, shape))
    entries.sort(key=lambda entry: entry[:2])
    at = 0
    for begin, end, name, _, _ in entries:
        if begin != at:
            what = "overlaps what is before it" if begin < at else f"leaves {begin - at:,} bytes before it unused"
            raise GGUFError(f"tensor {shown(name)} {what}")
        at = end
    if start + at != size:
        short = ": it is cut short" if start + at > size else ""
        raise GGUFError(f"its tensors take {start + at:,} bytes, and it has {size:,}{short}")
    return {name: Stored(name, dtype, shape, buffer, start + begin) for begin, _, name, dtype, shape in entries}


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """dtype, shape and the offsets of a tensor, each of its right kind."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise GGUFError(f"tensor {shown(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _Unknown(f"tensor {shown(name)} is of dtype {shown(str(dtype))}, which ggufpy does not know")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise GGUFError(f"tensor {shown(name)}: its {what} is no list of whole numbers from 0")
    if len(shape) > DIMS_MAX or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise GGUFError(f"tensor {shown(name)}: its shape or data_offsets cannot be")
    return dtype, tuple(shape), (offsets[0], offsets[1])
