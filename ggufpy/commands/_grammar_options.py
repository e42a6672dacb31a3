"""Arguments that say what a text may look like, as llama.cpp has them, and the grammar that they make."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    from ggufpy.grammar import Grammar

_ABOUT = """hold the text to a grammar, checked before the model is loaded; what cannot be enforced is refused by name.
The model does not see it: say in the prompt what you want, too"""


def add_grammar_arguments(parser: argparse.ArgumentParser) -> None:
    """A grammar in one of its forms."""
    group = parser.add_argument_group("structured output", _ABOUT).add_mutually_exclusive_group()
    group.add_argument("--grammar", metavar="TEXT", help="a grammar in llama.cpp's GBNF")
    group.add_argument("--grammar-file", metavar="FILE", help="a file in GBNF (UTF-8)")
    group.add_argument(
        "-j",
        "--json-schema",
        metavar="JSON",
        help="JSON that fits this schema; '{}' is any JSON, '{\"type\": \"object\"}' any object",
    )
    group.add_argument("-jf", "--json-schema-file", metavar="FILE", help="a file with a JSON schema")
    group.add_argument("--regex", metavar="TEXT", help="a regular expression (Rust's syntax) for the whole text")
    group.add_argument("--lark-file", metavar="FILE", help="a file in llguidance's Lark, in which <tokens> have names")


def grammar_of(args: argparse.Namespace) -> Grammar | None:
    """The grammar that was asked for. Raises GGUFError for one that cannot be held to, UsageError with --ignore-eos."""
    given = {
        name: vars(args)[name]
        for name in ("grammar", "grammar_file", "json_schema", "json_schema_file", "regex", "lark_file")
        if vars(args)[name] is not None
    }
    if not given:
        return None
    if args.ignore_eos:
        raise UsageError("--ignore-eos goes on past the end, and a grammar ends the text: leave one of them out")
    from ggufpy.grammar import Grammar

    name, value = given.popitem()
    if name == "json_schema":
        return Grammar.from_json_schema(value, "--json-schema")
    if name == "json_schema_file":
        return Grammar.from_json_schema(_read(value), value)
    if name == "regex":
        return Grammar.from_regex(value)
    if name == "lark_file":
        return Grammar.from_lark(_read(value))
    return Grammar.from_gbnf(value if name == "grammar" else _read(value))


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GGUFError(f"{path} is not UTF-8 text (byte {error.start}): convert it first") from error
