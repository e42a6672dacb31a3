"""Answers of chat formats: calls found in them however the text comes, and grammars of what may be called."""

from __future__ import annotations

from typing import Any

import pytest

from ggufpy.chat import formats
from ggufpy.chat.syntax import Arguments, Call, Content, Piece
from ggufpy.chat.syntax.output import joined
from ggufpy.chat.tools import offered

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
NEXT = "\n<|from|>assistant\n<|recipient|>"
CONTROL = {"<|START_OF_FUNCTION_CALL|>": 5, "<|from|>": 6, "<|recipient|>": 7, "<|content|>": 8}
FUNCTIONS = [name for name in formats.names() if formats.get(name).takes_tools]


def call(index: int, name: str, arguments: str) -> list[Piece]:
    return [Call(index, "", name), Arguments(index, arguments)]


def read(name: str, texts: list[str], tools: Any = TOOLS) -> list[Piece]:
    """The joined pieces of an answer that comes in these texts, without ids."""
    parser = formats.get(name).syntax.parser("", tools)
    pieces = [piece for text in texts for piece in parser.push(text)] + parser.finish()
    return [piece._replace(id="") if isinstance(piece, Call) else piece for piece in joined(pieces)]


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("functionary", ":\nHello: you", [Content("Hello: you")]),
        ("functionary", ' to=functions.get_weather:\n{"city": "a"}', call(0, "get_weather", '{"city": "a"}')),
        ("functionary", " to=functions.other:\n{}", [Content(" to=functions.other:\n{}")]),
        ("functionary-v1", "Hello <| you", [Content("Hello <| you")]),
        (
            "functionary-v1",
            'Wait.\n<|START_OF_FUNCTION_CALL|>get_weather:\n{"city": "}"}',
            [Content("Wait."), *call(0, "get_weather", '{"city": "}"}')],
        ),
        ("functionary-v1", "<|START_OF_FUNCTION_CALL|>functions.now:\n{}", call(0, "now", "{}")),
        ("functionary-v1", "<|START_OF_FUNCTION_CALL|>other:\n{}", [Content("<|START_OF_FUNCTION_CALL|>other:\n{}")]),
        ("functionary-v2", "all\n<|content|>Hello", [Content("Hello")]),
        (
            "functionary-v2",
            f'all\n<|content|>Hello{NEXT}now\n<|content|>{{}}{NEXT}get_weather\n<|content|>{{"city": "b"}}',
            [Content("Hello"), *call(0, "now", "{}"), *call(1, "get_weather", '{"city": "b"}')],
        ),
        (
            "functionary-v2",
            f" now\n<|content|>{{}}{NEXT}all\n<|content|>done",
            [*call(0, "now", "{}"), Content("done")],
        ),
        ("functionary-v2", "now\n<|content|>oops", [Content("now\n<|content|>oops")]),
        (
            "chatml-function-calling",
            "message:\nA message: functions.now:\n{}",
            [Content("A message: functions.now:\n{}")],
        ),
        (
            "chatml-function-calling",
            'functions.now:\n{}\nfunctions.get_weather:\n{"city": "c"}',
            [*call(0, "now", "{}"), *call(1, "get_weather", '{"city": "c"}')],
        ),
        ("chatml-function-calling", "functions.other:\n{}", [Content("functions.other:\n{}")]),
        ("chatml-function-calling", "functions.now:\n{}\nthat was it", [*call(0, "now", "{}"), Content("that was it")]),
        ("chatml-function-calling", "no head", [Content("no head")]),
        ("chatml", '{"name": "get_weather", "arguments": {"city": "d"}}', call(0, "get_weather", '{"city": "d"}')),
        ("chatml", '{"city": "d"}', [Content('{"city": "d"}')]),
        ("chatml", "Hello", [Content("Hello")]),
    ],
)
def test_pieces_do_not_depend_on_how_the_text_comes(name: str, text: str, pieces: list[Piece]) -> None:
    assert read(name, [text]) == pieces
    assert read(name, list(text)) == pieces
    for at in range(1, len(text)):
        assert read(name, [text[:at], text[at:]]) == pieces, at


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_tools_all_is_text(name: str) -> None:
    for text in (":\nHello", "functions.now:\n{}", "now\n<|content|>{}", "<|START_OF_FUNCTION_CALL|>now:\n{}"):
        assert read(name, [text], None) == [Content(text)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_text_that_ends_early_loses_nothing_but_white_space(name: str) -> None:
    for text in (" to=functions.", "functions.now", "<|START_OF_FUNCTION_CALL|>now:", f"now{NEXT}", "functions.now:\n"):
        found = "".join(piece.text for piece in read(name, list(text)) if isinstance(piece, Content))
        assert "".join(found.split()) == "".join(text.split())


def grammar(name: str, choice: Any = None, parallel: bool = True, control: Any = None) -> str | None:
    offer = offered(TOOLS, choice, parallel_tool_calls=parallel)
    assert offer is not None
    return formats.get(name).syntax.lark(offer, "", (CONTROL if control is None else control).get)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_grammars_have_the_functions_that_may_be_called(name: str) -> None:
    free, named = grammar(name), grammar(name, {"type": "function", "function": {"name": "now"}})
    assert free is not None
    assert named is not None
    assert '"get_weather"' in free
    assert '"get_weather"' not in named
    assert '"now"' in named
    start = named.splitlines()[0]
    assert "TEXT" not in start
    assert "*" not in start  # the one function, once
    assert grammar(name, "none") is None


def test_several_calls_only_where_they_are_wanted() -> None:
    for name in ("functionary-v2", "chatml-function-calling"):
        assert ")*" in str(grammar(name, "required")).splitlines()[0]
        assert ")*" not in str(grammar(name, "required", parallel=False)).splitlines()[0]
        assert ")*" not in str(grammar(name, parallel=False)).splitlines()[0]


def test_a_call_within_text_needs_a_token_to_be_told_by() -> None:
    assert grammar("functionary-v1") is not None
    assert grammar("functionary-v1", control={}) is None
    assert "<[5]>" in str(grammar("functionary-v1", "required"))


def test_formats_without_functions_are_held_only_where_one_must_be_called() -> None:
    assert grammar("chatml") is None
    assert '{\\"name\\": \\"now\\", \\"arguments\\": ' in str(grammar("chatml", "required"))
