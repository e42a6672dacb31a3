"""Patterns of schemas and formats: what the strings of each look like, against Python's own readers."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import uuid
from collections.abc import Callable

import pytest
from grammar_reference import matcher, takes, walked

from ggufpy import GGUFError
from ggufpy.grammar import Grammar
from ggufpy.grammar.formats import STRINGS
from ggufpy.grammar.patterns import none_of, whole_string

STRINGS_TRIED = [
    *("", "a", "b", "ab", "ba", "aab", "abc", "xaby", "a,b", ",a", "a,", "A1", "12", "a\nb", "\n", " a", "é", "٣"),
    *("a-b", "a]b", "^a", "a$", "\\", "/x", "AB-1234", "aaa", "b{,2}", "x" * 9, "\u2028", "\ufeff", "_", "a.b"),
]
PATTERNS = [
    *("a", "^a", "b$", "^a|b$", "(^a|b$)", "^(a|b)$", "(^|,)a(,|$)", "^$", "", "^(?:a|)$", "a|^$", "^a*?b"),
    *("^[a-z]+$", "[^a-z]", "^[\\w.-]+$", "\\d", "^\\D*$", "\\s", "^\\S+$", "^.+$", "\\.", "^\\/x$", "^[\\]a-]+$"),
    *("^[A-Z]{2}-\\d{4}$", "^a{2,}", "^a{1,2}$", "^(ab?)+$", "^(?P<n>a)b$", "(?:a)(?:b)", "\\x61\\u0062", "^\\u{e9}$"),
    *("^[\\x61-b]$", "[\\b]", "^\\cJ$", "^(a|(b|(c)))$", "\\^", "\\$$", "a{0}b", "^[^\\n]*$", "{", "^b\\{,2}$"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_python_has_them(pattern: str) -> None:
    """Where both agree what a class is: ASCII, white space."""
    python = re.compile(
        re.sub(r"\\u\{(\w+)\}", r"\\u00\1", pattern).replace("\\cJ", "\n").replace("$", r"\Z"), re.ASCII
    )
    if pattern == "\\$$":
        python = re.compile(r"\$\Z")
    grammar = matcher(Grammar.from_json_schema({"type": "string", "pattern": pattern}))
    for text in STRINGS_TRIED:
        if text in ("\u2028", "\ufeff"):  # line ends and white space of ECMA-262, not of Python's ASCII
            continue
        assert takes(grammar, json.dumps(text, ensure_ascii=False)) == bool(python.search(text)), text


def test_classes_are_those_of_ecma_262() -> None:
    def tried(pattern: str, text: str) -> bool:
        grammar = Grammar.from_json_schema({"type": "string", "pattern": f"^(?:{pattern})$"})
        return takes(grammar, json.dumps(text, ensure_ascii=False))

    assert [tried("\\d", c) for c in "3٣"] == [True, False]
    assert [tried("\\w", c) for c in "aé_"] == [True, False, True]
    assert [tried("\\s", c) for c in " \u00a0\ufeff\u2028x"] == [True, True, True, True, False]
    assert [tried(".", c) for c in "\n\r\u2028\u0085"] == [False, False, False, True]
    assert tried("\\uD83D\\uDE00", "😀")
    assert [tried("\\p{Lu}", c) for c in "ÉaA"] == [True, False, True]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?=a)b", "look-ahead is not regular"),
        ("(?<!a)b", "look-behind is not regular"),
        ("(a)\\1", "a reference to a group"),
        ("\\bfoo", "\\b looks around"),
        ("a$b", "$ stands where the string cannot end"),
        ("a^b", "^ stands where the string cannot begin"),
        ("(^a)+", "within something that is repeated"),
        ("\\Aab\\z", "not one of ECMA-262's"),
        ("(?i)a", "this kind of group"),
        ("a{,3}", "write {0,n}"),
        ("a{3,1}", "in the wrong order"),
        ("a{1000000}", "more than 100,000 times"),
        ("(a", "a group is not closed"),
        ("a)", "no group for this"),
        ("[a", "a class is not closed"),
        ("[]", "an empty class"),
        ("[b-a]", "in the wrong order"),
        ("[\\d-z]", "a range of a class"),
        ("*a", "nothing to repeat"),
        ("\\uD83D", "half of a surrogate pair"),
        ("(" * 100 + ")" * 100, "groups are more than 60 deep"),
        ("a" * 30_000, "at most 20,000 are read"),
        ("|".join(f"^{n}" for n in range(300)), "more than 256 alternatives"),
    ],
)
def test_what_is_not_regular_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(GGUFError) as caught:
        whole_string(pattern)
    assert said in str(caught.value)


@pytest.mark.parametrize("names", [["a"], ["a", "ab", "abc"], ["b", "é", 'q"'], [""]])
def test_names_that_are_none_of_some(names: list[str]) -> None:
    python = re.compile(re.sub(r"\\x\{(\w+)\}", lambda m: re.escape(chr(int(m[1], 16))), none_of(names)))
    for text in [*names, "a", "b", "ab", "abc", "abcd", "x", "", "é", "éa"]:
        assert bool(python.fullmatch(text)) == (text not in names)


READERS: dict[str, Callable[[str], object]] = {
    "date": datetime.date.fromisoformat,
    "date-time": lambda text: datetime.datetime.fromisoformat(text[:19]),
    "time": lambda text: datetime.time.fromisoformat(text[:8]),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
}


@pytest.mark.parametrize("name", sorted(STRINGS))
def test_formats_give_what_readers_take(name: str) -> None:
    grammar = Grammar.from_json_schema({"type": "string", "format": name})
    texts = [text for seed in range(60) if (text := walked(grammar, seed, 200)) is not None]
    assert len(texts) > 5
    for text in texts:
        READERS.get(name, str)(json.loads(text))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "0001-01-31"], ["2023-02-29", "1900-02-29", "2024-04-31", "0000-01-01"]),
        ("time", ["23:59:59Z", "00:00:00.5+01:30"], ["24:00:00Z", "12:00:00", "12:00Z"]),
        ("date-time", ["2024-01-01T00:00:00Z"], ["2024-01-01", "2024-01-01 00:00:00Z"]),
        ("duration", ["P1D", "PT1H2M", "P1Y2M3DT4S", "P3W"], ["P", "PT", "1D", "P1H", "P1W2D"]),
        ("email", ["a@b.c", "a.b+c@d"], ["@b", "a@", "a b@c", ".a@b"]),
        ("hostname", ["a", "a-b.c"], ["-a", "a.", "a_b"]),
        ("ipv4", ["0.0.0.0", "255.1.20.3"], ["256.1.1.1", "01.1.1.1", "1.1.1"]),
        (
            "ipv6",
            ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8", "::1.2.3.4"],
            [":", "1::2::3", "1:2", "1:2:3:4:5:6:7::8:9"],
        ),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
        ("uri", ["http://a.b/c?d#e", "mailto:a@b", "http://[::1]:80/"], ["a", "//a", "http://a b", "1:x"]),
        ("json-pointer", ["", "/a/~0~1"], ["a", "/~2"]),
        ("byte", ["", "QQ==", "QUJD"], ["Q", "QQ=", "Q Q="]),
    ],
)
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    grammar = matcher(Grammar.from_json_schema({"type": "string", "format": name}))
    assert [takes(grammar, f'"{text}"') for text in good] == [True] * len(good)
    assert [takes(grammar, f'"{text}"') for text in bad] == [False] * len(bad)
