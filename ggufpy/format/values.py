"""The thirteen metadata value types of GGUF, and the explicit values that callers may hand to a writer.

Names are the ones used everywhere in this package: "uint8" ... "float64", "bool", "string" and "array[...]".
Source of the numbering: the GGUF specification in ggml's docs (gguf.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass


class ValueType(NamedTuple):
    """One value type: its number in the file, its name, struct code and bytes (0: of varying length)."""

    id: int
    name: str
    code: str
    size: int


VALUE_TYPES = (
    ValueType(0, "uint8", "B", 1),
    ValueType(1, "int8", "b", 1),
    ValueType(2, "uint16", "H", 2),
    ValueType(3, "int16", "h", 2),
    ValueType(4, "uint32", "I", 4),
    ValueType(5, "int32", "i", 4),
    ValueType(6, "float32", "f", 4),
    ValueType(7, "bool", "B", 1),
    ValueType(8, "string", "", 0),
    ValueType(9, "array", "", 0),
    ValueType(10, "uint64", "Q", 8),
    ValueType(11, "int64", "q", 8),
    ValueType(12, "float64", "d", 8),
)
BY_NAME = {t.name: t for t in VALUE_TYPES}
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9

ORDERS = {"little": "<", "big": ">"}

MAX_DEPTH = 16  # arrays within arrays
MAX_NAME = 65_535  # bytes of a key or of a tensor's name, as the specification has it
MAX_DIMS = 4


@dataclass(frozen=True)
class Typed:
    """A metadata value of a stated type: `Typed("uint16", 5)`, `Typed("array[int8]", [1, 2])`.

    The elements of an "array[array]" are themselves `Typed`, so that each keeps its own element type;
    "array[array[int8]]" takes plain lists.
    """

    type: str
    value: Any


@dataclass(frozen=True)
class Blocks:
    """A tensor given as its bytes: uint8 (..., bytes a row), in the little-endian layout of `type` ("Q4_K").

    `shape` is in NumPy order and counts weights; left out, it follows from the shape of `data`.
    """

    data: NDArray[np.uint8]
    type: str
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TensorInfo:
    """What a `Writer` must know of a tensor before its data: name, shape in NumPy order, type name."""

    name: str
    shape: tuple[int, ...]
    type: str


def shown(name: str) -> str:
    """A key or name as it stands in an error: quoted, on one line, not too long."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def split_array_type(name: str) -> str | None:
    """The element type inside "array[...]", or None where `name` is not an array type."""
    if name.startswith("array[") and name.endswith("]"):
        return name[6:-1]
    return None


def check_name(name: object, what: str) -> bytes:
    """The UTF-8 bytes of a metadata key or tensor name to be written; GGUFError where it cannot be one."""
    if not isinstance(name, str):
        raise GGUFError(f"{what} must be a string, not {type(name).__name__}")
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise GGUFError(f"{what} {shown(name)} is not valid Unicode text") from None
    if not 0 < len(raw) <= MAX_NAME:
        raise GGUFError(f"{what} has {len(raw)} bytes; from 1 to {MAX_NAME} are allowed")
    return raw
