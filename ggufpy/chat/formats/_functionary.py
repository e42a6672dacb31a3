"""What MeetKai's Functionary models share: functions are told as types of TypeScript.

Facts: llama_cpp/llama_chat_format.py of llama-cpp-python 0.3.36; functionary/prompt_template of github.com/MeetKai/
functionary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.errors import GGUFError

SYSTEM_MESSAGE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "The assistant calls functions with appropriate input when necessary"
)
_DEEPEST = 64  # levels of a schema


def declarations(functions: Sequence[Mapping[str, Any]], indent: bool) -> str:
    """The functions as declarations in a namespace, without a line end behind. `indent` moves functions in by two and
    their parameters by four spaces. Raises GGUFError for schemas that are nested too deep."""
    lines = ["// Supported function definitions that should be called when necessary.", "namespace functions {", ""]
    shared: dict[str, Any] = {}
    for function in functions:
        shared |= _mapping(_mapping(function.get("parameters")).get("$defs"))
    lines += [f"  type {name} = {_shared_type(_mapping(schema))};" for name, schema in shared.items()]
    outer, inner = ("  ", "    ") if indent else ("", "")
    for function in functions:
        parameters = _mapping(function.get("parameters"))
        needed = parameters.get("required") or ()
        lines += [f"{outer}// {function.get('description', '')}", f"{outer}type {function['name']} = (_: {{"]
        for name, schema in _mapping(parameters.get("properties")).items():
            schema = _mapping(schema)
            lines.append(f"{inner}// {schema.get('description', '')}")
            lines.append(f"{inner}{name}{'' if name in needed else '?'}: {_type(schema, 2)},")
        lines += [f"{outer}}}) => any;", ""]
    return "\n".join([*lines, "} // namespace functions"])


def _shared_type(schema: Mapping[str, Any]) -> str:
    """A definition is an object or one of some values; others have no type here."""
    return _type(schema, 1) if schema.get("type") == "object" or "enum" in schema else ""


def _type(schema: Mapping[str, Any], level: int) -> str:
    if level > _DEEPEST:
        raise GGUFError(f"the parameters of a tool are nested deeper than {_DEEPEST} levels")
    kind = schema.get("type", "any")
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if kind == "array":
        return f"Array<{_type(_mapping(schema.get('items')), level + 1)}>"
    if kind == "object":
        pad = "  " * level
        inner = (f"{pad}  {name}: {_type(_mapping(each), level + 1)},\n"
                 for name, each in _mapping(schema.get("properties")).items())  # fmt: skip
        return "{\n" + "".join(inner) + pad + "}"
    if "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema["enum"])
    return " | ".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
