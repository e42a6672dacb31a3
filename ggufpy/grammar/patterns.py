"""Regular expressions of JSON schemas (ECMA-262, as Unicode) in the syntax of Rust's, which llguidance reads.

In: a pattern, which may match anywhere in a string. Out: one that describes the whole string. Characters come out as
numbers and classes by their members, so that nothing means something else over there. What is not regular, or has no
meaning as a whole string (look-around, references, \\b, anchors in the middle), is refused.
"""

from __future__ import annotations

import re
from itertools import product

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

MOST_CHARACTERS = 20_000
_MOST_BRANCHES = 256  # alternatives that begin or end differently
_MOST_DEPTH = 60
MOST_REPEATS = 100_000

ANYTHING = "(?s:.*)"
_DIGIT = "0-9"
_WORD = "0-9A-Za-z_"
# ECMA-262, 22.2.2.9 CharacterClassEscape: white space and line terminators
_SPACE = r"\x{9}-\x{d}\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
_DOT = r"[^\x{a}\x{d}\x{2028}\x{2029}]"
_CLASSES = {
    "d": f"[{_DIGIT}]",
    "D": f"[^{_DIGIT}]",
    "w": f"[{_WORD}]",
    "W": f"[^{_WORD}]",
    "s": f"[{_SPACE}]",
    "S": f"[^{_SPACE}]",
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_QUANTIFIER = re.compile(r"(?:[*+?]|\{([0-9]+)(,([0-9]*))?\})\??")
_PROPERTY = re.compile(r"\{[A-Za-z_]+(=[A-Za-z_]+)?\}")
_LOOKS = {"(?=": "look-ahead", "(?!": "look-ahead", "(?<=": "look-behind", "(?<!": "look-behind"}


@dataclass(frozen=True)
class _Branch:
    """An alternative: its text in Rust's syntax, and whether it begins and ends where the string does."""

    text: str = ""
    starts: bool = False
    ends: bool = False

    @property
    def anchored(self) -> bool:
        return self.starts or self.ends


def whole_string(pattern: str) -> str:
    """A regular expression in Rust's syntax for the strings in which `pattern` matches. Raises GGUFError."""
    if len(pattern) > MOST_CHARACTERS:
        raise GGUFError(f"the pattern has {len(pattern):,} characters; at most {MOST_CHARACTERS:,} are read")
    reader = _Reader(pattern)
    branches = reader.disjunction(0)
    if reader.at < len(pattern):
        raise reader.error("there is no group for this ')'")
    parts = [
        ("" if branch.starts else ANYTHING) + branch.text + ("" if branch.ends else ANYTHING) for branch in branches
    ]
    return f"(?:{'|'.join(parts)})"


def character(code: int) -> str:
    """A character by its number."""
    return f"\\x{{{code:x}}}"


def quoted(text: str) -> str:
    """A regular expression for `text` itself."""
    return "".join(c if c.isascii() and c.isalnum() else character(ord(c)) for c in text)


def none_of(names: list[str]) -> str:
    """A regular expression for every string that is not one of `names`, along the tree of their characters."""
    parts: list[str] = []
    todo = [("", sorted({*names}))]
    while todo:
        prefix, group = todo.pop()  # the names that begin with the prefix
        if prefix not in group:
            parts.append(quoted(prefix))
        following = sorted({name[len(prefix)] for name in group if len(name) > len(prefix)})
        others = "".join(character(ord(c)) for c in following)
        parts.append(quoted(prefix) + (f"[^{others}]" if others else "(?s:.)") + ANYTHING)
        todo += [(prefix + c, [name for name in group if name.startswith(prefix + c)]) for c in following]
    return f"(?:{'|'.join(parts)})"


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def error(self, message: str) -> GGUFError:
        """An error at the present place."""
        return GGUFError(f"{message} (at {self._pattern[self.at : self.at + 12]!r}, character {self.at})")

    def disjunction(self, depth: int) -> list[_Branch]:
        """Alternatives up to the end or a ')'."""
        if depth > _MOST_DEPTH:
            raise self.error(f"groups are more than {_MOST_DEPTH} deep")
        branches = self._alternative(depth)
        while self._take("|"):
            branches += self._alternative(depth)
        if len(branches) > _MOST_BRANCHES and any(branch.anchored for branch in branches):
            raise self.error(f"more than {_MOST_BRANCHES} alternatives begin or end with ^ or $")
        return branches

    def _alternative(self, depth: int) -> list[_Branch]:
        branches = [_Branch()]
        while self.at < len(self._pattern) and self._pattern[self.at] not in "|)":
            branches = [self._joined(a, b) for a, b in product(branches, self._term(depth))]
            if len(branches) > _MOST_BRANCHES:
                raise self.error(f"more than {_MOST_BRANCHES} alternatives begin or end with ^ or $")
        return branches

    def _joined(self, a: _Branch, b: _Branch) -> _Branch:
        if b.starts and (a.text or a.ends):
            raise self.error("^ stands where the string cannot begin")
        if a.ends and b.text:
            raise self.error("$ stands where the string cannot end")
        return _Branch(a.text + b.text, a.starts or b.starts, a.ends or b.ends)

    def _term(self, depth: int) -> list[_Branch]:
        if self._take("^"):
            return [_Branch(starts=True)]
        if self._take("$"):
            return [_Branch(ends=True)]
        branches = self._atom(depth)
        times = self._quantifier()
        if not times:
            return branches
        if any(branch.anchored for branch in branches):
            raise self.error("^ or $ is within something that is repeated")
        return [_Branch(f"(?:{branches[0].text}){times}")]

    def _quantifier(self) -> str:
        match = _QUANTIFIER.match(self._pattern, self.at)
        if match is None:
            return ""
        self.at = match.end()
        text = match[0]
        if text[0] != "{":
            return text[0]
        least, most = int(match[1]), match[3]
        if max(least, int(most or 0)) > MOST_REPEATS or len(text) > 20:
            raise self.error(f"something is repeated more than {MOST_REPEATS:,} times")
        if most and int(most) < least:
            raise self.error("the numbers of {} are in the wrong order")
        return f"{{{least}}}" if match[2] is None else f"{{{least},{most}}}"

    def _atom(self, depth: int) -> list[_Branch]:
        c = self._pattern[self.at]
        if c == "(":
            return self._group(depth)
        if c == "[":
            return [_Branch(self._class())]
        if c == "\\":
            return [_Branch(self._escape())]
        if c in "*+?":
            raise self.error("there is nothing to repeat")
        if c == "{" and _QUANTIFIER.match(self._pattern, self.at):
            raise self.error("there is nothing to repeat")
        if self._pattern.startswith("{,", self.at):
            raise self.error("write {0,n}: {,n} is not ECMA-262's")
        self.at += 1
        return [_Branch(_DOT if c == "." else self._literal(ord(c)))]

    def _group(self, depth: int) -> list[_Branch]:
        for mark, name in _LOOKS.items():
            if self._pattern.startswith(mark, self.at):
                raise self.error(f"{name} is not regular; write what may stand there instead")
        opening = re.compile(r"\(\?:|\(\?P?<[A-Za-z_]\w*>|\((?!\?)").match(self._pattern, self.at)
        if opening is None:
            raise self.error("this kind of group is not one of ECMA-262's")
        self.at = opening.end()
        branches = self.disjunction(depth + 1)
        if not self._take(")"):
            raise self.error("a group is not closed")
        if any(branch.anchored for branch in branches):
            return [b if b.text == "" or b.anchored else _Branch(f"(?:{b.text})") for b in branches]
        return [_Branch(f"(?:{'|'.join(branch.text for branch in branches)})")]

    def _class(self) -> str:
        self.at += 1
        negated = self._take("^")
        members: list[str] = []
        while not self._take("]"):
            first = self._member()
            if not self._pattern.startswith("-", self.at) or self._pattern.startswith("-]", self.at):
                members.append(first if isinstance(first, str) else self._literal(first))
                continue
            self.at += 1
            last = self._member()
            if isinstance(first, str) or isinstance(last, str):
                raise self.error("a range of a class goes from a character to a character")
            if last < first:
                raise self.error("a range of a class is in the wrong order")
            members.append(f"{self._literal(first)}-{self._literal(last)}")
        if not members:
            if negated:
                return "(?s:.)"
            raise self.error("an empty class matches nothing")
        return f"[{'^' if negated else ''}{''.join(members)}]"

    def _member(self) -> int | str:
        """A character's number, or a class in Rust's syntax."""
        if self.at >= len(self._pattern):
            raise self.error("a class is not closed")
        c = self._pattern[self.at]
        if c != "\\":
            self.at += 1
            return ord(c)
        if self._pattern.startswith("\\b", self.at):
            self.at += 2
            return 8
        if self._pattern.startswith("\\-", self.at):
            self.at += 2
            return ord("-")
        code = self._code()
        return self._escape() if code is None else code

    def _escape(self) -> str:
        code = self._code()
        if code is not None:
            return self._literal(code)
        c = self._pattern[self.at + 1 : self.at + 2]
        if c in _CLASSES and c:
            self.at += 2
            return _CLASSES[c]
        if c and c in "pP":
            match = _PROPERTY.match(self._pattern, self.at + 2)
            if match is None:
                raise self.error(f"\\{c} has no property of characters behind it, as \\{c}{{L}}")
            self.at = match.end()
            return f"\\{c}{match[0]}"
        if c and c in "bB":
            raise self.error("\\b looks around; write what may stand there instead")
        if c and (c in "123456789" or c == "k"):
            raise self.error("a reference to a group is not regular")
        raise self.error("this escape is not one of ECMA-262's; the string's begin is ^, its end $")

    def _code(self) -> int | None:
        """The number of the escaped character here, None if it is no character's escape."""
        rest = self._pattern[self.at + 1 : self.at + 12]
        for form in (r"u\{([0-9A-Fa-f]{1,6})\}", r"u([0-9A-Fa-f]{4})", r"x([0-9A-Fa-f]{2})"):
            if match := re.match(form, rest):
                self.at += 1 + match.end()
                return self._pair(int(match[1], 16))
        if match := re.match(r"c([A-Za-z])", rest):
            self.at += 3
            return ord(match[1]) % 32
        c = rest[:1]
        if c == "0" and rest[1:2].isdigit():
            return None
        if c in _CONTROLS and c:
            self.at += 2
            return _CONTROLS[c]
        if c and not (c.isascii() and c.isalnum()):
            self.at += 2
            return ord(c)
        return None

    def _pair(self, code: int) -> int:
        """A character of two \\u escapes, where `code` is the first of such a pair."""
        low = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})").match(self._pattern, self.at)
        if 0xD800 <= code < 0xDC00 and low:
            self.at = low.end()
            return 0x10000 + (code - 0xD800) * 0x400 + int(low[1], 16) - 0xDC00
        return code

    def _literal(self, code: int) -> str:
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise self.error("half of a surrogate pair is no character")
        return quoted(chr(code))

    def _take(self, text: str) -> bool:
        if self._pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False
