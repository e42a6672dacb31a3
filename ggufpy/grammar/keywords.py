"""What each keyword of JSON Schema is here: enforced, without a say, or refused with what to write instead.

The drafts are 4, 6, 7, 2019-09 and 2020-12, with what OpenAPI adds. A name that is none of these is taken for a note of
whoever wrote the schema, as the standard has it, unless it is nearly the name of one that constrains.
"""

from __future__ import annotations

from difflib import get_close_matches

ENFORCED = frozenset(
    {
        *("type", "enum", "const", "$ref", "allOf", "anyOf", "oneOf", "nullable"),
        *("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
        *("minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("unevaluatedProperties", "unevaluatedItems", "uniqueItems"),
    }
)

NOTES = frozenset(
    {
        *("$schema", "$comment", "$defs", "definitions", "$anchor", "$id", "id", "$vocabulary"),
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"),
        *("contentMediaType", "contentEncoding", "contentSchema", "discriminator", "externalDocs", "xml", "strict"),
    }
)

REFUSED = {
    "patternProperties": "remove it, or name the properties in properties and give additionalProperties",
    "propertyNames": "remove it, or name the properties in properties",
    "dependentSchemas": "write the cases as anyOf",
    "dependentRequired": "write the cases as anyOf",
    "dependencies": "write the cases as anyOf",
    "if": "write the cases as anyOf",
    "then": "write the cases as anyOf",
    "else": "write the cases as anyOf",
    "not": "say what is allowed instead (enum, type, pattern)",
    "contains": "remove it, or put what must be there first (prefixItems)",
    "minContains": "remove it, or put what must be there first (prefixItems)",
    "maxContains": "remove it, or put what must be there first (prefixItems)",
    "$dynamicRef": "write a plain $ref",
    "$dynamicAnchor": "write $defs and a plain $ref",
    "$recursiveRef": "write a plain $ref",
    "$recursiveAnchor": "write $defs and a plain $ref",
    "extends": "it is of draft 3; write allOf",
    "disallow": "it is of draft 3; say what is allowed instead",
    "divisibleBy": "it is of draft 3; write multipleOf",
}

_KNOWN = {*ENFORCED, *REFUSED}
_LOWER = {name.lower(): name for name in _KNOWN}


def meant(name: str) -> str | None:
    """The keyword that an unknown name was probably meant to be, None where it is plainly something else."""
    plain = name.lower().replace("_", "").replace("-", "")
    if plain in _LOWER:
        return _LOWER[plain]
    if name.lower().startswith("x-") or len(name) > 30 or len(name) < 5:
        return None
    close = get_close_matches(plain, _LOWER, n=1, cutoff=0.85)
    return _LOWER[close[0]] if close else None
