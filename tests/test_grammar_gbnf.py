"""GBNF: the texts are those of its definition, whatever parts become lexemes; what is wrong is said with its line."""

from __future__ import annotations

import random
import time

import pytest
from grammar_reference import matcher, matches, takes, walked

from ggufpy import GGUFError
from ggufpy.grammar import Grammar, gbnf

ARITHMETIC = r"""
root  ::= (sum "=" space number "\n")+
sum   ::= value ([-+*/] space value)*
value ::= number | "(" space sum ")" space
number ::= [0-9]+ space
space ::= [ \t]*
"""
JSON = r"""
# JSON as models write it
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
    string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""
OLD_JSON = JSON.replace(r'ws     ::= | " " | "\n" [ \t]{0,20}', r"ws     ::= ([ \t\n] ws)?")
CHESS = r"""
root ::= ("1. " move " " move "\n") ([1-9] [0-9]? ". " move " " move "\n")*
move ::= (pawn | piece | "O-O" "-O"?) [+#]?
piece ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBQR])?
"""
LIST = 'root ::= item+\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"'
C = r"""
root ::= (declaration)*
declaration ::= type name "(" parameter? ")" "{" statement* "}"
type ::= ("int" | "float" | "char") ws
name ::= [a-zA-Z_] [a-zA-Z_0-9]*
parameter ::= type name
statement ::= (type name ws "=" ws expression ";") | (name ws "=" ws expression ";") | "return" ws expression ";" |
  "while" "(" condition ")" "{" statement* "}"
