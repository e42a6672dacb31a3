"""Options, each declared once: name, default, bounds, help and flags, for Python and for the command line alike.

In: a value from a caller, or a word from the command line. Out: the value as it is kept, or one line (GGUFError).
"""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any, NamedTuple, Protocol

from ggufpy.errors import GGUFError
from ggufpy.support import checks


class Kind(Protocol):
    """What values an option takes."""

    def check(self, name: str, value: object) -> Any:
        """The value as it is kept. Raises GGUFError with the name of the option."""

    def read(self, text: str) -> Any:
        """What a word on the command line means. Raises GGUFError, whose reader knows which option it is about."""


class Whole:
    """Whole numbers, of at least `least`."""

    def __init__(self, least: int | None = None) -> None:
        self.least = least

    def check(self, name: str, value: object) -> int:
        """See Kind."""
        return checks.whole(name, value, self.least)

    def read(self, text: str) -> int:
        """See Kind."""
        try:
            value = int(text)
        except ValueError:
            raise GGUFError(f"{text!r} is not a whole number") from None
        if self.least is not None and value < self.least:
            raise GGUFError(f"{value} is too small, the least is {self.least}")
        return value


class Real:
    """Finite numbers."""

    def check(self, name: str, value: object) -> float:
        """See Kind."""
        return checks.number(name, value)

    def read(self, text: str) -> float:
        """See Kind."""
        try:
            value = float(text)
        except ValueError:
            raise GGUFError(f"{text!r} is not a number") from None
        if value != value or value in (float("inf"), float("-inf")):
            raise GGUFError(f"{text!r} is not a finite number")
        return value


class Share(Real):
    """Numbers from 0 to 1."""

    def check(self, name: str, value: object) -> float:
        """See Kind."""
        share = super().check(name, value)
        if not 0 <= share <= 1:
            raise GGUFError(f"{name} is {share}, and must be from 0 to 1")
        return share


class Text:
    """Texts."""

    def check(self, name: str, value: object) -> str:
        """See Kind."""
        return checks.text(name, value)

    def read(self, text: str) -> str:
        """See Kind."""
        return text


class Texts(Text):
    """Some texts: one a word on the command line."""

    def check(self, name: str, value: object) -> Any:
        """See Kind."""
        return tuple(checks.text(name, each) for each in checks.items(name, value, "a list of texts"))


class ScaledPaths:
    """Files, each with a number that says how much it counts: FILE or FILE=SCALE on the command line."""

    def check(self, name: str, value: object) -> tuple[tuple[str, float], ...]:
        """See Kind."""
        pairs = checks.items(name, value, "a list of (path, number) pairs")
        if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            raise GGUFError(f"{name} is {checks.shown(value)}; a list of (path, number) pairs is wanted")
        return tuple((checks.path(name, path), checks.number(f"the scale of {path}", scale)) for path, scale in pairs)

    def read(self, text: str) -> tuple[str, float]:
        """One of them. A "=" that no number follows is a part of the path."""
        path, equals, scale = text.rpartition("=")
        if not equals:
            return text, 1.0
        try:
            return path, Real().read(scale)
        except GGUFError:
            return text, 1.0


class Option(NamedTuple):
    """One option. `flags` are its spellings on the command line, `aliases` its further names in Python.

    The help ends with the default; `default_text` is what it says there in place of the value, "" nothing.
    `repeated`: the flag may come several times, and the value is a list.
    """

    name: str
    default: Any
    kind: Kind
    help: str
    flags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    metavar: str = "X"
    default_text: str | None = None
    repeated: bool = False

    def check(self, value: object) -> Any:
        """The value as it is kept; None stays None where that is the default. Raises GGUFError."""
        return None if value is None and self.default is None else self.kind.check(self.name, value)

    @property
    def full_help(self) -> str:
        """The help with the default."""
        text = str(self.default) if self.default_text is None else self.default_text
        return f"{self.help} (default: {text})" if text else self.help


def option(default: Any, kind: Kind, help: str, *flags: str, **more: Any) -> Any:
    """A field of a dataclass of options, declared as `Option`, whose name is the field's."""
    return field(default=default, metadata={"option": Option("", default, kind, help, flags, **more)})


def declared(options: Any) -> dict[str, Option]:
    """The options of a dataclass (or of an instance) by name: those of its fields that are made by `option`."""
    some: tuple[Field[Any], ...] = fields(options)
    return {each.name: each.metadata["option"]._replace(name=each.name) for each in some if "option" in each.metadata}
