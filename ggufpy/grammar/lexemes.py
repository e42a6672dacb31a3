"""Which parts of a grammar can be lexemes, of which a lexer takes the longest match, without changing its texts.

In: rules, of which some are regular. Out: the regular parts that may be matched as a whole. The longest match of a
part S cuts another part R short (or S itself) only if both may begin at one place, and a word of S goes on behind a
word of R with a character that may also follow R. S is then taken apart, down to single characters, which cut nothing
short.

Where parts begin together is known from what may follow what: at the begin, behind one lexeme, or behind two that began
together and have a word in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ggufpy.grammar.automata import Automaton, Letters
from ggufpy.grammar.gbnf import (
    Alt,
    Chars,
    Name,
    Node,
    Repeat,
    Rules,
    Seq,
    Text,
    Token,
    grown,
    names,
    nullable,
    nullable_rules,
    parts,
    walk,
)

Key = str | Node  # a rule's name where a part is that, else the part
Whole = frozenset[Key]
Place = Key | tuple[Node, int]  # with a number: one character of a text, by itself

_MOST_WORK = 500_000  # parts and pairs of states looked at, about a second; then all goes character by character


def key_of(node: Node) -> Key:
    """By what a part is known: uses of a rule are one."""
    return node.name if isinstance(node, Name) else node


def regular_rules(rules: Rules) -> frozenset[str]:
    """Rules that neither come back to themselves nor have tokens, and so do those that they use."""

    def regular(node: Node, known: set[str]) -> bool:
        return not any(isinstance(part, Token) for part in walk(node)) and known.issuperset(names(node))

    return frozenset(grown(rules, regular))


def whole(rules: Rules, regular: frozenset[str]) -> Whole:
    """The parts of irregular rules that may be lexemes as a whole."""
    apart: set[Key] = set()
    work = _Work()
    try:
        while True:
            work.count(20 * sum(1 for node in rules.values() for _ in walk(node)))
            level = _Level(rules, regular, apart)
            found = level.cut_short(work)
            if not found:
                return level.whole
            apart |= found
    except _TooMuch:
        return frozenset()


class _TooMuch(Exception):
    """More work than a grammar is worth."""


class _Work:
    """How many pairs of states may still be looked at."""

    def __init__(self) -> None:
        self._left = _MOST_WORK

    def count(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise _TooMuch


class _Level:
    """The lexemes of the irregular rules, where the parts of `apart` are none; sets of them are bits, by number."""

    def __init__(self, rules: Rules, regular: frozenset[str], apart: set[Key]) -> None:
        self._rules, self._regular, self._apart = rules, regular, apart
        self._empty = nullable_rules(rules)
        self._letters = Letters(part for node in rules.values() for part in walk(node))
        self._numbers: dict[Place, int] = {}
        self._automata: list[Automaton] = []
        self._bodies: dict[str, Node] = {}
        self._find_lexemes()
        self._first = self._firsts()
        self._after: dict[Place, int] = defaultdict(int)  # what may follow a lexeme or rule
        self._follow_all()

    @property
    def whole(self) -> Whole:
        """The lexemes that are no single characters."""
        return frozenset(key for key in self._numbers if not isinstance(key, tuple))

    def cut_short(self, work: _Work) -> set[Key]:
        """The lexemes whose longest match would cut short another one."""
        found: set[Key] = set()
        keys = list(self._numbers)
        follow = [self._letters_of(self._after[key]) for key in keys]
        for shorter, longer in self._together(work):
            key = keys[longer]
            if not isinstance(key, tuple) and key not in found and self._runs_on(shorter, longer, follow, work):
                found.add(key)
        return found

    # -- lexemes --

    def _find_lexemes(self) -> None:
        """Numbers the lexemes of all rules that are written as rules."""
        todo = ["root"]
        while todo:
            name = todo.pop()
            if name not in self._bodies:
                self._bodies[name] = self._rules[name]
                todo += self._find_within(self._rules[name])

    def _find_within(self, node: Node) -> list[str]:
        """Numbers the lexemes of a part; the rules that it uses as rules."""
        if self._is_whole(node):
            return []
        if isinstance(node, Name):
            return [node.name]
        if isinstance(node, Text):
            for i, c in enumerate(node.text):
                self._number((node, i), Text(c))
        elif isinstance(node, Chars):
            self._number((node, 0), node)
        elif isinstance(node, Token):
            self._number((node, 0), None)
        return [name for item in parts(node) for name in self._find_within(item)]

    def _is_whole(self, node: Node) -> bool:
        """Whether a part is one lexeme."""
        key = key_of(node)
        if key in self._numbers:
            return True
        if key in self._apart or not all(name in self._regular for name in names(node)):
            return False
        if any(isinstance(part, Token) for part in walk(node)) or not any(True for _ in _characters(node, self._rules)):
            return False
        try:
            self._number(key, node)
        except (OverflowError, RecursionError):
            self._apart.add(key)
            return False
        return True

    def _number(self, key: Place, node: Node | None) -> None:
        automaton = Automaton(self._rules, self._letters)
        if node is not None:
            automaton.add(node, automaton.start, automaton.end)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._automata.append(automaton)

    # -- what follows what --

    def _first_of(self, node: Node) -> int:
        """The lexemes that a part may begin with."""
        key = key_of(node)
        if key in self._numbers:
            return 1 << self._numbers[key]
        if isinstance(node, Name):
            return self._first.get(node.name, 0)
        if isinstance(node, Text | Chars | Token):
            return 1 << self._numbers[node, 0] if (node, 0) in self._numbers else 0
        chosen = 0
        for item in parts(node):
            chosen |= self._first_of(item)
            if isinstance(node, Seq) and not nullable(item, self._empty):
                break
        return chosen

    def _firsts(self) -> dict[str, int]:
        self._first = dict.fromkeys(self._bodies, 0)
        while True:
            found = {name: self._first_of(node) for name, node in self._bodies.items()}
            if found == self._first:
                return found
            self._first = found

    def _follow_all(self) -> None:
        while True:
            before = dict(self._after)
            for name, node in self._bodies.items():
                self._follow_within(node, self._after[name])
            if before == self._after:
                return

    def _follow_within(self, node: Node, after: int) -> None:
        """Notes that a part is followed by the lexemes `after`."""
        key = key_of(node)
        if key in self._numbers or isinstance(node, Name):
            self._after[key] |= after
        elif isinstance(node, Text):
            for i in range(len(node.text)):
                last = i + 1 == len(node.text)
                self._after[node, i] |= after if last else 1 << self._numbers[node, i + 1]
        elif isinstance(node, Chars | Token):
            self._after[node, 0] |= after
        elif isinstance(node, Seq):
            for item in reversed(node.items):
                self._follow_within(item, after)
                after = self._first_of(item) | (after if nullable(item, self._empty) else 0)
        elif isinstance(node, Alt):
            for item in node.items:
                self._follow_within(item, after)
        elif isinstance(node, Repeat):
            self._follow_within(node.item, after | (0 if node.most == 1 else self._first_of(node.item)))

    def _letters_of(self, chosen: int) -> int:
        """The characters that any of these lexemes begins with."""
        letters = 0
        for number in _numbers(chosen):
            letters |= self._automata[number].first()
        return letters

    # -- lexemes that meet --

    def _together(self, work: _Work) -> set[tuple[int, int]]:
        """All pairs of lexemes that may begin at one place, each both ways round."""
        after = [self._after[key] for key in self._numbers]
        found: set[tuple[int, int]] = set()
        todo = [(chosen, chosen) for chosen in {self._first["root"], *after}]
        while todo:
            ours, theirs = todo.pop()
            work.count(ours.bit_count() * theirs.bit_count())
            for a in _numbers(ours):
                for b in _numbers(theirs):
                    if (a, b) in found:
                        continue
                    found |= {(a, b), (b, a)}
                    if a != b and self._share(a, b, work):
                        todo.append((after[a], after[b]))
        return found

    def _pairs(self, a: int, b: int, work: _Work) -> Iterator[tuple[int, int]]:
        """States of two automata that one and the same word leads to; not those that no character leads to."""
        one, two = self._automata[a], self._automata[b]
        work.count(len(one.closed(one.start)) * len(two.closed(two.start)))
        todo = [(x, y) for x in one.closed(one.start) for y in two.closed(two.start)]
        seen: set[tuple[int, int]] = set()
        while todo:
            x, y = todo.pop()
            work.count(len(one.edges[x]) * len(two.edges[y]))
            for letters, x_next in one.edges[x]:
                for others, y_next in two.edges[y]:
                    if not letters & others:
                        continue
                    work.count(len(one.closed(x_next)) * len(two.closed(y_next)))
                    for pair in ((p, q) for p in one.closed(x_next) for q in two.closed(y_next)):
                        if pair not in seen:
                            seen.add(pair)
                            todo.append(pair)
                            yield pair

    def _share(self, a: int, b: int, work: _Work) -> bool:
        """Whether two lexemes have a word in common."""
        return (self._automata[a].end, self._automata[b].end) in self._pairs(a, b, work)

    def _runs_on(self, shorter: int, longer: int, follow: list[int], work: _Work) -> bool:
        """Whether a word of the longer goes on behind a word of the shorter with what may follow that."""
        end, edges, after = self._automata[shorter].end, self._automata[longer].edges, follow[shorter]
        return any(
            x == end and any(letters & after for letters, _ in edges[y]) for x, y in self._pairs(shorter, longer, work)
        )


def _numbers(chosen: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while chosen:
        low = chosen & -chosen
        yield low.bit_length() - 1
        chosen ^= low


def _characters(node: Node, rules: Rules) -> Iterator[Node]:
    """The parts of a regular part that are characters: none where it can only be nothing."""
    todo, seen = [node], set[str]()
    while todo:
        part = todo.pop()
        if isinstance(part, Chars) or (isinstance(part, Text) and part.text):
            yield part
        elif isinstance(part, Name) and part.name not in seen:
            seen.add(part.name)
            todo.append(rules[part.name])
        elif not (isinstance(part, Repeat) and part.most == 0):
            todo += parts(part)
