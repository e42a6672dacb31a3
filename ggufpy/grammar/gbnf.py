"""GBNF, llama.cpp's format of grammars, read and checked.

In: a grammar's text. Out: its rules as trees. The format is that of llama.cpp's src/llama-grammar.cpp (October 2026):
`name ::= alternatives`, texts, classes of characters, groups, repetitions, tokens, comments. As there, a rule that is
given twice is the later one, a left recursion is an error, and `root` is what the whole text is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ggufpy.errors import GGUFError
from ggufpy.grammar.source import TokenName
from ggufpy.support.records import dataclass

MOST_REPEATS = 10_000
MOST_RULES = 1_000
MOST_DEPTH = 60
LAST = 0x10FFFF

Range = tuple[int, int]

_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_BLANKS = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(r"!?<(\[[0-9]+\]|[^<>\s]+)>")
_TIMES = re.compile(r"\{[ \t]*(\d{1,9})[ \t]*(,)?[ \t]*(\d{1,9})?[ \t]*\}")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEX = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, eq=False)
class Node:
    """A part of a rule; two parts are never the same, wherever they stand."""


@dataclass(frozen=True, eq=False)
class Text(Node):
    """These characters."""

    text: str


@dataclass(frozen=True, eq=False)
class Chars(Node):
    """One character of these ranges, in order and apart."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, eq=False)
class Name(Node):
    """What another rule describes."""

    name: str


@dataclass(frozen=True, eq=False)
class Token(Node):
    """One token of the vocabulary."""

    token: TokenName


@dataclass(frozen=True, eq=False)
class Seq(Node):
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Alt(Node):
    """One of them."""

    items: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat(Node):
    """From `least` to `most` times, None for no end."""

    item: Node
    least: int
    most: int | None


Rules = dict[str, Node]


def parse(text: str) -> Rules:
    """The rules that `root` leads to. Raises GGUFError with the line of what is wrong."""
    rules = _Parser(text).rules()
    if "root" not in rules:
        raise GGUFError("grammar: there is no rule named root, which the whole text would be")
    found: dict[str, Node] = {}
    todo = ["root"]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found[name] = rules[name]
        for used in names(rules[name]):
            if used not in rules:
                raise GGUFError(f"grammar: the rule {name} uses {used}, and there is no rule of this name")
            todo.append(used)
    _refuse_left_recursion(found)
    ended = grown(found, _ends)
    if "root" not in ended:
        raise GGUFError("grammar: root has no end: it leads back to itself for ever; give it an alternative that ends")
    return {name: _without_endless(node, ended) for name, node in found.items() if name in ended}


def parts(node: Node) -> tuple[Node, ...]:
    """What a part is made of."""
    if isinstance(node, Seq | Alt):
        return node.items
    return (node.item,) if isinstance(node, Repeat) else ()


def walk(node: Node) -> Iterator[Node]:
    """A part and all within it."""
    todo = [node]
    while todo:
        node = todo.pop()
        yield node
        todo += reversed(parts(node))


def names(node: Node) -> list[str]:
    """The rules that a part uses."""
    return [part.name for part in walk(node) if isinstance(part, Name)]


def nullable_rules(rules: Rules) -> set[str]:
    """The rules that may be nothing at all."""
    return grown(rules, nullable)


def grown(rules: Rules, holds: Callable[[Node, set[str]], bool]) -> set[str]:
    """The rules for which something holds that follows from those for which it holds."""
    found: set[str] = set()
    before = -1
    while before < len(found):
        before = len(found)
        for name in reversed(rules):  # rules mostly come before those that they use
            if name not in found and holds(rules[name], found):
                found.add(name)
    return found


def nullable(node: Node, empty: set[str]) -> bool:
    """Whether a part may be nothing, if the rules of `empty` may."""
    if isinstance(node, Text):
        return not node.text
    if isinstance(node, Name):
        return node.name in empty
    if isinstance(node, Seq):
        return all(nullable(item, empty) for item in node.items)
    if isinstance(node, Alt):
        return any(nullable(item, empty) for item in node.items)
    return isinstance(node, Repeat) and (node.least == 0 or nullable(node.item, empty))


