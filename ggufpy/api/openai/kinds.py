"""What the fields of a request may be: checks that return the value as it is kept, or say in one line what is wrong.

A kind is called with the field's name and its value, which is never null; `wants` is what the docs say of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling.kinds import Factor, OneOf, Recent, Within
from ggufpy.generate.sampling.steps.adaptive_p import Target
from ggufpy.support import checks, options
from ggufpy.support.records import dataclass


class FieldError(GGUFError):
    """A field that is wrong, by its name (`param`) and with OpenAI's word for what is wrong (`code`)."""

    def __init__(self, message: str, param: str, code: str) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class Kind(Protocol):
    """What a field may be."""

    @property
    def wants(self) -> str: ...

    def __call__(self, name: str, value: Any) -> Any:
        """The value as it is kept. Raises GGUFError."""


@dataclass(frozen=True)
class Switch:
    """true or false."""

    wants: str = "true or false"

    def __call__(self, name: str, value: Any) -> bool:
        """See Kind."""
        if not isinstance(value, bool):
            raise FieldError(f"{name} is {checks.shown(value)}; it must be true or false", name, "invalid_type")
        return value


@dataclass(frozen=True)
class Number:
    """Finite numbers of a range."""

    least: float
    most: float = math.inf

    @property
    def wants(self) -> str:
        """See Kind."""
        return _bounds("a number", self.least, self.most)

    def __call__(self, name: str, value: Any) -> float:
        """See Kind."""
        number = checks.number(name, value)
        if not self.least <= number <= self.most:
            raise FieldError(f"{name} is {checks.shown(value)}; it must be {self.wants}", name, "invalid_value")
        return number


@dataclass(frozen=True)
class Whole:
    """Whole numbers of a range."""

    least: int
    most: float = math.inf

    @property
    def wants(self) -> str:
        """See Kind."""
        return _bounds("a whole number", self.least, self.most)

    def __call__(self, name: str, value: Any) -> int:
        """See Kind."""
        count = checks.whole(name, value)
        if not self.least <= count <= self.most:
            raise FieldError(f"{name} is {checks.shown(value)}; it must be {self.wants}", name, "invalid_value")
        return count


def _bounds(what: str, least: float, most: float) -> str:
    return f"{what} of at least {least:g}" if math.isinf(most) else f"{what} from {least:g} to {most:g}"


@dataclass(frozen=True)
class Text:
    """Texts of up to `most` characters."""

    most: float = math.inf

    @property
    def wants(self) -> str:
        """See Kind."""
        return "a text" if math.isinf(self.most) else f"a text of at most {self.most:,} characters"

    def __call__(self, name: str, value: Any) -> str:
        """See Kind."""
        text = checks.text(name, value)
        if len(text) > self.most:
            raise GGUFError(f"{name} has {len(text):,} characters; it must be {self.wants}")
        return text


@dataclass(frozen=True)
class Words:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def wants(self) -> str:
        """See Kind."""
        return ", ".join(f'"{word}"' for word in self.words)

    def __call__(self, name: str, value: Any) -> str:
        """See Kind."""
        if not isinstance(value, str) or value not in self.words:
            raise FieldError(f"{name} is {checks.shown(value)}; it must be one of {self.wants}", name, "invalid_value")
        return value


@dataclass(frozen=True)
class Only:
    """A value that changes nothing; any other asks for what there is not, for the reason that `why` gives."""

    values: tuple[Any, ...]
    why: str

    @property
    def wants(self) -> str:
        """See Kind."""
        return " or ".join(_json(value) for value in self.values)

    def __call__(self, name: str, value: Any) -> None:
        """See Kind."""
        if not any(type(value) is type(known) and value == known for known in self.values):
            refuse(name, f"{name} cannot be {checks.shown(value)}: {self.why}")


@dataclass(frozen=True)
class Refused:
    """No value at all, for the reason that `why` gives."""

    why: str
    wants: str = "null"

    def __call__(self, name: str, value: Any) -> NoReturn:
        """See Kind."""
        refuse(name, f"{name} cannot be honoured: {self.why}")


@dataclass(frozen=True)
class Object:
    """Objects whose fields have kinds of their own; fields that are null are left out."""

    fields: Mapping[str, Kind]

    @property
    def wants(self) -> str:
        """See Kind."""
        return "an object with " + ", ".join(self.fields)

    def __call__(self, name: str, value: Any) -> dict[str, Any]:
        """See Kind."""
        given = mapping(name, value)
        for key in given:
            if key not in self.fields:
                raise GGUFError(f"{name}.{str(key)[:80]} is no field of {name}; it is {self.wants}")
        return {key: self.fields[key](f"{name}.{key}", one) for key, one in given.items() if one is not None}


@dataclass(frozen=True)
class Checked:
    """What a function says, which is called with the name and the value."""

    wants: str
    check: Callable[[str, Any], Any]

    def __call__(self, name: str, value: Any) -> Any:
        """See Kind."""
        return self.check(name, value)


def of_option(option: options.Option) -> Checked:
    """What an option of sampling may be; its help says the rest."""
    kind = option.kind
    return Checked(_WANTS.get(type(kind), "a list of names or texts"), kind.check)


_WANTS: dict[type, str] = {
    options.Share: "a number from 0 to 1",
    **dict.fromkeys((options.Real, Within, Factor, Target), "a number"),
    **dict.fromkeys((options.Whole, Recent, OneOf), "a whole number"),
}


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, Mapping):
        raise FieldError(f"{name} is {checks.shown(value)}; an object is wanted", name, "invalid_type")
    return value


def texts_by_name(name: str, value: Any) -> Mapping[str, str]:
    """An object of texts."""
    for key, one in mapping(name, value).items():
        checks.text(f"{name}.{str(key)[:80]}", one)
    return value  # type: ignore[no-any-return]


def anything(name: str, value: Any) -> Any:
    """A value that is checked where it is used."""
    return value


def refuse(param: str, message: str) -> NoReturn:
    """Raises the error of a field that there is and that cannot be honoured."""
    raise FieldError(message, param, "unsupported_parameter")


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
