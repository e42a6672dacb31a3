"""Twenty JSON schemas as applications have them, of every keyword that is enforced: what structured.py generates for.

Each comes with a request for it. Texts and lists are bounded, so that a small model comes to an end.
"""

from __future__ import annotations

from typing import Any

_SHORT = {"type": "string", "minLength": 1, "maxLength": 24}
_PERSON = {
    "type": "object",
    "properties": {"name": _SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
    "required": ["age", "name"],
    "additionalProperties": False,
}


def _object(**properties: Any) -> dict[str, Any]:
    """An object of these properties, all of them required."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


SCHEMAS: list[tuple[str, str, dict[str, Any]]] = [
    ("person", "Invent a person.", _PERSON),
    ("people", "List three people.", {"type": "array", "items": _PERSON, "minItems": 1, "maxItems": 3}),
    (
        "sentiment",
        "Is this review good? 'Great food, slow service.'",
        _object(sentiment={"enum": ["good", "bad", "mixed"]}, score={"type": "number", "minimum": 0, "maximum": 1}),
    ),
    ("choice", "Pick a colour.", {"enum": ["red", "green", "blue", None, 7, {"custom": ["a", 1]}]}),
    (
        "weather",
        "What is the weather in Paris?",
        _object(
            city=_SHORT, unit={"type": "string", "enum": ["C", "F"]}, degrees={"type": "integer", "multipleOf": 5}
        ),
    ),
    (
        "optional",
        "Describe a book.",
        {
            "type": "object",
            "properties": {"title": _SHORT, "author": _SHORT, "year": {"type": ["integer", "null"]}},
            "required": ["title"],
        },
    ),
    (
        "dates",
        "When is the meeting?",
        _object(day={"type": "string", "format": "date"}, at={"type": "string", "format": "date-time"}),
    ),
    (
        "contact",
        "Invent a contact.",
        _object(
            id={"type": "string", "format": "uuid"},
            mail={"type": "string", "format": "email", "maxLength": 40},
            host={"type": "string", "format": "ipv4"},
        ),
    ),
    (
        "pattern",
        "Invent a part number and a phone number.",
        _object(
            part={"type": "string", "pattern": "^[A-Z]{2}-\\d{4}(/[a-z]+)?$", "maxLength": 14},
            phone={"type": "string", "pattern": "^\\+?[0-9 ]{6,14}$"},
        ),
    ),
    (
        "union",
        "Give the name or the number of a street.",
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 999}, _SHORT, {"type": "boolean"}]},
    ),
    (
        "shapes",
        "Describe a shape.",
        {
            "oneOf": [{"$ref": "#/$defs/Circle"}, {"$ref": "#/$defs/Square"}],
            "$defs": {
                "Circle": _object(
                    kind={"const": "circle"}, radius={"type": "number", "exclusiveMinimum": 0, "maximum": 9}
                ),
                "Square": _object(kind={"const": "square"}, side={"type": "integer", "minimum": 1, "maximum": 99}),
            },
        },
    ),
    (
        "tree",
        "A family tree of two generations.",
        {
            "$ref": "#/definitions/node",
            "definitions": {
                "node": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "maxLength": 8},
                        "children": {"type": "array", "maxItems": 2, "items": {"$ref": "#/definitions/leaf"}},
                    },
                    "required": ["name", "children"],
                },
                "leaf": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}},
            },
        },
    ),
    (
        "tuple",
        "A point with a label.",
        {
            "type": "array",
            "prefixItems": [{"type": "number", "minimum": -9, "maximum": 9}, {"type": "integer"}, _SHORT],
            "items": False,
            "minItems": 3,
        },
    ),
    (
        "old tuple",
        "A pair of a flag and a word.",
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "array",
            "items": [{"type": "boolean"}, {"type": "string", "maxLength": 12}],
            "additionalItems": False,
            "minItems": 1,
        },
    ),
    (
        "joined",
        "Describe an employee.",
        {
            "allOf": [_object(name=_SHORT) | {"additionalProperties": True}, {"$ref": "#/$defs/job"}],
            "$defs": {"job": {"type": "object", "properties": {"job": _SHORT, "since": {"type": "integer"}}}},
        },
    ),
    (
        "map",
        "Count the letters of 'hello'.",
        {
            "type": "object",
            "properties": {"total": {"type": "integer", "minimum": 0}},
            "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 99},
            "maxProperties": 5,
            "required": ["total"],
        },
    ),
    (
        "bounds",
        "Give three measurements.",
        _object(
            low={"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": 5},
            part={"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 2},
            many={"type": "integer", "minimum": 100, "maximum": 123456},
        ),
    ),
    (
        "tool call",
        "Call the tool that sends a message to Ann.",
        {
            "type": "object",
            "properties": {
                "name": {"const": "send_message"},
                "arguments": _object(to=_SHORT, text={"type": "string", "maxLength": 40}, urgent={"type": "boolean"}),
            },
            "required": ["name", "arguments"],
        },
    ),
    (
        "steps",
        "How do I boil an egg?",
        _object(
            steps={"type": "array", "items": {"type": "string", "maxLength": 30}, "minItems": 2, "maxItems": 4},
            minutes={"type": "integer", "minimum": 1, "maximum": 20},
        ),
    ),
    (
        "nested",
        "An order of two things.",
        _object(
            order=_object(
                lines={
                    "type": "array",
                    "items": _object(sku={"type": "string", "pattern": "^[a-z0-9]{3,8}$"}, n={"enum": [1, 2, 3]}),
                    "minItems": 1,
                    "maxItems": 3,
                },
                paid={"type": "boolean"},
                note={"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 20}]},
            )
        ),
    ),
]
