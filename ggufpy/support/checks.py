"""Checks of arguments: a value in, the value out, or one line that says which argument it was and what is wanted."""

from __future__ import annotations

import math
import operator
import os
import reprlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from numbers import Integral, Real
from typing import Any

from ggufpy.errors import GGUFError

SEED_LIMIT = 1 << 64
MOST_NAME = 80  # characters of a name that is not known


def shown(value: object) -> str:
    """A value of any kind, short and on one line, with its type where that is not plain to see."""
    text = " ".join(reprlib.repr(value).split())
    kind = type(value).__name__
    plain = value is None or kind in text or isinstance(value, str | bytes | bool | int | float | list | tuple | dict)
    return text if plain else f"{kind} {text}"


def meant(name: str, known: Iterable[str]) -> str:
    """What a name that is not `known` was probably to be, as the end of a line that says so; empty where none is near.

    A name may be as long as its sender likes: what is looked at of it is short.
    """
    import difflib

    near = difflib.get_close_matches(name[:MOST_NAME], sorted(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def whole(name: str, value: object, least: int | None = None) -> int:
    """A whole number, at least `least`."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        integer = operator.index(value)
        if least is None or integer >= least:
            return integer
    bound = "" if least is None else f" of at least {least}"
    raise GGUFError(f"{name} is {shown(value)}; it must be a whole number{bound}")


def seed(name: str, value: object) -> int | None:
    """A seed, or None."""
    if value is None:
        return None
    chosen = whole(name, value)
    if not -1 <= chosen < SEED_LIMIT:
        raise GGUFError(f"{name} is {shown(chosen)}, and must be from 0 to 2^64 - 1, or -1 for another one every time")
    return chosen


def number(name: str, value: object) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise GGUFError(f"{name} is {shown(value)}; it must be a number")
    try:
        real = float(value)
    except OverflowError:  # a whole number that no float is near
        real = math.inf
    if not math.isfinite(real):
        raise GGUFError(f"{name} is {real}, and must be finite")
    return real


def flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise GGUFError(f"{name} is {shown(value)}; it must be True or False")
    return value


def switch(name: str, value: object) -> bool:
    """True or False; None, as JSON has it, is False."""
    return value is not None and flag(name, value)


def text(name: str, value: object) -> str:
    """A str."""
    if not isinstance(value, str):
        raise GGUFError(f"{name} is {shown(value)}; it must be a text (str)")
    return value


def path(name: str, value: object, wanted: str = "the path of a file (str or Path)") -> str:
    """The path of a file, as a str."""
    if isinstance(value, str | os.PathLike):
        given = os.fspath(value)
        if isinstance(given, str):
            return given
    raise GGUFError(f"{name} is {shown(value)}; {wanted} is wanted")


def mapping(name: str, value: object) -> Mapping[Any, Any]:
    """A mapping."""
    if not isinstance(value, Mapping):
        raise GGUFError(f"{name} is {shown(value)}; a mapping (dict) is wanted")
    return value


def items(name: str, value: object, wanted: str) -> list[Any]:
    """What a list, an array or another iterable holds; texts, bytes, mappings and sets are not `wanted`."""
    if not isinstance(value, str | bytes | bytearray | memoryview | Mapping | AbstractSet):
        try:
            return [*value]  # type: ignore[misc]
        except TypeError:
            pass  # no iterable, or an array of a single value
    raise GGUFError(f"{name} is {shown(value)}; {wanted} is wanted")


def tokens(name: str, value: object, n_vocab: int, wanted: str = "a list of token ids (whole numbers)") -> list[int]:
    """Token ids below `n_vocab`, from a list or an integer array, as plain ints."""
    ids = items(name, value, wanted)
    for i, token in enumerate(ids):
        if isinstance(token, bool) or not isinstance(token, Integral):
            raise GGUFError(f"{name}[{i}] is {shown(token)}; token ids are whole numbers")
        if not 0 <= token < n_vocab:  # type: ignore[operator]
            raise GGUFError(f"{name}[{i}]: token {token} is not in the vocabulary of {n_vocab:,} tokens")
    return list(map(int, ids))
