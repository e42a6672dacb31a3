"""Grammars under llama-cpp-python's names: GBNF, or of a JSON schema, for `grammar=` of a completion."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ggufpy.errors import GGUFError
from ggufpy.grammar.grammar import Grammar
from ggufpy.support import checks

__all__ = ["JSON_GBNF", "LLAMA_GRAMMAR_DEFAULT_ROOT", "LlamaGrammar", "json_schema_to_gbnf"]

LLAMA_GRAMMAR_DEFAULT_ROOT = "root"

# Any JSON value (RFC 8259), with white space only where texts have it; for programs that give it to `from_string`.
JSON_GBNF = r"""
root ::= value
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (member ("," ws member)*)? ws "}"
member ::= string ws ":" ws value
array ::= "[" ws (value ("," ws value)*)? ws "]"
string ::= "\"" ([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
ws ::= " "? | "\n" [ \t]{0,20}
"""


class LlamaGrammar(Grammar):
    """A `ggufpy.Grammar` with the constructors of llama-cpp-python; `verbose` of these says nothing."""

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> Grammar:
        """A grammar in GBNF. Raises GGUFError for what is none."""
        return cls.from_gbnf(grammar)

    @classmethod
    def from_file(cls, file: str | os.PathLike[str], verbose: bool = True) -> Grammar:
        """A file with a grammar in GBNF. Raises GGUFError for one that cannot be read."""
        path = checks.path("file", file)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise GGUFError(f"{path}: the grammar cannot be read: {error}") from error
        return cls.from_gbnf(text)

    @classmethod
    def from_json_schema(  # type: ignore[override]  # llama-cpp-python's second argument is another
        cls, json_schema: Mapping[str, Any] | bool | str, verbose: bool = True
    ) -> Grammar:
        """JSON that fits a schema (JSON text, or a mapping). Raises GGUFError for what cannot be held to."""
        return super().from_json_schema(json_schema, "json_schema")


def json_schema_to_gbnf(schema: str, prop_order: object = None) -> NoReturn:
    """Schemas are enforced as they are, and never written as GBNF. Raises GGUFError."""
    raise GGUFError("json_schema_to_gbnf: schemas are not written as GBNF here; use LlamaGrammar.from_json_schema")
