"""JSON schemas: what is enforced lets nothing else through, and what cannot be is refused with its place."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import jsonschema
import pytest
from grammar_reference import SCHEMAS, matcher, takes, walked
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy import GGUFError
from ggufpy.grammar import Grammar, check_schema
from ggufpy.grammar.keywords import ENFORCED, NOTES, REFUSED

OPEN: dict[str, Any] = {"additionalProperties": True}
IMPOSSIBLE = "nothing fits it"
DRAFT4: dict[str, Any] = {"$schema": "http://json-schema.org/draft-04/schema#"}


def schema_takes(schema: Any, *texts: str) -> list[bool]:
    made = matcher(Grammar.from_json_schema(schema))
    return [takes(made, text) for text in texts]


def refusal(schema: Any, name: str = "schema") -> str:
    with pytest.raises(GGUFError) as caught:
        check_schema(schema, name)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def _refused(schema: Any) -> str:
    """Why a schema is refused; nothing where it is not."""
    try:
        check_schema(schema, "schema")
    except GGUFError as error:
        return str(error)
    return ""


def validates(schema: Any, value: Any) -> bool:
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    return kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(value)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ['"a"', '""', '"é\\n"'], ["a", "1", '"a', '"\n"', "null"]),
        ({"type": "boolean"}, ["true"], ["1", '"true"']),
        ({"type": ["integer", "null"]}, ["1", "null", "-3"], ["1.5", "true"]),
        ({"type": ["integer", "number"]}, ["1", "1.5", "1e3"], ["x"]),
        ({"type": "integer"}, ["0", "-12"], ["01", "1.0", "1e2", "+1"]),
        ({"type": "integer", "minimum": 0, "maximum": 9}, ["0", "9"], ["-1", "10", "-0"]),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}, ["1", "2"], ["0", "3"]),
        (DRAFT4 | {"type": "integer", "minimum": 0, "exclusiveMinimum": True}, ["1"], ["0"]),
        (DRAFT4 | {"type": "integer", "minimum": 0, "exclusiveMinimum": False}, ["0"], ["-1"]),
        ({"type": "number", "minimum": 0.5, "maximum": 2}, ["0.5", "2.0", "1.75"], ["0.49", "2.1", "1e5"]),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, ["0", str(-(2**53) + 1)], [str(2**53)]),
        ({"type": "integer", "minimum": 5, "exclusiveMaximum": 2**64}, ["5"], ["4"]),
        ({"type": "integer", "maximum": 5, "exclusiveMaximum": 2**64}, ["5"], ["6"]),
        ({"type": "integer", "multipleOf": 5}, ["10", "0", "-5"], ["11"]),
        ({"type": "number", "multipleOf": 0.25}, ["0.50", "1.75", "2"], ["0.3"]),
        ({"type": "integer", "format": "int32"}, ["2147483647"], ["2147483648"]),
        ({"minimum": 3}, ["3", '"a"', "[]"], ["2"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"ééé"', '"a\\n"'], ['"a"', '"abcd"']),
        ({"type": "string", "pattern": "b+"}, ['"abbc"'], ['"ac"']),
        ({"type": "string", "pattern": "^a", "format": "hostname"}, ['"a.b"'], ['"b.a"', '"a b"']),
        ({"type": "string", "pattern": "^a", "maxLength": 2}, ['"ab"'], ['"abc"', '"ba"']),
        (
            {"enum": ["a", 1, None, 2.5, [1], {"k": "v"}]},
            ['"a"', "1", "null", "2.5", "[1]", '{"k": "v"}'],
            ['"b"', "2"],
        ),
        ({"enum": [1.0]}, ["1"], ["2", "1.5"]),
        ({"const": {"a": [True, {}]}}, ['{"a":[true,{}]}'], ['{"a":[]}', "{}"]),
        ({"const": 'q"\\\n'}, [json.dumps('q"\\\n')], ['"q"']),
        ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
        ({"type": "string", "nullable": True}, ['"a"', "null"], ["1"]),
        ({"type": "object"}, ["{}", '{"a":[{"b":null}]}'], ["[]", '{"a"}']),
        ({"type": "array"}, ["[]", '[1,"a",{}]'], ["{}", "[1,]"]),
        ({"items": {"type": "integer"}}, ["[1,2]"], ['["a"]', '"a"']),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
            ["[1]", "[1, 2]"],
            ["[]", "[1,2,3]"],
        ),
        (
            {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "integer"}},
            ["[]", "[null,1,2]"],
            ["[1]"],
        ),
        (
            DRAFT4 | {"items": [{"type": "null"}], "additionalItems": False, "minItems": 1},
            ["[null]"],
            ["[]", "[null,1]"],
        ),
        (DRAFT4 | {"items": [{"type": "null"}], "additionalItems": {"type": "integer"}}, ["[null,1]"], ["[null,null]"]),
        ({"type": "array", "items": {"type": "integer"}, "additionalItems": False}, ["[1,2]"], ["[null]"]),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"a"'], ["null"]),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 5}]}, ["4"], ["2", "6", '"a"']),
        ({"type": "string", "anyOf": [{"minLength": 3}, {"const": "a"}]}, ['"a"', '"abc"'], ['"b"', "1"]),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["1", '"a"'], ["null"]),
        ({"oneOf": [{"const": 1, "title": "one"}, {"const": 2}]}, ["1", "2"], ["3"]),
    ],
)
def test_holds_to(schema: Any, good: list[str], bad: list[str]) -> None:
    assert schema_takes(schema, *good) == [True] * len(good)
    assert schema_takes(schema, *bad) == [False] * len(bad)
    for text in good:
        assert validates(schema, json.loads(text)) or "nullable" in schema


def test_properties() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["b"]}
    texts = ['{"a":1,"b":"x"}', '{"b":"x"}', '{"a":1}', '{"b":"x","a":1}', '{"b":"x","c":1}', '{"b":1}', "{}"]
    assert schema_takes(schema, *texts) == [True, True, False, False, False, False, False]
    assert schema_takes(schema | OPEN, *texts) == [True, True, False, False, True, False, False]
    assert schema_takes(schema | {"required": ["b", "a"]}, *texts[:3]) == [True, False, False]
    required = {"type": "object", "required": ["a", "b"], "properties": {"b": {"type": "null"}}}
    assert schema_takes(required, '{"b":null,"a":[1]}', '{"b":null}') == [True, False]


def test_names_that_are_taken_cannot_come_again_in_another_spelling() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    good, bad = ['{"a":1}', '{"b":"x"}', '{"a":1,"ab":"x"}', '{"":"x"}'], ['{"a":"x"}', '{"\\u0061":"x"}', '{"b":1}']
    assert schema_takes(schema, *good, *bad) == [True] * 4 + [False] * 3


def test_counts_of_properties() -> None:
    map_ = {"type": "object", "additionalProperties": {"type": "integer"}}
    texts = ["{}", '{"a":1}', '{"a":1,"b":2}']
    assert schema_takes(map_ | {"maxProperties": 1}, *texts) == [True, True, False]
    assert schema_takes(map_ | {"minProperties": 1}, *texts) == [False, True, True]
    named = {"type": "object", "properties": {"a": True, "b": True}}
    assert schema_takes(named | {"required": ["a", "b"], "minProperties": 2, "maxProperties": 9}, *texts)[2]
    assert "minProperties cannot be enforced" in refusal(map_ | {"minProperties": 2})  # {"a":1,"a":1} has one


def test_joined_objects_are_closed_as_a_whole() -> None:
    parts = [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "null"}}}]
    texts = ['{"a":1}', '{"a":1,"b":null}', '{"a":1,"b":1}', '{"a":1,"c":1}', '{"b":null}']
    assert schema_takes({"allOf": parts}, *texts) == [True, True, False, False, False]
    beside = {"type": "object", "properties": parts[0]["properties"], "required": ["a"], "$ref": "#/$defs/b"}
    assert schema_takes(beside | {"$defs": {"b": parts[1]}}, *texts) == [True, True, False, False, False]
    opened = {"allOf": [parts[0], parts[1] | OPEN]}
    assert schema_takes(opened, *texts) == [True, True, False, True, False]


def test_references() -> None:
    tree = {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#"}}}}
    assert schema_takes(tree, "{}", '{"of":[{},{"of":[]}]}', '{"of":[1]}') == [True, True, False]
    for where in ("#/$defs/n", "#n", "http://x/y#/$defs/n"):
        schema = {"$id": "http://x/y", "$ref": where, "$defs": {"n": {"$anchor": "n", "type": "integer"}}}
        assert schema_takes(schema, "1", '"a"') == [True, False]
    escaped = {"properties": {"a/b~c": {"type": "null"}, "x": {"$ref": "#/properties/a~1b~0c"}}}
    assert schema_takes(escaped, '{"x":null}', '{"x":1}') == [True, False]
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "id": "x", "$ref": "#/definitions/a"}
    assert schema_takes(old | {"definitions": {"a": {"type": "null"}}}, "null", "1") == [True, False]


def test_unions_by_a_property() -> None:
    """As pydantic writes them."""

    def case(kind: str) -> dict[str, Any]:
        return {"type": "object", "properties": {"kind": {"const": kind}, kind: {"type": "null"}}, "required": ["kind"]}

    schema = {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {"cat": case("cat"), "dog": case("dog")},
    }
    assert schema_takes(schema, '{"kind":"cat","cat":null}', '{"kind":"cat","dog":null}') == [True, False]


def test_white_space_is_bounded() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    good = ["[1,2]", "[1, 2]", "[ 1 , 2 ]", "[\n  1,\n  2\n]"]
    bad = ["[1,  2]", "[\n\n1]", "[1,2]\n", " [1]", "[\n" + 21 * " " + "1]"]
    assert schema_takes(schema, *good, *bad) == [True] * 4 + [False] * 5


@pytest.mark.parametrize("keyword", sorted(REFUSED))
@pytest.mark.parametrize("draft", ["http://json-schema.org/draft-07/schema#", None])
def test_what_cannot_be_enforced_is_refused_by_keyword_and_place(keyword: str, draft: str | None) -> None:
    inner = {"type": "object", keyword: {}}
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, inner]}}}
    schema |= {"$schema": draft} if draft else {}
    message = refusal(schema, "tools[0].function.parameters (get_weather)")
    assert message.startswith("tools[0].function.parameters (get_weather): properties.a.anyOf.1: ")
    assert f"{keyword} cannot be enforced; " in message


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"uniqueItems": True}, "uniqueItems cannot be enforced"),
        ({"unevaluatedItems": False}, "unevaluatedItems cannot be enforced"),
        ({"anyOf": [{}], "unevaluatedProperties": False}, "unevaluatedProperties cannot be enforced"),
        ({"requried": ["a"]}, "requried is no keyword; write required"),
        ({"properties": {"x": {"min_length": 1}}}, "properties.x: min_length is no keyword; write minLength"),
        ({"items": {"maxlength": 3}}, "items: maxlength is no keyword; write maxLength"),
        ({"format": "regex"}, "format 'regex' cannot be enforced"),
        ({"pattern": "^(?!a)"}, "pattern '^(?!a)' cannot be enforced: look-ahead is not regular"),
        ({"$ref": "https://example.org/s.json"}, "nothing is fetched; copy it into $defs"),
        ({"$ref": "#/$defs/a/b", "$defs": {"a": {}}}, "there is no 'b'"),
        ({"$ref": "#gone"}, "there is no $anchor 'gone'"),
        ({"$ref": 3}, "$ref is 3"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "leads back"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "holds itself for ever"),
        (
            {
                "properties": {"a": {"$ref": "#"}},
                "allOf": [{"$ref": "#/$defs/x"}],
                "$defs": {"x": {"properties": {"a": {"$ref": "#/$defs/x"}}}},
            },
            "properties.a: $ref cannot be enforced where it leads back to itself",
        ),
        ({"$defs": {"a": {"$id": "x", "type": "null"}}, "$ref": "#/$defs/a"}, "$defs.a has an $id"),
        ({"properties": {"q": {"oneOf": [{"type": "number"}, {"type": "integer"}]}}}, "properties.q: oneOf cannot"),
        ({"oneOf": [{"const": 1}, {"enum": [2, 1.0]}]}, "oneOf cannot be enforced"),
        ({"enum": []}, "enum is empty"),
        ({"enum": "a"}, "enum is 'a'"),
        ({"type": "strin"}, "type is 'strin'"),
        ({"type": []}, "type is an empty list"),
        ({"type": "string", "const": 1}, "nothing fits it"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "nothing fits it"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "nothing fits it"),
        (False, "nothing fits it"),
        ({"minLength": -1}, "minLength is -1"),
        ({"maxLength": 10**7}, "maxLength is 10000000"),
        ({"maxItems": 10**9}, "maxItems is 1000000000"),
        ({"type": "integer", "minimum": 2**60}, "whole numbers are exact up to"),
        ({"minimum": "1"}, "minimum is '1'"),
        ({"const": 1e300}, "whole numbers are exact up to"),
        ({"multipleOf": 0}, "multipleOf is 0"),
        ({"type": "integer", "multipleOf": 987654321}, "multipleOf is 987654321"),
        ({"type": "integer", "exclusiveMinimum": True}, "there is no minimum"),
        ({"properties": []}, "properties is []"),
        ({"required": True}, "required is a bool, as in draft 3"),
        ({"properties": {"a" * 5000: {}}, "additionalProperties": True}, "beside names of 4,000 characters"),
        ({"additionalProperties": 3}, "additionalProperties is 3"),
        ({"anyOf": []}, "anyOf is []"),
        ({"items": 3}, "items: a schema is an object"),
        ({"properties": {"a": None}}, "properties.a: a schema is an object or true or false, not None"),
        ({1: 2}, "the name 1 is not a text"),
        ({"const": {1, 2}}, "is no value of JSON"),
        ("{", "this is not JSON"),
        ("[]", "a schema is an object or true or false"),
        (5, "a JSON schema (a mapping or JSON text) is wanted"),
    ],
)
def test_refused(schema: Any, said: str) -> None:
    assert said in refusal(schema)


def test_notes_are_no_constraints() -> None:
    notes = {name: "x" for name in NOTES if not name.startswith(("$", "id", "definitions"))}
    schema = {"type": "integer", "x-foo": 1, "anything": [], "pricing": 3, "order": 1, **notes, "$comment": "c"}
    assert schema_takes(schema, "1", '"a"') == [True, False]
    assert not ENFORCED & NOTES
    assert not REFUSED.keys() & (ENFORCED | NOTES)


def _deep(levels: int) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _doubling(key: str) -> Any:
    defs: dict[str, Any] = {f"a{i}": {key: [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
    return {"$defs": defs | {"a40": {"type": "null"}}, "$ref": "#/$defs/a0"}


HOSTILE: list[Any] = [
    _deep(90),
    _deep(200),
    "[" * 100_000,
    '{"a":' * 100_000,
    *map(_doubling, ("anyOf", "allOf", "oneOf")),
    {"properties": {f"p{i}": {"type": "string"} for i in range(2000)}},
    {"properties": {f"p{i}": {"type": "string"} for i in range(800)}, "additionalProperties": {"type": "string"}},
    {"enum": list(range(49_000))},
    {"enum": list(range(60_000))},
    {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
    {"type": "string", "allOf": [{"pattern": f"{c}.{{40}}"} for c in "abcdefgh"]},
    {"type": "integer", "allOf": [{"multipleOf": n} for n in (7, 11, 13, 17, 19, 23)]},
    {"allOf": [{"anyOf": [{"properties": {f"k{i}{j}": {"const": j}}} for j in range(4)]} for i in range(12)]},
    {"type": "array", "minItems": 10_000, "items": {"type": "array", "minItems": 10_000}},
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_schemas_take_bounded_time(number: int) -> None:
    started = time.process_time()
    with suppress(GGUFError):
        check_schema(HOSTILE[number], "schema")
    assert time.process_time() - started < 4  # about 1 s of one quiet core at most


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_whatever_is_allowed_validates(number: int) -> None:
    name, _, schema = SCHEMAS[number]
    grammar = Grammar.from_json_schema(schema, name)
    ended = [text for seed in range(12) if (text := walked(grammar, seed, 1500)) is not None]
    assert len(ended) > 2
    for text in ended:
        assert validates(schema, json.loads(text)), text


LEAVES = st.sampled_from(
    [
        {"type": "integer", "minimum": -3, "maximum": 40},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "maxLength": 4},
        {"type": "string", "pattern": "^[ab]{1,3}$"},
        {"enum": ["x", 3, None]},
        {"const": [1, "é"]},
        {"type": ["boolean", "null"]},
    ]
)
NAMES = st.sampled_from(["a", "b", "ab", 'q"', "é"])


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda properties, required, more: {"type": "object", "properties": properties, "required": required, **more},
        st.dictionaries(NAMES, inner, max_size=3),
        st.lists(NAMES, max_size=2, unique=True),
        st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "null"}}]),
    )


TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
        st.builds(lambda a, b: {"allOf": [a, b]}, _objects(inner), _objects(inner)),
        st.builds(lambda a, n: {"type": "array", "items": a, "maxItems": n}, inner, st.integers(0, 2)),
        st.builds(lambda a, b: {"type": "array", "prefixItems": [a], "items": b, "maxItems": 2}, inner, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(TREES, st.integers(0, 1000))
def test_random_schemas(schema: Any, seed: int) -> None:
    if IMPOSSIBLE in (refused := _refused(schema)):  # a required property that another part forbids
        return
    assert not refused
    grammar = Grammar.from_json_schema(schema)
    text = walked(grammar, seed, 400)
    if text is not None:
        assert validates(schema, json.loads(text)), text
