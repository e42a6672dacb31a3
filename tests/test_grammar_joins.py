"""Schemas that would take all time and memory are refused while they are read; those that only look so are held to."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from llm_fakes import fake_llama

from ggufpy.errors import GGUFError
from ggufpy.grammar import Grammar
from ggufpy.grammar.joins import MOST_JOINED

LETTERS = "abcdefghijklmnopqrstuvwx"  # 2^24 ways of having met some of them and not the others
MEET = [{"type": "string", "pattern": f".*{letter}.*"} for letter in LETTERS]
OBJECTS = [{"type": "object", "properties": {"p": each}} for each in MEET]
DEFS = {f"d{i}": each for i, each in enumerate(OBJECTS)}


def words(count: int) -> list[dict[str, Any]]:
    return [{"type": "string", "pattern": f"^[a-z]{{{i},40}}$"} for i in range(count)]


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": MEET},
        {"type": "object", "properties": {"deep": {"type": "array", "items": {"allOf": MEET}}}},
        {"allOf": OBJECTS},
        {"$defs": DEFS, "allOf": [{"$ref": f"#/$defs/{name}"} for name in DEFS]},
        {"allOf": [{"anyOf": [each, {"type": "null"}]} for each in OBJECTS]},
        {"allOf": [{"type": "array", "items": each} for each in MEET]},
        {"allOf": [{"type": "array", "prefixItems": [each]} for each in MEET]},
        {"allOf": [{"type": "object", "additionalProperties": each} for each in MEET]},
        {"allOf": words(MOST_JOINED + 1)},
    ],
)
def test_patterns_that_meet_are_counted_before_the_library_joins_them(schema: Any) -> None:
    start = time.process_time()
    with pytest.raises(GGUFError, match=r"^schema: allOf cannot be enforced: more than 8 patterns meet"):
        Grammar.from_json_schema(schema)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": words(MOST_JOINED)},
        {"anyOf": MEET},
        {"allOf": [{"type": "string"}, {"anyOf": MEET}]},
        {"type": "object", "properties": {f"p{i}": each for i, each in enumerate(MEET)}},
        {"allOf": [{"type": "object", "properties": {f"p{i}": each}} for i, each in enumerate(MEET)]},
        {
            "$defs": {"n": {"type": "object", "properties": {"v": MEET[0], "next": {"$ref": "#/$defs/n"}}}},
            "allOf": [{"$ref": "#/$defs/n"}, {"type": "object", "properties": {"w": MEET[1]}}],
        },
    ],
)
def test_patterns_that_do_not_meet_are_as_many_as_they_are(schema: Any) -> None:
    Grammar.from_json_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 10**400},
        {"type": "number", "exclusiveMaximum": -(10**4000)},
        {"enum": [10**400]},
        {"const": -(10**400)},
        {"type": "number", "multipleOf": 10**400},
        {"type": "array", "minItems": 10**4000},
        {"type": "string", "maxLength": 10**4000},
    ],
)
def test_numbers_that_no_float_is_near(schema: Any) -> None:
    with pytest.raises(GGUFError) as error:
        Grammar.from_json_schema(schema)
    assert len(str(error.value)) < 300


def test_objects_of_very_many_optional_properties() -> None:
    names = [f"p{i}" for i in range(1500)]
    schema = {"type": "object", "properties": {name: {"type": "null"} for name in names}}
    with fake_llama(n_ctx=64) as llm:
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        said = llm.create_chat_completion([{"role": "user", "content": "a"}], max_tokens=6, response_format=form)
    assert json.dumps(said)
    assert said["choices"][0]["message"]["content"].startswith("{")
