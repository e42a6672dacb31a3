"""The metadata of a file as a mapping; a value is decoded when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import unpack_from
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format.header import Header
from ggufpy.format.strings import Buffer, StringArray, walk
from ggufpy.format.values import ARRAY, BOOL, STRING, VALUE_TYPES, Typed, shown

_TYPES = {t.id: t for t in VALUE_TYPES}


class MissingKeyError(GGUFError, KeyError):
    """A metadata key or a tensor that the file does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class Metadata(Mapping[str, Any]):
    """Keys in file order → plain Python values: int, float, bool, str, and lists of them.

    Text that is not UTF-8 keeps its bytes as lone surrogates ("surrogateescape"). A value stays decoded once
    it was asked for. A missing key raises MissingKeyError, which is a GGUFError and a KeyError.
    """

    def __init__(self, buffer: Buffer, header: Header) -> None:
        self._buffer = buffer
        self._header = header
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = _plain(self.typed(key).value)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._header.keys)

    def __len__(self) -> int:
        return len(self._header.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._header.keys

    def type(self, key: str) -> str:
        """The GGUF type of a value: "uint32", "string", "array[float32]"; "array[array]" if nested."""
        at = self._at(key)
        kind = self._u32(at)
        if kind != ARRAY:
            return _TYPES[kind].name
        return f"array[{_TYPES[self._u32(at + 4)].name}]"

    def count(self, key: str) -> int:
        """The number of elements of an array, without decoding it; GGUFError for another type."""
        at = self._at(key)
        if self._u32(at) != ARRAY:
            raise GGUFError(f"metadata {shown(key)} is {self.type(key)}, not an array")
        return int(unpack_from(self._header.order + "Q", self._buffer, at + 8)[0])

    def strings(self, key: str) -> StringArray:
        """An array of strings as bytes, not decoded; GGUFError where the value is of another type."""
        value = self.typed(key).value
        if not isinstance(value, StringArray):
            raise GGUFError(f"metadata {shown(key)} is {self.type(key)}, not array[string]")
        return value

    def array(self, key: str) -> NDArray[Any]:
        """A numeric or bool array as a NumPy array in native byte order; GGUFError for another type."""
        value = self.typed(key).value
        if not isinstance(value, np.ndarray):
            raise GGUFError(f"metadata {shown(key)} is {self.type(key)}, not an array of numbers")
        return value.astype(value.dtype.newbyteorder("="))

    def typed(self, key: str) -> Typed:
        """The value with its exact type, as a writer takes it.

        Arrays of numbers are NumPy views of the file, those of strings StringArray, of arrays lists of Typed.
        """
        at = self._at(key)
        return self._read(self._u32(at), at + 4)[0]

    def typed_items(self) -> dict[str, Typed]:
        """All values with their exact types, in file order: a dict to edit and to write."""
        return {key: self.typed(key) for key in self}

    def _at(self, key: str) -> int:
        try:
            return self._header.keys[key]
        except KeyError:
            raise MissingKeyError(f"there is no metadata key {shown(str(key))} in the file") from None

    def _u32(self, at: int) -> int:
        return int(unpack_from(self._header.order + "I", self._buffer, at)[0])

    def _read(self, kind: int, at: int) -> tuple[Typed, int]:
        """The value of a checked file at byte `at`, and the byte after it."""
        if kind == ARRAY:
            return self._read_array(at)
        order = self._header.order
        if kind == STRING:
            end = at + 8 + unpack_from(order + "Q", self._buffer, at)[0]
            return Typed("string", self._buffer[at + 8 : end].decode("utf-8", "surrogateescape")), end
        what = _TYPES[kind]
        (value,) = unpack_from(order + what.code, self._buffer, at)
        return Typed(what.name, bool(value) if kind == BOOL else value), at + what.size

    def _read_array(self, at: int) -> tuple[Typed, int]:
        order = self._header.order
        kind, count = unpack_from(order + "IQ", self._buffer, at)
        start = at + 12
        what = _TYPES[kind]
        name = f"array[{what.name}]"
        if kind == STRING:
            kept = self._header.strings.get(start)
            if kept is not None:  # an array of the top level: nothing here needs its end
                return Typed(name, kept), start
            end, strings = walk(self._buffer, start, count, order, compiled=False)
            return Typed(name, strings), end
        if kind == ARRAY:
            inner: list[Typed] = []
            for _ in range(count):
                value, start = self._read_array(start)
                inner.append(value)
            return Typed(name, inner), start
        dtype = np.dtype("?" if kind == BOOL else order + what.code)
        return Typed(name, np.frombuffer(self._buffer, dtype, count, start)), start + count * what.size


def _plain(value: Any) -> Any:
    """A typed value as plain Python: numbers, strings, lists."""
    if isinstance(value, StringArray):
        return value.decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_plain(v.value) for v in value]
    return value