condition ::= expression ("==" | "<" | ">=") expression
expression ::= term (("+" | "-") term)*
term ::= factor (("*" | "/") factor)*
factor ::= name | [0-9]+ | "(" expression ")" | name "(" (expression ("," ws expression)*)? ")"
ws ::= [ \t\n]+
"""


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (ARITHMETIC, ["1+2=3\n", "(1 + 22)*3=9\n1=1\n"], ["1+=2\n", "(1=1\n", "1+2=3"]),
        (
            JSON,
            ["{}", '{ "a": [1, -2.5e3, "x\\u00e9", null]}', '{\n  "é": true\n}\n'],
            ["[]", '{"a":}', '{"a":01}', "{  }"],
        ),
        (OLD_JSON, ["{}", '{ "a" : [1, "x", {}]}', "{ \n \t }"], ["[]", '{"a":}']),
        (CHESS, ["1. e4 e5\n", "1. e4 e5\n2. Nf3 Nxc6+\n13. O-O-O dxe8=Q#\n"], ["1. e4\n", "2. e4 e5\n", "1. e4 e9\n"]),
        (LIST, ["- a\n- b c\n"], ["- a", "a\n", "- \n"]),
        (
            C,
            ["", "int main(){return 0;}", "int f(int x){x = x*2;while(x<9){x = f(x, 1);}}"],
            ["int f({}", "intmain(){}"],
        ),
        ('root ::= "(" root ")" | body "end"\nbody ::= [a-z]+', ["(abend)", "abendend"], ["end", "(abend"]),
        ('root ::= "a" root "b" | ("a" | "ab") "c"', ["aabcb", "abc", "aacb"], ["aab", "c"]),
        ('root ::= "é" [à-ü] "\\u00e9" "\\U0001F600" [\\]\\-a^]', ["éàé😀]", "éàé😀-", "éàé😀^"], ["éaé😀a", "éàé😀b"]),
        ('root ::= a{2} "x"{0,2} ("b" | "")\na ::= "q"? "r" # c\n# d\n', ["rqrxxb", "rr"], ["rrxxx", "r"]),
        ('root ::= "a"{2,} "b"{3}', ["aabbb", "aaaabbb"], ["abbb", "aabb", "aabbbb"]),
        ('root ::= ("ab" "c")* [^abc]\r\n', ["abcabcx", "\n"], ["abx", "abca"]),
        ('root ::= . "\\x41" ("b" |) |\n "z"', ["xAb", "\nA", "z"], ["A", "xa"]),
        ('root ::= "a" ("b" "c"){0} other ? # c\nother ::= "x"*?', ["a", "axx"], ["abc"]),
        ('root ::= dead | "a"\ndead ::= "x" dead', ["a"], ["x", "xa"]),
        ('root ::= "1"\nroot ::= "2"', ["2"], ["1"]),
    ],
)
def test_takes_what_llama_cpp_takes(text: str, good: list[str], bad: list[str]) -> None:
    grammar, rules = Grammar.from_gbnf(text), gbnf.parse(text)
    made = matcher(grammar)
    for sample in good + bad:
        assert takes(made, sample) == matches(rules, sample) == (sample in good), sample


@pytest.mark.parametrize("text", [ARITHMETIC, JSON, OLD_JSON, CHESS, LIST, C])
def test_no_walk_leads_to_a_dead_end(text: str) -> None:
    grammar, rules = Grammar.from_gbnf(text), gbnf.parse(text)
    walks = [walked(grammar, seed, 150) for seed in range(8)]
    for walk in filter(None, walks):
        assert matches(rules, walk), walk


@pytest.mark.parametrize("text", [JSON, OLD_JSON])
def test_strings_stay_lexemes(text: str) -> None:
    """Else a mask goes through every token character by character."""
    lark = Grammar.from_gbnf(text).source.filled(None)
    strings = [line for line in lark.splitlines() if line.startswith("T") and "x{80}-\\x{10ffff}]/" in line]
    assert len(strings) == 1
    assert ")*" in strings[0]


LEAVES = ('"a"', '"b"', '"ab"', '"ba"', "[ab]", "[^a]", '"c"', "[a-c]", '"abc"', '""', '"(" root ")"', "x", "y", "z")


def _random_part(chance: random.Random, depth: int) -> str:
    kind = chance.random()
    if depth == 0 or kind < 0.3:
        return chance.choice(LEAVES)
    inner = [_random_part(chance, depth - 1) for _ in range(chance.randint(1, 3))]
    if kind < 0.55:
        return " ".join(inner)
    if kind < 0.75:
        return f"({' | '.join(inner)})"
    return f"({inner[0]}){chance.choice(['*', '+', '?', '{2}', '{1,3}', '{0,2}'])}"


def _compare(seed: int) -> bool:
    """Compares a random grammar with the definition, by texts and by walks; whether it was one."""
    chance = random.Random(seed)
    names = ("root", "x", "y", "z")
    text = "\n".join(f"{name} ::= {_random_part(chance, 3 if name == 'root' else 2)}" for name in names)
    try:
        grammar = Grammar.from_gbnf(text)
    except GGUFError as error:
        if "left recursion" in str(error) or "has no end" in str(error):
            return False
        raise
    rules, made = gbnf.parse(text), matcher(grammar)
    for _ in range(15):
        sample = "".join(chance.choice("aabbc()") for _ in range(chance.randint(0, 7)))
        assert takes(made, sample) == matches(rules, sample), (text, sample)
    for walk in filter(None, (walked(grammar, seed * 10 + i, 60) for i in range(2))):
        assert matches(rules, walk), (text, walk)
    return True


def test_random_grammars() -> None:
    assert sum(map(_compare, range(250))) > 150


@pytest.mark.slow
def test_more_random_grammars() -> None:
    assert sum(map(_compare, range(1000, 5000))) > 2500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('root ::= root "a" | "b"', "the rule root begins with itself (left recursion)"),
        ('root ::= x\nx ::= ""? y\ny ::= x "a" | "b"', "begins with itself"),
        ('foo ::= "a"', "no rule named root"),
        ("root ::= bar", "the rule root uses bar, and there is no rule of this name"),
        ('root ::= "a" root', "root has no end"),
        ('root ::= "a', "line 1: a text is not closed"),
        ('root ::= "b"\n\nx ::= [a', "line 3: a class is not closed"),
        ("root ::= []", "a class of no characters"),
        ("root ::= [z-a]", "in the wrong order"),
        ('root ::= "\\q"', "\\q is not an escape"),
        ('root ::= "\\x4"', "\\x wants 2 hexadecimal digits"),
        ('root ::= "\\UFFFFFFFF"', "\\U wants 8 hexadecimal digits of a character"),
        ('root ::= "a"{3,1}', "in the wrong order"),
        ('root ::= "a"{x}', "a repetition is written"),
        ('root ::= "a"{99999}', "more than 10,000 repetitions"),
        ("root ::= *", "there is nothing to repeat"),
        ('root ::= ("a"', "a group is not closed"),
        ('root ::= "a")', "a rule ends at the end of its line"),
        ("root : x", "::= is missing behind root"),
        ('root ::= "a"\n| "b"', "the name of a rule is wanted"),
        ("root ::= <a b>", "a token is written"),
        ("root ::= " + "(" * 100 + '"a"' + ")" * 100, "groups are more than 60 deep"),
        ("", "grammar is empty"),
        ("x" * 400_000, "at most 300,000 are read"),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(GGUFError) as caught:
        Grammar.from_gbnf(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


HOSTILE = [
    "\n".join(f"a{i} ::= a{i + 1} a{i + 1}" for i in range(40)) + '\na40 ::= "x"\nroot ::= a0',
    "\n".join(f'a{i} ::= a{i + 1} a{i + 1} | "(" root ")"' for i in range(40)) + '\na40 ::= "x"\nroot ::= a0',
    "\n".join(f'a{i} ::= "b" a{i + 1}' for i in range(900)) + '\na900 ::= "x"\nroot ::= a0',
    "\n".join(f'a{i} ::= "b" a{i + 1} | "(" root ")"' for i in range(900)) + '\na900 ::= "x"\nroot ::= a0',
    "\n".join(f'a{i} ::= "x"' for i in range(2000)),
    'root ::= ((("a"{0,10000}){0,10000}){0,10000}){0,10000}',
    'root ::= "x" root "y" | ((("a"{0,1000}){0,1000}){0,1000})',
    'root ::= "(" root ")" | ' + " | ".join(f'[a-z]* "{i}" [a-z]*' for i in range(150)),
    'root ::= "(" root ")" | ' + " ".join('("a" | "b")?' for _ in range(2000)),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_grammars_take_bounded_time(number: int) -> None:
    started = time.process_time()
    try:
        Grammar.from_gbnf(HOSTILE[number])
    except GGUFError as error:
        assert len(str(error)) < 600  # noqa: PT017 - most of them are fine
    assert time.process_time() - started < 4  # about 1 s of one quiet core at most
