"""What a syntax offers, and the parser that goes through a text as it comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ggufpy.chat.syntax.lark import Control
from ggufpy.chat.syntax.output import Output
from ggufpy.chat.syntax.pieces import Piece
from ggufpy.chat.syntax.reader import Reader, Steps
from ggufpy.chat.tools import Offer
from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    from ggufpy.grammar import Grammar

Tools = Sequence[Mapping[str, Any]]


class Parser:
    """Takes what a model writes apart, piece by piece. Whatever the pieces are, the result is the same once
    neighbouring ones of a kind are joined."""

    def __init__(self, reader: Reader, output: Output, steps: Steps[None]) -> None:
        self._reader = reader
        self._output = output
        self._steps = steps
        self._ended = False

    def push(self, text: str) -> list[Piece]:
        """What `text` makes certain. Raises ValueError after `finish`."""
        if self._ended:
            raise ValueError("the text has ended")
        self._reader.push(text)
        self._go_on()
        return self._output.taken()

    def finish(self) -> list[Piece]:
        """What the end of the text makes certain."""
        if not self._ended:
            self._ended = True
            self._reader.end()
            self._go_on()
            self._go_on()
            self._output.content.flush()
            self._steps.close()
        return self._output.taken()

    def _go_on(self) -> None:
        next(self._steps, None)


class Syntax(ABC):
    """What one template's models write."""

    name: str
    markers: tuple[str, ...]

    @abstractmethod
    def parser(self, prompt: str, tools: Tools | None = None) -> Parser:
        """For the text that follows `prompt`, whose end may have begun a thought. Calls are found of `tools` only."""

    @abstractmethod
    def lark(self, offer: Offer, prompt: str, control: Control) -> str | None:
        """The grammar in llguidance's Lark; None where nothing is held."""

    def grammar(self, offer: Offer, prompt: str, control: Control) -> Grammar | None:
        """What the text after `prompt` may be, thoughts among it; None where nothing is held.

        With the choice "required" or a name there must be a call. With "auto" text is free until a call begins.
        control: the id of the control token that a text is, None where it is none. Raises GGUFError if a call must be
        made and this syntax has none, and for a schema that cannot be held.
        """
        text = self.lark(held(offer), prompt, control) if offer.chosen else None
        if text is None:
            return None
        from ggufpy.grammar import Grammar

        return Grammar.from_lark(text)

    def answer_after(self, prompt: str) -> str | None:
        """The text behind which the answer to `prompt` begins, where a thought comes before it for sure."""
        return None

    def instructions(self, tools: Tools) -> str | None:
        """What a system message must say of tools for a template that does not; None where it does."""
        return None

    def shows(self, token: str) -> bool:
        """Whether the text of this control token must be in what the parser sees."""
        return bool(token) and any(token in marker for marker in self.markers)


def held(offer: Offer) -> Offer:
    """An offer whose schemas can all be held. Where a call need not be made and the tool is not strict, a schema that
    cannot be becomes that of any object; elsewhere it is refused with GGUFError. One that names no properties has
    none."""
    from ggufpy.grammar import check_schema

    tools = []
    for tool in offer.tools:
        function = tool["function"]
        if function["parameters"].get("properties") == {}:
            function = {**function, "parameters": {"additionalProperties": False, **function["parameters"]}}
        try:
            check_schema(function["parameters"], f"tools: {function['name']}.parameters")
        except GGUFError:
            if offer.must_call or function.get("strict") is True:
                raise
            function = {**function, "parameters": {"type": "object"}}
        tools.append({**tool, "function": function})
    return replace(offer, tools=tuple(tools))
