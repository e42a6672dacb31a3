"""Block types of GGUF tensors: one module each in `types/`, whose file name is the type's name in lower case.

`dequantize` and `quantize` work on arrays; `get` and `by_id` return the `BlockType` behind them. Adding a type is
adding a file.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ggufpy.errors import GGUFError
from ggufpy.quants import types
from ggufpy.quants.base import (
    CACHED,
    BlockType,
    Bytes,
    Field,
    Fields,
    FloatPanel,
    Floats,
    IntPanel,
    Panel,
)
from ggufpy.quants.encoding import Encoder, NotFinite
from ggufpy.support import checks
from ggufpy.support.cores import default_threads

__all__ = [
    "BlockType",
    "Field",
    "Fields",
    "FloatPanel",
    "IntPanel",
    "Panel",
    "by_id",
    "dequantize",
    "get",
    "names",
    "quantize",
]

# An index of numbers (ggml.h), so that opening a file loads the types in it alone: loading all takes 35 ms. A type that
# is not in it is found all the same.
NUMBERS = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k",
    12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s",
    20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64",
    29: "iq1_m", 30: "bf16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4", 41: "q1_0", 42: "q2_0",
}  # fmt: skip
LARGE = 1 << 24  # weights that compiled encoders are given at a time, to share among threads
# Numbers that GGUF files no longer use, from ggml.h: what they were.
REMOVED = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}  # fmt: skip


def get(name: str) -> BlockType:
    """The type called `name` ("Q4_K", any case). GGUFError, with names that are close, if there is none."""
    if not isinstance(name, str):
        raise GGUFError(f"a tensor type is named by a string such as 'Q4_K', not {checks.shown(name)}")
    module = name.lower()
    if module in _modules():
        return _load(module)
    import difflib  # only for the message: it costs a millisecond and a half

    close = difflib.get_close_matches(name.upper(), [known.upper() for known in _modules()], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known types: {', '.join(names())}"
    raise GGUFError(f"unknown tensor type {name[:40]!r}: {hint}")


def by_id(number: int) -> BlockType:
    """The type numbered `number` in a file's tensor table. GGUFError if it was removed or is not known."""
    if number in NUMBERS:
        return _load(NUMBERS[number])
    if number in _by_id():
        return _by_id()[number]
    if number in REMOVED:
        raise GGUFError(f"tensor type {number} ({REMOVED[number]}) was removed from GGUF: convert the model again")
    raise GGUFError(
        f"tensor type {number} is not known (the newest known is {max(_by_id())}): "
        "the file is damaged or newer than this program"
    )


def names() -> tuple[str, ...]:
    """The name of every type, in the order of their numbers."""
    return tuple(block.name for block in _by_id().values())


def dequantize(blocks: NDArray[np.uint8], name: str) -> Floats:
    """uint8 (..., bytes a row) → float32 (..., n). GGUFError if they are not whole blocks of type `name`."""
    block = get(name)
    try:
        array = np.asarray(blocks)
    except ValueError as error:  # lists of several lengths
        raise GGUFError(f"blocks of {block.name} cannot be made an array: {error}") from None
    return block.decode(array)


def quantize(x: ArrayLike, name: str, importance: ArrayLike | None = None) -> Bytes:
    """float32 (..., n) → uint8 (..., bytes a row) of type `name`; other real numbers are converted first.

    `importance`, (n,) or anything that broadcasts to x, says how much an error of each weight matters.
    GGUFError if n is not a multiple of the block, a value is not finite (float types take any) or does not
    fit the type, or the type cannot be written yet.
    """
    block = get(name)
    if not block.encodes:
        able = ", ".join(known.name for known in _by_id().values() if known.encodes)
        raise GGUFError(f"{block.name} cannot be written yet; types that can: {able}")
    array = _numbers(x, "x")
    if array.ndim == 0 or array.shape[-1] % block.weights:
        raise GGUFError(
            f"x has shape {array.shape}: rows of {block.name} must be whole blocks of {block.weights} weights"
        )
    width = array.shape[-1] // block.weights * block.nbytes
    out = np.empty((*array.shape[:-1], width), dtype=np.uint8)
    if out.size:
        weight = None if importance is None else _importance(importance, array.shape)
        if weight is None and block.needs_importance:
            raise GGUFError(f"{block.name} needs an importance for every column (ggufpy imatrix measures them)")
        try:
            _encode(block, array, weight, out)
        except NotFinite:
            _refuse(array, lambda part: ~np.isfinite(part), "x", "is not a finite float32")
            raise
    return out


