"""`response_format` and `grammar`: what an answer must look like.

In: OpenAI's object or a grammar. Out: a `Grammar`, or None where any text will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.grammar import Grammar


def answer_grammar(response_format: object, grammar: object) -> Grammar | None:
    """The grammar of an answer. Raises GGUFError for both at once, and for what cannot be enforced."""
    if response_format is None:
        return _given(grammar)
    wanted = _from_format(checks.mapping("response_format", response_format))
    if wanted is not None and grammar is not None:
        raise GGUFError("response_format and grammar both say what the answer looks like: give one of them")
    return wanted if grammar is None else _given(grammar)


def _given(grammar: object) -> Grammar | None:
    """A `Grammar`, or the text of one in GBNF."""
    if grammar is None:
        return None
    from ggufpy.grammar import Grammar

    if isinstance(grammar, str):
        return Grammar.from_gbnf(grammar)
    if not isinstance(grammar, Grammar):
        raise GGUFError(f"grammar is {checks.shown(grammar)}; a ggufpy.Grammar or the text of one in GBNF is wanted")
    return grammar


def _from_format(given: Mapping[str, Any]) -> Grammar | None:
    """OpenAI's text, json_object and json_schema; llama-cpp-python has a schema beside json_object too."""
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return _of_schema(given["schema"], "response_format.schema") if given.get("schema") is not None else _any_json()
    if kind == "json_schema" and "json_schema" in given:
        inner = checks.mapping("response_format.json_schema", given["json_schema"])
        if "schema" not in inner:
            raise GGUFError('response_format.json_schema.schema is missing: {"name": ..., "schema": {...}} is wanted')
        return _of_schema(inner["schema"], "response_format.json_schema.schema")
    if kind == "json_schema":
        if "schema" not in given:
            raise GGUFError('response_format.json_schema is missing: {"schema": {...}} is wanted there')
        return _of_schema(given["schema"], "response_format.schema")
    raise GGUFError(f'response_format.type is {checks.shown(kind)}; it must be "text", "json_object" or "json_schema"')


def _of_schema(schema: Any, name: str) -> Grammar:
    from ggufpy.grammar import Grammar

    return Grammar.from_json_schema(schema, name)


def _any_json() -> Grammar:
    from ggufpy.grammar import Grammar

    return Grammar.any_json()
