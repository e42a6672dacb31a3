"""A grammar's text with the tokens that it names cut out, to be filled in once the vocabulary is known.

In: Lark text. Out: its parts, and the tokens between them. Names are looked up in the model's own vocabulary, so that
any token can be named, not only those that llguidance takes for special ones. Schemas within (`%json`) are rewritten as
all are.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.grammar.vocabulary import Vocabulary

# Between the parts of JSON: nothing, one space, or one line end with its indent. Models that may write white space
# without end do so (llama.cpp's pull request 7866); this is llama.cpp's rule.
WHITE_SPACE = r" |\n[ \t]{0,20}"

_PIECE = re.compile(
    r"""
    (?P<skip> "(?:\\.|[^"\\])*"i? | //[^\n]* | \#[^\n]* | /(?:\\.|[^/\\\n])+/[a-z]* )
    | (?P<json> %json\s* (?=\{) )
    | (?P<token> <[^<>\s]+> )
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBERS = re.compile(r"<\[(\^?)(\*|[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)\]>")


@dataclass(frozen=True)
class TokenName:
    """A token as a grammar names it: `text` with its angle brackets, or numbers in square ones within.

    `others` means every token but this one, and but those that are no text.
    """

    text: str
    others: bool = False

    def ids(self, vocabulary: Vocabulary) -> list[tuple[int, int]]:
        """First and last id of each run of tokens that are meant. Raises GGUFError for one that is not there."""
        match = _NUMBERS.fullmatch(self.text)
        if match is None:
            token = vocabulary.named(self.text)
            if token is None:
                token = vocabulary.named(self.text[1:-1])
            if token is None:
                raise GGUFError(f"the grammar names the token {self.text}, and the vocabulary has none of this text")
            chosen, without = {token}, self.others
        else:
            chosen, without = _numbered(match[2], vocabulary), self.others or match[1] == "^"
            if match[2] == "*":
                chosen, without = set(), not without
        if without:
            never = vocabulary.special if self.others else frozenset(vocabulary.ends)
            chosen = {*range(vocabulary.n_known)} - chosen - never
        if len(chosen) == 1:  # the library loses a token alone where another one has the same bytes: both then count
            chosen |= {*vocabulary.alike(*chosen)}
        if not chosen:
            raise GGUFError(f"the grammar's {self.text} is no token at all")
        return _runs(sorted(chosen))


def _numbered(text: str, vocabulary: Vocabulary) -> set[int]:
    """The tokens of a list of numbers and ranges."""
    chosen: set[int] = set()
    for part in text.split(",") if text != "*" else ():
        first, _, last = part.partition("-")
        if int(last or first) >= vocabulary.n_known:
            raise GGUFError(f"the grammar names token {last or first}; the vocabulary has {vocabulary.n_known:,}")
        chosen |= {*range(int(first), int(last or first) + 1)}
    return chosen


def _runs(tokens: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for token in tokens:
        if runs and runs[-1][1] == token - 1:
            runs[-1] = (runs[-1][0], token)
        else:
            runs.append((token, token))
    return runs


@dataclass(frozen=True)
class Source:
    """Lark text in `parts`, with one of `tokens` between each two of them."""

    parts: tuple[str, ...]
    tokens: tuple[TokenName, ...] = ()

    def filled(self, vocabulary: Vocabulary | None) -> str:
        """The text with the numbers of its tokens; without a vocabulary token 0 stands for each, as a trial."""
        filled = [self.parts[0]]
        for name, part in zip(self.tokens, self.parts[1:], strict=True):
            runs = [(0, 0)] if vocabulary is None else name.ids(vocabulary)
            filled += [f"<[{','.join(str(a) if a == b else f'{a}-{b}' for a, b in runs)}]>", part]
        return "".join(filled)


def source_of(lark: str) -> Source:
    """Lark text taken apart. Raises GGUFError for a schema within that cannot be enforced."""
    parts: list[str] = [""]
    tokens: list[TokenName] = []
    at = schemas = 0
    while match := _PIECE.search(lark, at):
        parts[-1] += lark[at : match.start()]
        at = match.end()
        if match["token"] is not None:
            tokens.append(TokenName(match[0]))
            parts.append("")
        elif match["json"] is not None:
            schemas += 1
            text, at = _schema(lark, at, f"%json {schemas}")
            parts[-1] += f"%json {text}"
        else:
            parts[-1] += match[0]
    parts[-1] += lark[at:]
    return Source(tuple(parts), tuple(tokens))


def _schema(lark: str, at: int, name: str) -> tuple[str, int]:
    """A schema within a grammar, rewritten, and where it ends."""
    try:
        value, end = json.JSONDecoder().raw_decode(lark, at)
    except (ValueError, RecursionError) as error:
        raise GGUFError(f"{name}: this is not JSON: {error}") from error
    return schema_text(value, name), end


def schema_text(schema: Any, name: str) -> str:
    """A schema as llguidance enforces it, as JSON text. Raises GGUFError for what cannot be held to."""
    from ggufpy.grammar import library
    from ggufpy.grammar.blame import explain
    from ggufpy.grammar.document import Document
    from ggufpy.grammar.objects import productive
    from ggufpy.grammar.schema import enforced

    document = Document(schema, name)
    made = enforced(document)
    if not productive(made):
        raise GGUFError(f"{name}: it holds itself for ever, and no text could end; make a property of it optional")
    text = json.dumps(made | {"x-guidance": {"whitespace_pattern": WHITE_SPACE}})
    if message := library.fault(library.json_grammar(text)):
        raise explain(document, message)
    return text