def _encode(block: BlockType, x: NDArray[Any], importance: NDArray[Any] | None, out: Bytes) -> None:
    """x (..., n), importance (1, n) or of x's shape → out (..., bytes a row), some rows at a time."""
    if x.ndim > 2 and importance is not None and importance.shape == x.shape:
        for i in range(x.shape[0]):  # importance may be a broadcast view: flattening it would copy it out
            _encode(block, x[i], importance[i], out[i])
        return
    rows, blocks = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
    if importance is not None:
        importance = importance.reshape(-1, x.shape[-1])
    plain = block.encoder == "numpy"
    kind = x.dtype if not plain and x.dtype in (np.float32, np.float16) else np.dtype(block.source)
    step = max(1, (CACHED if plain else LARGE) // x.shape[-1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            source = np.ascontiguousarray(rows[part], dtype=kind.newbyteorder("="))
        if plain:
            blocks[part] = block.encode(source)
            continue
        weight = None
        if importance is not None:
            weight = np.ascontiguousarray(importance if len(importance) == 1 else importance[part], dtype=np.float32)
        Encoder(block, default_threads()).encode(source, weight, blocks[part])


def _importance(importance: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """(1, n), or a view of `shape`."""
    weight = _numbers(importance, "importance")
    try:
        full = np.broadcast_to(weight, shape)
    except ValueError:
        raise GGUFError(
            f"importance of shape {weight.shape} does not fit x of shape {shape}: pass ({shape[-1]},)"
        ) from None
    _refuse(
        np.atleast_1d(weight),
        lambda part: ~((part >= 0) & (part <= 1e20)),  # larger ones could overflow the search
        "importance",
        "is not between 0 and 1e20",
    )
    if math.prod(weight.shape[:-1]) == 1:
        return np.broadcast_to(weight.reshape(-1), (1, shape[-1]))
    return full


def _numbers(x: ArrayLike, what: str) -> NDArray[Any]:
    try:
        array = np.asarray(x)
    except ValueError as error:  # lists of several lengths
        raise GGUFError(f"{what} cannot be made an array: {error}") from None
    if array.dtype.kind not in "fiu":
        raise GGUFError(f"{what} must be an array of real numbers, got dtype {array.dtype}")
    return array


def _refuse(x: NDArray[Any], wrong: Callable[[Floats], NDArray[np.bool_]], what: str, why: str) -> None:
    """GGUFError that names the first element of x for which, as float32, `wrong` holds."""
    flat = x.reshape(-1)
    for start in range(0, flat.size, CACHED):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            bad = wrong(flat[start : start + CACHED].astype(np.float32, copy=False))
        if bad.any():
            where = np.unravel_index(start + int(bad.argmax()), x.shape)
            at = ", ".join(str(int(i)) for i in where)
            raise GGUFError(f"{what}[{at}] is {x[where]}: it {why}")


@cache
def _modules() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(types.__path__))


@cache
def _load(module: str) -> BlockType:
    block: BlockType = import_module(f"{types.__name__}.{module}").BLOCK
    return block


@cache
def _by_id() -> dict[int, BlockType]:
    return {block.id: block for block in sorted(map(_load, _modules()), key=lambda block: block.id)}
