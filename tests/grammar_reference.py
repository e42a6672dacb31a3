"""GBNF matched by definition: where a part of a text may end, tried from every place. What tests compare with.

Also what several tests of grammars share: bytes as tokens, and walks through a grammar.
"""

from __future__ import annotations

import random
from typing import Any

import llguidance
import numpy as np

from ggufpy.grammar import Grammar, gbnf, library

BYTES: Any = llguidance.LLTokenizer("byte")


def matcher(grammar: Grammar) -> Any:
    """llguidance's matcher of a grammar over bytes."""
    made = llguidance.LLMatcher(BYTES, grammar.text_for(None), log_level=0, limits=library.limits())
    assert not made.is_error(), made.get_error()
    return made


def takes(grammar: Grammar | Any, text: str) -> bool:
    """Whether a whole text is one of the grammar's."""
    state = matcher(grammar) if isinstance(grammar, Grammar) else grammar.deep_copy()
    data = list(text.encode())
    return state.try_consume_tokens(data) == len(data) and state.is_accepting()


def walked(grammar: Grammar, seed: int, most: int = 300) -> str | None:
    """A text that random choices among what is allowed lead to; None where it has no end after `most` bytes.

    Fails where nothing is allowed.
    """
    chance, state, data = random.Random(seed), matcher(grammar), bytearray()
    while len(data) < most:
        if state.is_accepting() and (state.is_stopped() or chance.random() < 0.3):
            return data.decode()
        mask = np.unpackbits(np.frombuffer(state.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.flatnonzero(mask[:256]).tolist()
        if not allowed:
            assert state.is_accepting(), f"nothing may follow {data!r}"
            return data.decode()
        byte = chance.choice(allowed)
        assert state.consume_token(byte)
        data.append(byte)
    return None


def matches(rules: gbnf.Rules, text: str) -> bool:
    """Whether `root` describes a whole text."""
    return len(text) in _Reference(rules, text).ends(gbnf.Name("root"), 0)


class _Reference:
    def __init__(self, rules: gbnf.Rules, text: str) -> None:
        self._rules, self._text = rules, text
        self._known: dict[tuple[gbnf.Node, int], frozenset[int]] = {}

    def ends(self, node: gbnf.Node, at: int) -> frozenset[int]:
        """Where a part that begins at `at` may end."""
        while isinstance(node, gbnf.Name):
            node = self._rules[node.name]
        if (node, at) not in self._known:
            self._known[node, at] = frozenset(self._ends(node, at))
        return self._known[node, at]

    def _ends(self, node: gbnf.Node, at: int) -> set[int]:
        if isinstance(node, gbnf.Text):
            return {at + len(node.text)} if self._text.startswith(node.text, at) else set()
        if isinstance(node, gbnf.Chars):
            here = ord(self._text[at]) if at < len(self._text) else -1
            return {at + 1} if any(a <= here <= b for a, b in node.ranges) else set()
        if isinstance(node, gbnf.Alt):
            return {end for item in node.items for end in self.ends(item, at)}
        if isinstance(node, gbnf.Repeat):
            return self._repeated(node, at)
        places = {at}
        for item in gbnf.parts(node):
            places = {end for place in places for end in self.ends(item, place)}
        return places

    def _repeated(self, node: gbnf.Repeat, at: int) -> set[int]:
        places, found, count = {at}, ({at} if node.least == 0 else set[int]()), 0
        enough = len(self._text) + node.least + 1
        most = enough if node.most is None else min(node.most, enough)
        while places and count < most:
            places = {end for place in places for end in self.ends(node.item, place)}
            count += 1
            if count >= node.least:
                if places <= found:
                    break
                found |= places
        return found
