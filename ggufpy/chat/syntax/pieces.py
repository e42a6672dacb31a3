"""What a model's text is taken apart into."""

from __future__ import annotations

from typing import NamedTuple


class Content(NamedTuple):
    """Text for the reader of the answer."""

    text: str


class Thought(NamedTuple):
    """Text of the model's reasoning."""

    text: str


class Call(NamedTuple):
    """A call begins: the number of it in the message, its id, the tool's name. Its arguments follow."""

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    id: str
    name: str


class Arguments(NamedTuple):
    """A fragment of the JSON text of a call's arguments."""

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    text: str


Piece = Content | Thought | Call | Arguments
