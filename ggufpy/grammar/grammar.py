"""A grammar, checked when it is made: of a JSON schema, GBNF, a regular expression or Lark.

In: text as users write it. Out: llguidance's own form of it, in which tokens that the text names are filled in once the
vocabulary is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.grammar import library
from ggufpy.grammar.source import Source, schema_text, source_of
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.grammar.vocabulary import Vocabulary

MOST_CHARACTERS = 300_000


@dataclass(frozen=True)
class Grammar:
    """What a text may look like; made by its class methods, each of which raises GGUFError for what cannot be held to.

    `about` says in a word or two what it was made of.
    """

    about: str
    json_schema: str | None = None  # as llguidance enforces it
    source: Source = Source(("",))  # Lark, where it is no schema

    @classmethod
    def from_json_schema(cls, schema: Mapping[str, Any] | bool | str, name: str = "schema") -> Grammar:
        """JSON that fits a schema, given as a mapping, a bool or JSON text; `name` is how errors call it.

        Every keyword is enforced, or refused with its place; `schema.py` says where what comes out is narrower.
        """
        if not isinstance(schema, Mapping | bool | str):
            raise GGUFError(f"{name} is {checks.shown(schema)}; a JSON schema (a mapping or JSON text) is wanted")
        return cls(name, json_schema=schema_text(schema, name))

    @classmethod
    def any_json(cls) -> Grammar:
        """Any JSON object: OpenAI's `{"type": "json_object"}`."""
        return cls.from_json_schema({"type": "object"}, "json_object")

    @classmethod
    def from_gbnf(cls, text: str) -> Grammar:
        """A grammar as llama.cpp has them; the whole text is what `root` describes."""
        from ggufpy.grammar.gbnf import parse
        from ggufpy.grammar.gbnf_lark import source

        try:
            made = source(parse(_checked("grammar", text)))
        except RecursionError as error:
            raise GGUFError("grammar: its rules lead too deep into one another; use fewer of them") from error
        return cls("GBNF", source=made)._valid("grammar")

    @classmethod
    def from_regex(cls, text: str) -> Grammar:
        """A regular expression for the whole text, in Rust's syntax (https://docs.rs/regex, Syntax)."""
        made = json.loads(library.import_library().LLMatcher.grammar_from_regex(_checked("regex", text)))
        return cls("regex", source=Source((made["grammars"][0]["lark_grammar"],)))._valid("regex")

    @classmethod
    def from_lark(cls, text: str) -> Grammar:
        """A grammar in llguidance's Lark; a token between < and > is one of the vocabulary, by its text or number."""
        return cls("Lark", source=source_of(_checked("Lark grammar", text)))._valid("Lark grammar")

    def text_for(self, vocabulary: Vocabulary | None) -> str:
        """llguidance's form of it for these tokens. Raises GGUFError for a token that is not there."""
        if self.json_schema is not None:
            return library.json_grammar(self.json_schema)
        return library.lark_grammar(self.source.filled(vocabulary))

    def _valid(self, name: str) -> Grammar:
        if message := library.fault(self.text_for(None)):
            raise GGUFError(f"{name}: {message}")
        return self


def _checked(name: str, text: str) -> str:
    checks.text(name, text)
    if not text.strip():
        raise GGUFError(f"{name} is empty")
    if len(text) > MOST_CHARACTERS:
        raise GGUFError(f"{name} has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    return text