def _refuse_left_recursion(rules: Rules) -> None:
    """llama.cpp cannot follow a rule that begins with itself, and such a grammar would work here alone."""
    empty = nullable_rules(rules)
    begins = {name: _first_names(node, empty) for name, node in rules.items()}
    done: set[str] = set()
    for name in rules:
        within: dict[str, list[str]] = {name: [*begins[name]]} if name not in done else {}  # a way, and what is left
        while within:
            used, left = next(reversed(within.items()))
            if not left:
                done.add(used)
                del within[used]
                continue
            used = left.pop()
            if used in within:
                raise GGUFError(
                    f"grammar: the rule {used} begins with itself (left recursion); write it as a repetition, "
                    f'such as item ("," item)*'
                )
            if used not in done:
                within[used] = [*begins[used]]


def _first_names(node: Node, empty: set[str]) -> set[str]:
    """The rules that a part may begin with."""
    if isinstance(node, Name):
        return {node.name}
    found: set[str] = set()
    for item in parts(node):
        found |= _first_names(item, empty)
        if isinstance(node, Seq) and not nullable(item, empty):
            break
    return found


def _ends(node: Node, ended: set[str]) -> bool:
    if isinstance(node, Name):
        return node.name in ended
    if isinstance(node, Alt):
        return any(_ends(item, ended) for item in node.items)
    if isinstance(node, Repeat):
        return node.least == 0 or _ends(node.item, ended)
    return all(_ends(item, ended) for item in parts(node))


def _without_endless(node: Node, ended: set[str]) -> Node:
    """A part without alternatives that lead to no end."""
    if isinstance(node, Seq):
        return Seq(tuple(_without_endless(item, ended) for item in node.items))
    if isinstance(node, Alt):
        return Alt(tuple(_without_endless(item, ended) for item in node.items if _ends(item, ended)))
    if isinstance(node, Repeat):
        if not _ends(node.item, ended):
            return Text("")
        return Repeat(_without_endless(node.item, ended), node.least, node.most)
    return node


