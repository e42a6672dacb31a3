"""Automata of the regular parts of a grammar: what their words begin with, and how they go on.

In: parts of rules (`gbnf.py`). Out: automata over classes of characters that no part tells apart, as bits. A repetition
is without end in them: an automaton has all words of its part, and may have more.
"""

from __future__ import annotations

from collections.abc import Iterable

from ggufpy.grammar.gbnf import Alt, Chars, Name, Node, Repeat, Rules, Text, parts

MOST_STATES = 500  # of one automaton


class Automaton:
    """A nondeterministic automaton over classes of characters; `add` raises OverflowError for too many states."""

    def __init__(self, rules: Rules, letters: Letters) -> None:
        self._rules, self._letters = rules, letters
        self.edges: list[list[tuple[int, int]]] = []  # by state: classes of characters, and where they lead
        self._free: list[list[int]] = []  # by state: where nothing leads
        self.start, self.end = self._state(), self._state()
        self._closed: dict[int, frozenset[int]] = {}

    def _state(self) -> int:
        if len(self.edges) >= MOST_STATES:
            raise OverflowError
        self.edges.append([])
        self._free.append([])
        return len(self.edges) - 1

    def add(self, node: Node, start: int, end: int) -> None:
        """What leads from `start` to `end` is the words of `node`."""
        if isinstance(node, Text):
            for c in node.text:
                after = self._state()
                self.edges[start].append((self._letters.of([(ord(c), ord(c))]), after))
                start = after
            self._free[start].append(end)
        elif isinstance(node, Chars):
            self.edges[start].append((self._letters.of(node.ranges), end))
        elif isinstance(node, Name):
            self.add(self._rules[node.name], start, end)
        elif isinstance(node, Alt):
            for item in node.items:
                self.add(item, start, end)
        elif isinstance(node, Repeat):
            if node.most != 0:
                self._repeat(node, start, end)
            else:
                self._free[start].append(end)
        else:
            for item in parts(node):
                after = self._state()
                self.add(item, start, after)
                start = after
            self._free[start].append(end)

    def _repeat(self, node: Repeat, start: int, end: int) -> None:
        before, after = self._state(), self._state()
        self._free[start].append(before)
        self.add(node.item, before, after)
        self._free[after].append(end)
        if node.least == 0:
            self._free[before].append(end)
        if node.most != 1:
            self._free[after].append(before)

    def closed(self, state: int) -> frozenset[int]:
        """The states that one is at the same time."""
        if state not in self._closed:
            found, todo = {state}, [state]
            while todo:
                for other in self._free[todo.pop()]:
                    if other not in found:
                        found.add(other)
                        todo.append(other)
            self._closed[state] = frozenset(found)
        return self._closed[state]

    def first(self) -> int:
        """The characters that a word may begin with."""
        chosen = 0
        for state in self.closed(self.start):
            for letters, _ in self.edges[state]:
                chosen |= letters
        return chosen


class Letters:
    """Characters in classes that no part of a grammar tells apart."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        bounds = {0}
        for node in nodes:
            ranges = node.ranges if isinstance(node, Chars) else ()
            if isinstance(node, Text):
                ranges = tuple((ord(c), ord(c)) for c in node.text)
            bounds |= {bound for first, last in ranges for bound in (first, last + 1)}
        self._index = {bound: i for i, bound in enumerate(sorted(bounds))}

    def of(self, ranges: Iterable[tuple[int, int]]) -> int:
        """The classes of all characters of `ranges`, as bits."""
        chosen = 0
        for first, last in ranges:
            end = self._index.get(last + 1, len(self._index))
            chosen |= (1 << end) - (1 << self._index[first])
        return chosen
