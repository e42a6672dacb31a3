"""The `llguidance` library, imported when it is first needed; what it says of a grammar, as one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from ggufpy.errors import GGUFError

T = TypeVar("T")

_POINTER = re.compile(r"^\s*\^+\s*$")
_NUMBERED = re.compile(r"^\s*\d*\s*\|")


def import_library() -> Any:
    """The library. Raises GGUFError where it is not installed."""
    try:
        return import_module("llguidance")
    except ImportError as error:
        raise GGUFError(f"grammars need the package llguidance (pip install llguidance): {error}") from error


@cache
def limits() -> Any:
    """How much work a grammar may be: half a second for its start, tens of milliseconds for a mask."""
    return import_library().LLParserLimits(
        initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, step_max_items=100_000, max_items_in_row=100_000,
        verbose_errors=False,
    )  # fmt: skip


def guarded(what: str, call: Callable[[], T]) -> T:
    """What `call` returns; an error of the library becomes a GGUFError that begins with `what`."""
    try:
        return call()
    except GGUFError:
        raise
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise GGUFError(f"{what}: {one_line(str(error))}") from error


@cache
def _bytes_alone() -> Any:
    """A vocabulary of bytes, for trials."""
    return import_library().LLTokenizer("byte")


def fault(grammar: str) -> str:
    """What is wrong with a grammar in the library's own form, as one line; empty if nothing is.

    It is begun over a vocabulary of bytes, because some of what is too much shows only then.
    """
    matcher = import_library().LLMatcher(_bytes_alone(), grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    return one_line(matcher.get_error()) if matcher.is_error() else ""


def json_grammar(text: str) -> str:
    """llguidance's own form of a schema alone, of its JSON text."""
    return f'{{"grammars": [{{"json_schema": {text}}}]}}'


def lark_grammar(text: str) -> str:
    """llguidance's own form of Lark text."""
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def one_line(message: str) -> str:
    """The library's message without the excerpts and marks that take lines of their own."""
    lines = message.split("<state>")[0].split("<backtrace>")[0].split("\n")
    kept = [line.strip() for line in lines if line.strip() and not _POINTER.match(line) and not _NUMBERED.match(line)]
    return "; ".join(dict.fromkeys(kept)).replace(":; ", ": ")[:400] or "it is not understood"
