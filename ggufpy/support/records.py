"""`dataclass`, as that of dataclasses, but quick to make where it is frozen.

dataclasses compiles the source of seven methods for each frozen class, about 1 ms, and a start has 85 of them. Here
all such classes share their methods, which read the fields: 0.1 ms a class. What is frozen has the same meaning to
whoever uses it (`replace`, `fields`, comparison, hash, text, type checkers); an object takes 1 µs more to make, so what
steps make by the hundred stays with dataclasses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

__all__ = ["dataclass"]

_FIELDS = "__dataclass_fields__"


class _Plain(NamedTuple):
    """What the shared methods know of a class."""

    names: tuple[str, ...]
    defaults: dict[str, Any]
    makers: dict[str, Callable[[], Any]]
    compared: Callable[[dict[str, Any]], tuple[Any, ...]]
    checked: bool  # has __post_init__


def _init(self: Any, /, *args: Any, **given: Any) -> None:
    """Values are kept in the order of the fields, which `vars` shows."""
    names, defaults, makers, _, checked = self.__record__
    values = self.__dict__
    values.update(zip(names, args))  # noqa: B905 - the lengths are looked at below
    for name in names[len(args) :]:
        if name in given:
            values[name] = given.pop(name)
        elif name in defaults:
            values[name] = defaults[name]
        elif name in makers:
            values[name] = makers[name]()
        else:
            raise TypeError(f"{type(self).__name__} is made without {name}")
    if given or len(args) > len(names):
        _refuse(type(self).__name__, names, len(args), given)
    if checked:
        self.__post_init__()


def _refuse(cls: str, names: tuple[str, ...], count: int, given: dict[str, Any]) -> None:
    """Raises TypeError for more values than fields, for a name that is none, and for a field given twice."""
    if count > len(names):
        raise TypeError(f"{cls} has {len(names)} fields; {count} values were given")
    if unknown := [name for name in given if name not in names]:
        raise TypeError(f"{cls} has no field {', '.join(unknown)}")
    raise TypeError(f"{cls} has {', '.join(given)} given twice, by place and by name")


def _eq(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    compared = self.__record__.compared
    return compared(self.__dict__) == compared(other.__dict__)


def _hash(self: Any) -> int:
    return hash(self.__record__.compared(self.__dict__))


def _repr(self: object) -> str:
    shown = (f"{name}={vars(self)[name]!r}" for name, field in getattr(self, _FIELDS).items() if field.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _is_fixed(self: Any, name: str) -> bool:
    """Fields are, and all of an object whose class is a dataclass itself; what a subclass adds is its own."""
    return "__record__" in vars(type(self)) or name in self.__record__.names


def _set(self: object, name: str, value: object) -> None:
    if _is_fixed(self, name):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")
    object.__setattr__(self, name, value)


def _delete(self: object, name: str) -> None:
    if _is_fixed(self, name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")
    object.__delattr__(self, name)


def _shared(cls: type) -> bool:
    """Whether its fields are as nearly all are: each given when an object is made, by its place or its name."""
    fields = [value for value in vars(cls).values() if isinstance(value, Field)]
    if not all(field.init and field.hash is None and field.kw_only is MISSING for field in fields):
        return False
    return not any("KW_ONLY" in str(kind) for kind in vars(cls).get("__annotations__", {}).values())


def _getter(names: list[str]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """What gives these of an object's values."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def _frozen(cls: type, eq: bool, text: bool) -> type:
    if not _shared(cls):
        return dataclasses.dataclass(frozen=True, eq=eq, repr=text)(cls)
    made: Any = dataclasses.dataclass(init=False, eq=False, repr=False)(cls)
    fields: dict[str, Field[Any]] = getattr(made, _FIELDS)
    defaults = {name: field.default for name, field in fields.items() if field.default is not MISSING}
    makers = {name: field.default_factory for name, field in fields.items() if field.default_factory is not MISSING}
    compared = _getter([name for name, field in fields.items() if field.compare])
    made.__record__ = _Plain(tuple(fields), defaults, makers, compared, hasattr(made, "__post_init__"))
    methods: dict[str, Callable[..., Any]] = {"__init__": _init, "__setattr__": _set, "__delattr__": _delete}
    methods |= {"__eq__": _eq, "__hash__": _hash} if eq else {}
    methods |= {"__repr__": _repr} if text else {}
    for name, method in methods.items():
        if vars(cls).get(name) is None:  # a class with __eq__ of its own has None for a hash
            setattr(made, name, method)
    return cls


def _dataclass(
    cls: type | None = None, /, *, frozen: bool = False, eq: bool = True, repr: bool = True
) -> type | Callable[[type], type]:
    """A dataclass. Options are those that are used here; others are for `dataclasses.dataclass`."""

    def make(cls: type) -> type:
        return _frozen(cls, eq, repr) if frozen else dataclasses.dataclass(eq=eq, repr=repr)(cls)

    return make if cls is None else make(cls)


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    dataclass = _dataclass
