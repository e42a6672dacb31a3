"""Metadata values into bytes: types inferred for plain Python values, ranges checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import error as StructError
from struct import pack
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format.strings import StringArray
from ggufpy.format.values import BY_NAME, MAX_DEPTH, Typed, split_array_type
from ggufpy.support import checks

_INT_RANGES = (
    ("uint32", 0, 2**32),
    ("int32", -(2**31), 2**31),
    ("uint64", 0, 2**64),
    ("int64", -(2**63), 2**63),
)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def encode(value: Any, order: str, field: str) -> bytes:
    """The type number and the bytes of a value. `order` is "<" or ">", `field` names it in a GGUFError."""
    typed = infer(value, field)
    return pack(order + "I", _type_id(typed.type, field)) + _body(typed, order, field, 1)


def infer(value: Any, field: str) -> Typed:
    """A plain value with the type it is written as.

    bool → bool; int → the first of uint32, int32, uint64, int64 that holds it; float → float32 (float64
    beyond its range); str and bytes → string; a NumPy value or array → its own type; a list → an array of
    what holds all of its elements (of int32 where it is empty).
    """
    if isinstance(value, Typed):
        checks.text(f"{field}: the type", value.type)
        return value
    if isinstance(value, StringArray):
        return Typed("array[string]", value)
    if isinstance(value, np.ndarray):
        return _infer_numpy(value, field)
    if isinstance(value, (list, tuple)):
        return _infer_list(value, field)
    if isinstance(value, np.generic):
        return Typed(_numpy_name(value.dtype, field), value.item())
    if isinstance(value, (str, bytes)):
        return Typed("string", value)
    if isinstance(value, bool):
        return Typed("bool", value)
    if isinstance(value, int):
        return Typed(_int_type(value, value, field), value)
    if isinstance(value, float):
        return Typed(_float_type([value]), value)
    raise GGUFError(f"{field}: a {type(value).__name__} cannot be written; give bool, int, float, str or a list")


def _infer_numpy(value: np.ndarray[Any, Any], field: str) -> Typed:
    if value.ndim == 0:
        return infer(value[()], field)
    if value.ndim != 1:
        raise GGUFError(f"{field}: an array of {value.ndim} dimensions cannot be written; give nested lists")
    if value.dtype.kind in "USO":
        return _infer_list(value.tolist(), field)
    return Typed(f"array[{_numpy_name(value.dtype, field)}]", value)


def _infer_list(values: Sequence[Any], field: str) -> Typed:
    kinds = {type(v) for v in values}
    if not kinds:
        return Typed("array[int32]", values)
    if kinds == {bool}:
        return Typed("array[bool]", values)
    if kinds == {int}:
        return Typed(f"array[{_int_type(min(values), max(values), field)}]", values)
    if kinds <= {int, float}:
        return Typed(f"array[{_float_type(values)}]", values)
    if kinds <= {str, bytes}:
        return Typed("array[string]", values)
    typed = [infer(v, f"{field}[{i}]") for i, v in enumerate(values)]
    names = {t.type if split_array_type(t.type) is None else "array" for t in typed}
    if len(names) > 1:
        raise GGUFError(f"{field}: one array cannot hold {' and '.join(sorted(names))}")
    name = names.pop()
    return Typed(f"array[{name}]", typed if name == "array" else [t.value for t in typed])


def _int_type(low: int, high: int, field: str) -> str:
    for name, start, stop in _INT_RANGES:
        if start <= low and high < stop:
            return name
    raise GGUFError(f"{field}: whole numbers from {_short(low)} to {_short(high)} fit no 64-bit type")


def _float_type(values: Sequence[float]) -> str:
    for v in values:
        if _FLOAT32_MAX < abs(v) < float("inf"):
            return "float64"
    return "float32"


def _numpy_name(dtype: np.dtype[Any], field: str) -> str:
    name: str = dtype.name
    if name in ("string", "array") or name not in BY_NAME:
        raise GGUFError(f"{field}: GGUF metadata has no type for NumPy's {name}; convert it, to float32 for example")
    return name


def _type_id(name: str, field: str) -> int:
    if split_array_type(name) is not None:
        return BY_NAME["array"].id
    if name == "array" or name not in BY_NAME:
        known = ", ".join(t for t in BY_NAME if t != "array")
        raise GGUFError(f"{field}: {name!r} is not a GGUF value type ({known}, array[...])")
    return BY_NAME[name].id


def _body(typed: Typed, order: str, field: str, depth: int) -> bytes:
    """The bytes of a value, without the number of its type."""
    element = split_array_type(typed.type)
    if element is not None:
        return _array(element, typed.value, order, field, depth)
    if typed.type == "string":
        return _string(typed.value, order, field)
    return _numbers(typed.type, [typed.value], order, field)


def _array(element: str, values: Any, order: str, field: str, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise GGUFError(f"{field}: arrays are nested more than {MAX_DEPTH} deep")
    flat = isinstance(values, np.ndarray) and values.ndim == 0
    if flat or isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise GGUFError(f"{field}: array[{element}] takes a list, not {type(values).__name__}")
    inner = "array" if element == "array" else element
    head = pack(order + "IQ", BY_NAME["array"].id if inner == "array" else _type_id(inner, field), len(values))
    if element == "string":
        return head + b"".join(_string(v, order, field) for v in values)
    if element != "array" and split_array_type(element) is None:
        return head + _numbers(element, values, order, field)
    parts = [head]
    for i, v in enumerate(values):
        name = f"{field}[{i}]"
        typed = infer(v, name) if element == "array" or isinstance(v, Typed) else Typed(element, v)
        if split_array_type(typed.type) is None or (element not in ("array", typed.type)):
            raise GGUFError(f"{name}: is {typed.type}, not {element}")
        parts.append(_body(typed, order, name, depth + 1))
    return b"".join(parts)


def _string(value: Any, order: str, field: str) -> bytes:
    if isinstance(value, str):
        try:
            value = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise GGUFError(f"{field}: {value[:40]!r} is not valid Unicode text") from None
    if not isinstance(value, bytes):
        raise GGUFError(f"{field}: a string takes str or bytes, not {type(value).__name__}")
    return pack(order + "Q", len(value)) + value


def _numbers(name: str, values: Sequence[Any] | np.ndarray[Any, Any], order: str, field: str) -> bytes:
    """Numbers of one type; a bool takes a byte. GGUFError where a value does not fit."""
    what = BY_NAME[name]
    if isinstance(values, np.ndarray):
        if values.ndim == 1 and values.dtype.name == name:  # bits kept as they are, NaN payloads too
            return values.astype(values.dtype.newbyteorder(order)).tobytes()
        values = values.tolist()
    fits = _FITS[what.code if name != "bool" else "?"]
    for i, v in enumerate(values):
        if not fits(v):
            where = field if len(values) == 1 else f"{field}[{i}]"
            raise GGUFError(f"{where}: {_short(v)} ({type(v).__name__}) is not a {name}")
    try:
        if name == "bool":
            return bytes(1 if v else 0 for v in values)
        return pack(f"{order}{len(values)}{what.code}", *values)
    except (StructError, OverflowError):
        low, high = _short(min(values)), _short(max(values))
        raise GGUFError(f"{field}: {low if low == high else f'{low} to {high}'} does not fit {name}") from None


def _short(v: Any) -> str:
    """A value as it stands in an error; Python itself refuses to print integers of thousands of digits."""
    if isinstance(v, int) and v.bit_length() > 256:
        return f"a number of {v.bit_length()} bits"
    return " ".join(str(v).split())[:60]


def _is_int(v: Any) -> bool:
    return isinstance(v, (int, np.integer)) and not isinstance(v, bool)


def _is_float(v: Any) -> bool:
    return isinstance(v, (int, float, np.integer, np.floating)) and not isinstance(v, bool)


def _is_bool(v: Any) -> bool:
    return isinstance(v, (bool, np.bool_))


_FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys("BbHhIiQq", _is_int),
    **dict.fromkeys("fd", _is_float),
    "?": _is_bool,
}
