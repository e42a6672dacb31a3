"""Pieces as they are found: texts without the white space around calls and thoughts, numbers and ids of calls."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable

from ggufpy.chat.syntax.pieces import Arguments, Call, Content, Piece, Thought

_LETTERS = string.ascii_letters + string.digits


def hex_id() -> str:
    """An id as OpenAI's service makes them in form."""
    return "call_" + secrets.token_hex(12)


def nine_letters() -> str:
    """An id as Mistral's templates want them: nine letters or digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(9))


class Text:
    """Hands on a text without the white space at its end, and at its beginning once `trim` was called."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._held: list[str] = []  # white space that stays if text follows
        self._trims = False
        self.begun = False

    def write(self, text: str) -> None:
        kept = text.rstrip()
        if not kept:
            self._held.append(text)
            return
        start = "".join(self._held)
        whole = start + kept
        self._held = [text[len(kept) :]]
        self._emit(whole.lstrip() if self._trims and not self.begun else whole)
        self.begun = True

    def trim(self) -> None:
        """Something else begins or has ended here: white space up to it goes, as does that before the first text."""
        self._held.clear()
        self._trims = True

    def flush(self) -> None:
        """The text ends: white space at its end is part of it, unless there is no other text beside calls."""
        held = "".join(self._held)
        self._held.clear()
        if held and not (self._trims and not self.begun):
            self._emit(held)


class Output:
    """Collects pieces."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id
        self._pieces: list[Piece] = []
        self._ids: set[str] = set()
        self._calls = 0
        add = self._pieces.append  # no texts refer to this object, which has them: it would be the collector's to free
        self.content = Text(lambda text: add(Content(text)))

    def thought(self) -> Text:
        """For the text of one thought."""
        add = self._pieces.append
        text = Text(lambda text: add(Thought(text)))
        text.trim()
        return text

    def call(self, name: str, id: str | None) -> int:
        """Begins a call and returns its number. An id that is missing, a mere number or there already is made."""
        if not id or id.isdigit() or id in self._ids:
            id = self._make_id()
        self._ids.add(id)
        self.content.trim()
        self._pieces.append(Call(self._calls, id, name))
        self._calls += 1
        return self._calls - 1

    def arguments(self, index: int, text: str) -> None:
        if text:
            self._pieces.append(Arguments(index, text))

    def taken(self) -> list[Piece]:
        """The pieces since the last time; neighbours of one kind are one."""
        made = joined(self._pieces)
        self._pieces.clear()
        return made


def joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces with neighbours of one kind (and call) made one."""
    made: list[Piece] = []
    texts: list[str] = []
    for piece in pieces:
        last = made[-1] if made else None
        if isinstance(piece, Call) or not last or not _continues(last, piece):
            _close(made, texts)
            made.append(piece)
            texts = [] if isinstance(piece, Call) else [piece.text]
        else:
            texts.append(piece.text)
    _close(made, texts)
    return made


def _continues(last: Piece, piece: Piece) -> bool:
    if isinstance(last, Arguments):
        return isinstance(piece, Arguments) and piece.index == last.index
    return type(last) is type(piece)


def _close(made: list[Piece], texts: list[str]) -> None:
    if len(texts) > 1:
        last = made[-1]
        if not isinstance(last, Call):
            made[-1] = last._replace(text="".join(texts))
