"""How a model writes thoughts and calls, as data: what a family's file says, or what a template shows.

Texts are as the model writes them, white space included, which is what grammars want. Parsers take any white space
between parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ggufpy.chat.syntax.lark import Lark, Tool
from ggufpy.chat.syntax.ongoing import Ongoing
from ggufpy.chat.syntax.output import hex_id
from ggufpy.chat.syntax.reader import Steps
from ggufpy.support.records import dataclass


class Part(Protocol):
    """A part of a call: reads what the model wrote, and says in Lark what it may write."""

    def read(self, call: Ongoing) -> Steps[None]:
        """Takes the part. Raises NoCall if it is not there."""
        ...

    def fits(self, char: str) -> bool:
        """Whether the part may begin with this character."""
        ...

    def lark(self, tool: Tool, lark: Lark) -> str: ...

    def texts(self) -> tuple[str, ...]:
        """The texts that the parser looks for."""
        ...


@dataclass(frozen=True)
class Thoughts:
    """A thought stands between `opens` and `closes`; `opens` is "" where models begin with it."""

    opens: str
    closes: str


@dataclass(frozen=True)
class Calls:
    """Calls: `opens`, each call's parts, `between` two of them, `closes`.

    bare: the first call of a message may come without the text that opens it. several: one message may have more
    than one. lead: what the end of a prompt has of the syntax, which the model then leaves out.
    """

    parts: tuple[Part, ...]
    opens: str = ""
    closes: str = ""
    between: str = ""
    bare: bool = False
    several: bool = True
    lead: str = ""


@dataclass(frozen=True)
class Form:
    """What a template's models write. `calls` are alternatives, the first of them what they were taught; `wraps`
    stand around content and are left out of it."""

    thoughts: Thoughts | None = None
    calls: tuple[Calls, ...] = ()
    wraps: tuple[str, ...] = ()
    make_id: Callable[[], str] = hex_id
