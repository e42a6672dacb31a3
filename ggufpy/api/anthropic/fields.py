"""Checks of a body's fields, named as Anthropic names places: `messages.0.content.1.text`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support import checks

Record = dict[str, Any]
CACHE_FIELDS = frozenset({"type", "ttl", "scope"})


def wrong(place: str, told: str) -> GGUFError:
    """The error of a field."""
    return GGUFError(f"{place}: {told}")


def kind(value: object) -> str:
    """What a value of JSON is, in JSON's words."""
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "str": "a text", "bool": "true or false"}
    return names.get(type(value).__name__, "a number")


def named(name: str) -> str:
    """A field's name as it can be told: short, and on one line."""
    return repr(name[:60])[1:-1]


def text(place: str, value: object, may_be_empty: bool = True) -> str:
    """A text."""
    if not isinstance(value, str):
        raise wrong(place, f"it is {kind(value)}, and must be a text")
    if not (value or may_be_empty):
        raise wrong(place, "it is empty, and must not be")
    return value


def mapping(place: str, value: object) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise wrong(place, f"it is {kind(value)}, and must be an object")
    return value


def items(place: str, value: object, most: int | None = None) -> list[Any]:
    """A list, of `most` items at most."""
    if not isinstance(value, list):
        raise wrong(place, f"it is {kind(value)}, and must be a list")
    if most is not None and len(value) > most:
        raise wrong(place, f"there are {len(value):,}, and may be {most:,} at most")
    return value


def whole(place: str, value: object, least: int) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        shown = value if isinstance(value, float) else kind(value)
        raise wrong(place, f"it is {shown}, and must be a whole number")
    if value < least:
        raise wrong(place, f"it is {value}, and must be {least} or more")
    return value


def number(place: str, value: object, most: float) -> float:
    """A number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(place, f"it is {kind(value)}, and must be a number")
    if not 0 <= value <= most:
        raise wrong(place, f"it is {value}, and must be from 0 to {most:g}")
    return float(value)


def switch(place: str, value: object) -> bool:
    """True or false; null is false."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong(place, f"it is {kind(value)}, and must be true or false")
    return value


def choice(place: str, value: object, known: Collection[str]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in known:
        shown = repr(value[:60]) if isinstance(value, str) else kind(value)
        raise wrong(place, f"it is {shown}, and must be one of {', '.join(sorted(known))}")
    return value


def check_fields(place: str, given: Mapping[str, Any], required: Collection[str], others: Collection[str]) -> None:
    """Raises GGUFError for a field that is missing and for one that there is not."""
    known = {*required, *others}
    for name in given:
        if name not in known:
            raise wrong(f"{place}.{named(name)}", f"there is no such field here{checks.meant(name, known)}")
    for name in required:
        if name not in given:
            raise wrong(f"{place}.{name}", "it is missing")


def check_cache_control(place: str, given: object) -> None:
    """`cache_control`: what has been read is kept here in any case. Raises GGUFError for another form."""
    if given is None:
        return
    control = mapping(place, given)
    check_fields(place, control, ("type",), CACHE_FIELDS)
    choice(f"{place}.type", control["type"], ("ephemeral",))
    if control.get("ttl") is not None:
        choice(f"{place}.ttl", control["ttl"], ("5m", "1h"))
    if control.get("scope") is not None:
        text(f"{place}.scope", control["scope"])
