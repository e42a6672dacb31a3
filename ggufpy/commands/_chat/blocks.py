"""An answer's source in pieces, as it comes: those that no further text can change, and the one that is being written.

In: text. Out: `Piece`s, whose drawings one below the other are the drawing of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from markdown_it.token import Token

from ggufpy.commands._chat.markdown import Piece, parse
from ggufpy.support.clean import clean

MOST_SOURCE = 1 << 13  # characters of a block; what is longer is drawn in parts, so that work and memory are bounded
CONTEXT = 200  # lines of code that are kept for the colours of those that follow
_EMPTY = re.compile(r"\A(?:[ \t]*\n)+")  # lines ahead of a block
_MARKS = frozenset("*_`~[]<&\\")  # what may belong to markup that is still to end

Height = Callable[[Piece], int]  # how many lines a piece takes


class Blocks:
    """The blocks of a text that grows: `ready` and `shorten` give the pieces that are finished, `rest` what is left.

    Only blocks before the last one are finished, and only whole lines decide where one begins: by CommonMark, what has
    been closed stays as it is.
    """

    def __init__(self, plain: bool = False) -> None:
        self._plain = plain
        self._pending = ""
        self._joined = plain
        self._begun = False  # of the block that is being written a part is finished
        self._skip = 0  # and so many lines, if it is code
        self._number: int | None = None  # of its first item, if it is the rest of a list

    @property
    def rest(self) -> Piece | None:
        """What is being written, None where there is nothing to see of it."""
        return self._piece(self._pending, more=self._is_open) if self._pending.strip() else None

    @property
    def _is_open(self) -> bool:
        """Whether what is being written is code to which more lines can come."""
        return not self._plain and _open_code(self._pending)

    def push(self, text: str) -> None:
        """More of the text."""
        self._pending += clean(text)

    def ready(self) -> list[Piece]:
        """The pieces that are finished by what has come."""
        pieces = self._lines() if self._plain else self._blocks(self._pending)
        while len(self._pending) > MOST_SOURCE:
            start = self._pending[:MOST_SOURCE]
            pieces.append(self._code() if "\n" in start and self._is_open else self._take(_last_break(start)))
        return pieces

    def shorten(self, room: int, height: Height) -> list[Piece]:
        """The pieces that can be finished of a block that takes more than `room` lines: lines of code, items of a list,
        words of a paragraph. None where its beginning may still change; such a block is seen in part until it ends.
        """
        rest = self.rest
        if rest is None or height(rest) <= room:
            return []
        if self._plain:
            return self._words(room, height, marks=frozenset())
        tokens = parse(self._pending)
        if len(_top(tokens)) > 1:  # the last line begins another block, or does not: its end will tell
            return []
        kind = tokens[0].type
        if kind == "fence":
            return [self._code()] if self._is_open and self._pending.count("\n") > self._skip + 1 else []
        if kind in ("bullet_list_open", "ordered_list_open"):
            return self._items()
        return self._words(room, height, _MARKS) if kind == "paragraph_open" else []

    def finish(self) -> list[Piece]:
        """What is left at the end, whole."""
        pieces = self.ready()
        if not self._plain:
            pieces += self._blocks(self._pending + "\n")
        rest = self._pending
        if rest.strip():
            pieces.append(self._piece(rest))
        self._pending, self._joined = "", self._plain
        self._begun, self._skip, self._number = False, 0, None
        return pieces

    def _piece(self, source: str, more: bool = False) -> Piece:
        return Piece(source, self._joined, self._begun, self._skip, more, self._plain, self._number)

    def _take(self, cut: int) -> Piece:
        """Finishes what is pending up to a place. What follows goes on below it, without a blank line."""
        piece = self._piece(self._pending[:cut])
        self._pending, self._joined = self._pending[cut:], True
        self._begun, self._skip, self._number = False, 0, None
        return piece

    def _lines(self) -> list[Piece]:
        cut = self._pending.rfind("\n") + 1
        return [self._take(cut)] if cut else []

    def _blocks(self, text: str) -> list[Piece]:
        """All blocks before the last, and that one if it has ended, of the whole lines that there are."""
        whole = text[: text.rfind("\n") + 1]
        blocks = _top(parse(whole))
        starts = [token.map[0] for token in blocks if token.map]
        if blocks and _has_ended(blocks[-1].type, whole):
            starts.append(whole.count("\n"))
        pieces, done = [], 0
        for start in starts[1:]:
            cut = _offset(whole, start)
            pieces.append(self._piece(whole[done:cut]))
            done, self._joined = cut, False
            self._begun, self._skip, self._number = False, 0, None
        self._pending = _EMPTY.sub("", self._pending[done:])
        return pieces

    def _code(self) -> Piece:
        """Finishes the whole lines of code; they stay as what the colours of further ones depend on."""
        lines = self._pending.splitlines(keepends=True)
        last = lines.pop() if len(lines) > 1 and not lines[-1].endswith("\n") else ""
        if len(lines) == 1 or len(last) > MOST_SOURCE // 2:  # a line so long that it is taken as it is
            lines, last = [*lines, last], ""
        piece = replace(self._piece("".join(lines)), more=True)
        self._skip = len(lines) - 1
        dropped = max(self._skip - CONTEXT, 0)
        if len(self._pending) > MOST_SOURCE // 2:  # lines may be few and long
            dropped = self._skip
        self._pending = lines[0] + "".join(lines[1 + dropped :]) + last
        self._skip -= dropped
        self._joined = self._begun = True
        return piece

    def _items(self) -> list[Piece]:
        """Finishes all items of a list before the last one whose first line is whole."""
        tokens = parse(self._pending[: self._pending.rfind("\n") + 1])
        items = [token.map[0] for token in tokens if token.level == 1 and token.nesting > 0 and token.map]
        if len(items) < 2:
            return []
        first = self._number or int(tokens[0].attrs.get("start", 1))
        piece = self._take(_offset(self._pending, items[-1]))
        self._number = first + len(items) - 1
        return [piece]

    def _words(self, room: int, height: Height, marks: frozenset[str]) -> list[Piece]:
        """Finishes as many words of a paragraph as fill whole lines, unless markup may be open there."""
        text = self._pending
        cuts = [i + 1 for i, letter in enumerate(text[:-1]) if letter in " \n" and (not marks or text[i + 1].isalpha())]
        wanted = max(height(self._piece(text)) - 2, room // 2, 1)
        low, high = 0, len(cuts)
        while low < high:  # the most words that take no more lines than are wanted
            middle = (low + high) // 2
            if height(self._piece(text[: cuts[middle]])) <= wanted:
                low = middle + 1
            else:
                high = middle
        if not low or (marks and _open_marks(text[: cuts[low - 1]], marks)):
            return []
        return [self._take(cuts[low - 1])]


def _top(tokens: list[Token]) -> list[Token]:
    """What the blocks begin with that stand in no other."""
    return [token for token in tokens if token.level == 0 and token.nesting >= 0]


def _has_ended(kind: str, lines: str) -> bool:
    """Whether the last block of some lines cannot go on: it is one line, or an empty line ends what it is."""
    if kind in ("heading_open", "hr"):
        return True
    blank = not lines.removesuffix("\n").rpartition("\n")[2].strip(" \t")
    return blank and kind in ("paragraph_open", "table_open", "blockquote_open")


def _offset(text: str, line: int) -> int:
    """Where a line begins, by its number."""
    at = 0
    for _ in range(line):
        at = text.index("\n", at) + 1
    return at


def _last_break(text: str) -> int:
    """Where a text that is too long is best cut."""
    return text.rfind("\n") + 1 or text.rfind(" ") + 1 or len(text)


def _open_code(source: str) -> bool:
    """Whether a source begins with a fence that does not end in it: one more line would be code too."""
    tokens = parse(source.rstrip("\n") + "\nx")
    return tokens[0].type == "fence" and len(tokens) == 1


def _open_marks(source: str, marks: frozenset[str]) -> bool:
    """Whether a paragraph has marks that are text so far, and could be markup with what comes."""
    children = [child for token in parse(source) for child in token.children or ()]
    return any(child.type == "text" and marks & set(child.content) for child in children)