class _Parser:
    """Reads rules from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        self._space(True)
        while self._at < len(self._text):
            if len(found) >= MOST_RULES:
                raise self._error(f"there are more than {MOST_RULES:,} rules")
            name = self._word()
            self._space(False)
            if not self._take("::="):
                raise self._error(f"::= is missing behind {name[:80]}")
            self._space(True)
            found[name] = self._alternatives(0)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("a rule ends at the end of its line; put it into ( ) to go on")
            self._space(True)
        return found

    def _error(self, message: str) -> GGUFError:
        line = self._text.count("\n", 0, self._at) + 1
        here = self._text[self._at : self._at + 20].partition("\n")[0]
        return GGUFError(f"grammar: line {line}: {message}" + (f" (at {here!r})" if here else ""))

    def _space(self, lines: bool) -> None:
        """Goes past blanks and comments, and with `lines` past line ends."""
        match = (_LINES if lines else _BLANKS).match(self._text, self._at)
        self._at = self._at if match is None else match.end()

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _word(self) -> str:
        match = _WORD.match(self._text, self._at)
        if match is None:
            raise self._error("the name of a rule is wanted (letters, digits and -)")
        self._at = match.end()
        return match[0]

    def _alternatives(self, depth: int) -> Node:
        if depth > MOST_DEPTH:
            raise self._error(f"groups are more than {MOST_DEPTH} deep; give them rules of their own")
        items = [self._sequence(depth)]
        while self._take("|"):
            self._space(True)
            items.append(self._sequence(depth))
        return items[0] if len(items) == 1 else Alt(tuple(items))

    def _sequence(self, depth: int) -> Node:
        items: list[Node] = []
        while (item := self._item(depth)) is not None:
            self._space(depth > 0)
            while (times := self._times()) is not None:
                item = Repeat(item, *times)
                self._space(depth > 0)
            items.append(item)
        if self._at < len(self._text) and self._text[self._at] in "*+?{":
            raise self._error("there is nothing to repeat")
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _item(self, depth: int) -> Node | None:
        """What stands here, None at the end of a sequence."""
        c = self._text[self._at : self._at + 1]
        if c == '"':
            return self._literal()
        if c == "[":
            return self._class()
        if c and c in "<!":
            return self._token()
        if self._take("."):
            return Chars(((0, LAST),))
        if self._take("("):
            self._space(True)
            node = self._alternatives(depth + 1)
            if not self._take(")"):
                raise self._error("a group is not closed")
            return node
        return Name(self._word()) if _WORD.match(self._text, self._at) else None

    def _token(self) -> Token:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._error("a token is written <[number]> or <its text>, with ! before it for any other")
        self._at = match.end()
        return Token(TokenName(match[0].removeprefix("!"), others=match[0][0] == "!"))

    def _times(self) -> tuple[int, int | None] | None:
        for sign, times in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return times
        if not self._text.startswith("{", self._at):
            return None
        match = _TIMES.match(self._text, self._at)
        if match is None:
            raise self._error("a repetition is written {m}, {m,} or {m,n}")
        least = int(match[1])
        most = least if match[2] is None else None if match[3] is None else int(match[3])
        if (match[2] is None and match[3] is not None) or (most is not None and most < least):
            raise self._error("the numbers of a repetition are in the wrong order")
        if max(least, most or 0) > MOST_REPEATS:
            raise self._error(f"more than {MOST_REPEATS:,} repetitions; leave the upper number out")
        self._at = match.end()
        return least, most

    def _literal(self) -> Text:
        self._at += 1
        characters: list[str] = []
        while not self._take('"'):
            characters.append(chr(self._character("a text is not closed")))
        return Text("".join(characters))

    def _class(self) -> Chars:
        self._at += 1
        negated = self._take("^")
        ranges: list[Range] = []
        while not self._take("]"):
            first = last = self._character("a class is not closed")
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._character("a class is not closed")
            if last < first:
                raise self._error("a range of a class is in the wrong order")
            ranges.append((first, last))
        chosen = _apart(ranges)
        chosen = _others(chosen) if negated else chosen
        if not chosen:
            raise self._error("a class of no characters matches nothing")
        return Chars(chosen)

    def _character(self, unclosed: str) -> int:
        """The number of the character here, which may be escaped."""
        if self._at >= len(self._text):
            raise self._error(unclosed)
        c = self._text[self._at]
        self._at += 1
        if c != "\\":
            return ord(c)
        kind = self._text[self._at : self._at + 1]
        digits = self._text[self._at + 1 : self._at + 1 + _HEX.get(kind, 0)]
        if kind in _HEX and kind:
            if not re.fullmatch(f"[0-9A-Fa-f]{{{_HEX[kind]}}}", digits) or int(digits, 16) > LAST:
                raise self._error(f"\\{kind} wants {_HEX[kind]} hexadecimal digits of a character")
            self._at += 1 + len(digits)
            return int(digits, 16)
        if kind not in _ESCAPES or not kind:
            raise self._error(f'\\{kind} is not an escape; there are \\x \\u \\U \\t \\r \\n \\\\ \\" \\[ \\] \\-')
        self._at += 1
        return ord(_ESCAPES[kind])


def _apart(ranges: list[Range]) -> tuple[Range, ...]:
    """Ranges in order, those that meet joined."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def _others(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    """All characters that are not in `ranges`."""
    found: list[Range] = []
    at = 0
    for first, last in ranges:
        if first > at:
            found.append((at, first - 1))
        at = last + 1
    if at <= LAST:
        found.append((at, LAST))
    return tuple(found)
