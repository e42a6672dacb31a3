"""Grammars of calls in llguidance's Lark.

Source: llguidance, docs/syntax.md (`<[id]>` is a token, `%json` a schema, `[lazy]` ends a rule at its first match).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.support.records import dataclass

# What tokens of control look like within a text: <...>, <｜...｜>, [NAME], [/NAME].
_TOKENS = re.compile(r"(<[^<>\s]+>|\[/?[A-Z_]+\])")
_SPACES = re.compile(r"(^\s+|\s+$|[ \t]*\n\s*)")
SPACE = "space"
ANYTHING = "/(?s:.*)/"

Control = Callable[[str], int | None]


@dataclass(frozen=True)
class Tool:
    """A tool as grammars want it: `number` makes the names of its rules; a schema that cannot be held is refused if
    `held`."""

    number: int
    name: str
    schema: Mapping[str, Any]
    held: bool = False


class Lark:
    """Rules of one grammar. `control` gives the id of the control token that a text is, None where it is none."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._rules: dict[str, str] = {}

    def rule(self, name: str, body: str) -> str:
        """Adds a rule and returns its name, with which options such as [lazy] are not part."""
        self._rules[name] = body
        return name.partition("[")[0]

    def has(self, name: str) -> bool:
        return name in self._rules

    def fresh(self, stem: str, body: str, options: str = "") -> str:
        """As `rule`, under a name that is not yet taken."""
        return self.rule(f"{stem}_{len(self._rules)}{options}", body)

    def text(self, text: str) -> str:
        """A text as terminals: control tokens within it as tokens, the rest as strings. White space at its ends and
        around line breaks may be any, as it may be for parsers."""
        made: list[str] = []
        for piece in _SPACES.split(text):
            if not piece or _SPACES.fullmatch(piece):
                made += [self.space()] if piece and made[-1:] != [SPACE] else []
                continue
            made += self._merged([self._part(part) for part in _TOKENS.split(piece) if part])
        return " ".join(made)

    def space(self) -> str:
        """Some white space, or none."""
        return self.rule(SPACE, r"/[ \t\n]{0,16}/")

    def is_token(self, text: str) -> bool:
        return self._control(text) is not None

    def schema(self, schema: Any) -> str:
        """JSON that fits a schema."""
        return "%json " + json.dumps(schema if isinstance(schema, Mapping) else {})

    def grammar(self) -> str:
        """All rules as one text."""
        return "".join(f"{name}: {body}\n" for name, body in self._rules.items())

    def _part(self, part: str) -> tuple[bool, str]:
        token = self._control(part) if _TOKENS.fullmatch(part) else None
        return (False, part) if token is None else (True, f"<[{token}]>")

    @staticmethod
    def _merged(parts: list[tuple[bool, str]]) -> list[str]:
        made: list[str] = []
        run = ""
        for token, text in [*parts, (True, "")]:
            if not token:
                run += text
                continue
            made += [quoted(run)] if run else []
            made += [text] if text else []
            run = ""
        return made


def quoted(text: str) -> str:
    """A text as a string of Lark."""
    return json.dumps(text, ensure_ascii=False)
