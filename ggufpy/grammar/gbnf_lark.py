"""From rules of GBNF to llguidance's Lark, with the same texts.

In: rules. Out: Lark. GBNF knows characters only, llguidance lexemes: regular expressions of which it always takes the
longest match, where GBNF takes any. So a part of a rule becomes a lexeme of its own only where the longest match is the
only one that can go on (`lexemes.py`); what is left goes character by character. A grammar without recursion is one
regular expression, where no such question comes up.
"""

from __future__ import annotations

from ggufpy.errors import GGUFError
from ggufpy.grammar import lexemes
from ggufpy.grammar.gbnf import Alt, Chars, Name, Node, Repeat, Rules, Seq, Text, Token, names, nullable, nullable_rules
from ggufpy.grammar.patterns import character, quoted
from ggufpy.grammar.source import Source, TokenName

_MARK = "\0"  # where a token goes: no regular expression that is made here has this character


def source(rules: Rules) -> Source:
    """Lark text of `rules`, taken apart at its tokens."""
    writer = _Writer(rules, lexemes.regular_rules(rules))
    lark = writer.lark()
    return Source(tuple(lark.split(_MARK)), tuple(writer.tokens))


class _Writer:
    """Writes rules as Lark: `T1` are lexemes, `N1` those without the empty text, `r1` rules."""

    def __init__(self, rules: Rules, regular: frozenset[str]) -> None:
        self._rules, self._regular = rules, regular
        self._numbers = {name: i for i, name in enumerate(rules)}
        self._empty = nullable_rules(rules)
        self._lines: list[str] = []
        self._written: dict[object, str] = {}  # by rule or part: the lexeme's name
        self.tokens: list[TokenName] = []

    def lark(self) -> str:
        """The whole text."""
        if "root" in self._regular:
            self._lines.append(f"start: {self._lexeme('root', self._rules['root'])}")
            return "\n".join(self._lines)
        whole = lexemes.whole(self._rules, self._regular)
        self._lines.append(f"start: r{self._numbers['root']}")
        todo, seen = ["root"], {"root"}
        while todo:
            name = todo.pop()
            body, used = self._rule(self._rules[name], whole)
            self._lines.append(f"r{self._numbers[name]}: {body}")
            todo += [other for other in used if other not in seen]
            seen |= used
        return "\n".join(self._lines)

    def _rule(self, node: Node, whole: lexemes.Whole) -> tuple[str, set[str]]:
        """The body of a rule, and the rules that it uses."""
        used: set[str] = set()

        def write(node: Node) -> str:
            key = lexemes.key_of(node)
            if key in whole:
                name = self._lexeme(key, node)
                return self._unless_empty(name, node)
            if isinstance(node, Text):
                return " ".join(f"/{quoted(c)}/" for c in node.text) or '""'
            if isinstance(node, Chars):
                return _class(node)
            if isinstance(node, Token):
                self.tokens.append(node.token)
                return _MARK
            if isinstance(node, Name):
                used.add(node.name)
                return f"r{self._numbers[node.name]}"
            return self._composed(node, [write(item) for item in _items(node)])

        return write(node), used

    def _lexeme(self, key: object, node: Node) -> str:
        """The name of the lexeme of a part, or of the rule that it names; written when it is first asked for."""
        if key in self._written:
            return self._written[key]
        rule = self._rules[node.name] if isinstance(node, Name) else node
        for name in names(rule):
            self._lexeme(name, self._rules[name])
        name = self._written[key] = f"T{len(self._written)}"
        self._lines.append(f"{name}: {self._expression(rule)}")
        return name

    def _unless_empty(self, name: str, node: Node) -> str:
        """A lexeme that may be nothing is left out then: the library has none that are empty."""
        if not nullable(node, self._empty):
            return name
        line = f"N{name[1:]}: {name} & /(?s:.+)/"
        if line not in self._lines:
            self._lines.append(line)
        return f"N{name[1:]}?"

    def _expression(self, node: Node) -> str:
        """A regular part as a regular expression."""
        if isinstance(node, Text):
            return f"/{quoted(node.text)}/" if node.text else '""'
        if isinstance(node, Chars):
            return _class(node)
        if isinstance(node, Name):
            return self._lexeme(node.name, self._rules[node.name])
        if isinstance(node, Token):
            raise GGUFError("grammar: a token is within a regular expression")
        return self._composed(node, [self._expression(item) for item in _items(node)])

    def _composed(self, node: Node, items: list[str]) -> str:
        if isinstance(node, Alt):
            return f"({' | '.join(items)})"
        if isinstance(node, Repeat):
            most = "" if node.most is None else str(node.most)
            if node.most == 0:
                return '""'
            sign = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((node.least, node.most))
            return f"({items[0]}){sign or f'{{{node.least},{most}}}'}"
        return f"({' '.join(items)})" if items else '""'


def _items(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Seq | Alt):
        return node.items
    assert isinstance(node, Repeat)
    return (node.item,)


def _class(node: Chars) -> str:
    """A class of characters by their numbers."""
    ranges = (character(a) if a == b else f"{character(a)}-{character(b)}" for a, b in node.ranges)
    return f"/[{''.join(ranges)}]/"
