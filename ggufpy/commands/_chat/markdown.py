"""Markdown as answers have it, drawn by rich: a piece of source in, what rich prints out.

The dialect is CommonMark with tables and strikethrough, less what would make text vanish or change what came long
before it: HTML and images are text, links show where they go, a line below a paragraph does not make it a heading, and
there are no definitions of links. A newline is a new line, as writers of answers mean it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import CodeBlock, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text

from ggufpy.support.clean import clean
from ggufpy.support.records import dataclass

MOST_HIGHLIGHTED = 1 << 16  # characters of code that are coloured
INDENT = 4  # columns that a level of quotes or lists takes at most
LEAST_WIDTH = 10  # columns that text must have left
THEME = "ansi_dark"  # the terminal's own colours


@dataclass(frozen=True)
class Piece:
    """Some of an answer's source that is drawn by itself.

    `joined`: it stands right below the piece before, without a blank line between. A block of code may have `begun`
    with that piece; then `skip` of its lines are drawn already. `more`: others are to come. `plain`: as it stands.
    `number` is that of the first item where it is not what the source has.
    """

    source: str
    joined: bool = False
    begun: bool = False
    skip: int = 0
    more: bool = False
    plain: bool = False
    number: int | None = None


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    return parser.disable(["reference", "lheading", "image", "html_block", "html_inline"])


def parse(source: str) -> list[Token]:
    """Tokens of markdown-it, whose contents have no control characters either (entities can write them)."""
    tokens: list[Token] = _parser().parse(clean(source))
    for token in _all(tokens):
        token.content = clean(token.content)
        token.info = clean(token.info)
        if token.type == "softbreak":
            token.type = "hardbreak"
        if "href" in token.attrs:
            token.attrs["href"] = clean(str(token.attrs["href"]))
    return tokens


def _all(tokens: Iterable[Token]) -> Iterable[Token]:
    for token in tokens:
        yield token
        yield from token.children or ()


def drawable(piece: Piece, width: int) -> RenderableType:
    """What rich prints of a piece in `width` columns: text as it stands where quotes and lists leave it no room."""
    if piece.plain:
        return Text(clean(piece.source))
    tokens = parse(piece.source)
    if _depth(tokens) * INDENT > width - LEAST_WIDTH:
        return Text(clean(piece.source))
    if piece.number is not None:
        tokens[0].attrs["start"] = piece.number
    return _Drawn(piece, tokens)


def _depth(tokens: list[Token]) -> int:
    """How deep quotes and items of lists are within one another."""
    depth = deepest = 0
    for token in tokens:
        if token.type in ("list_item_open", "blockquote_open"):
            depth += 1
            deepest = max(deepest, depth)
        elif token.type in ("list_item_close", "blockquote_close"):
            depth -= 1
    return deepest


class _Code(CodeBlock):
    """A block of code between its fences, at the left edge: what is copied from the screen is the code."""

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Code:
        made = cls((token.info.split() or ["text"])[0], THEME)
        made.piece = markdown.piece if isinstance(markdown, _Drawn) and token.level == 0 else Piece("")
        made.head, made.tail = f"{token.markup}{token.info}", token.markup
        return made

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        piece: Piece = self.piece
        code = str(self.text).removesuffix("\n")
        if self.head and not piece.begun:
            yield Text(self.head, style="dim")
        if str(self.text) and code.count("\n") >= piece.skip:
            lexer = self.lexer_name if len(code) <= MOST_HIGHLIGHTED else "text"
            lines = (piece.skip + 1, None) if piece.skip else None
            yield Syntax(code, lexer, theme=THEME, word_wrap=True, background_color="default", line_range=lines)
        if self.tail and not piece.more:
            yield Text(self.tail, style="dim")

    piece: Any
    head: str
    tail: str


class _Drawn(Markdown):
    """rich's Markdown of tokens that are there already."""

    elements: dict[str, type[MarkdownElement]] = {**Markdown.elements, "fence": _Code, "code_block": _Code}  # type: ignore[misc]  # noqa: RUF012

    def __init__(self, piece: Piece, tokens: list[Token]) -> None:
        super().__init__("", code_theme=THEME, hyperlinks=False)
        self.piece = piece
        self.parsed = tokens
