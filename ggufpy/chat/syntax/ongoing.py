"""A call while it is read: what is known of it, and when it is said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.chat.syntax.output import Output
from ggufpy.chat.syntax.reader import NoCall, Reader

_NUMBERED = re.compile(r"(?:functions?\.)?(.+?)(?::\d+)?")


class Ongoing:
    """Nothing is said of a call before its name is known, on offer, and its arguments begin: until then all that was
    taken for it can still become content. From then on arguments are handed on as they come."""

    def __init__(self, reader: Reader, output: Output, tools: Mapping[str, Any], next_text: str = "") -> None:
        """tools: schemas of arguments by name. next_text: what is written after the arguments."""
        self.reader = reader
        self.next_text = next_text
        self.id: str | None = None
        self.schema: Any = None
        self._output = output
        self._tools = tools
        self._name: str | None = None
        self._index: int | None = None
        self._early: list[str] = []  # arguments that came before the name

    @property
    def named(self) -> bool:
        return self._name is not None

    @property
    def begun(self) -> bool:
        """Whether the call was said."""
        return self._index is not None

    def name(self, text: str) -> None:
        """The name as written, also `functions.NAME:0`, which then is the id. Raises NoCall if it is not offered."""
        text = text.strip()
        found = _NUMBERED.fullmatch(text)
        if text in self._tools:
            self._name = text
        elif found and found[1] in self._tools:
            self._name = found[1]
            self.id = text if ":" in text else self.id
        else:
            raise NoCall
        self.schema = self._tools[self._name]

    def begin(self) -> None:
        """The arguments begin."""
        if self._name is None:
            raise NoCall
        if self._index is None:
            self._index = self._output.call(self._name, self.id)
            self.reader.forget()

    def write(self, text: str) -> None:
        """A fragment of the JSON of the arguments."""
        if self._name is None:
            self._early.append(text)
            return
        self.begin()
        if self._index is not None:
            self._output.arguments(self._index, text)

    def catch_up(self) -> bool:
        """Hands on the arguments that came before the name; whether there were any."""
        text = "".join(self._early)
        self._early.clear()
        if text:
            self.write(text)
        return bool(text)


def schemas(tools: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Schemas of arguments by the names of tools in OpenAI's shape."""
    functions = [tool["function"] for tool in tools or ()]
    return {function["name"]: function.get("parameters") for function in functions}
