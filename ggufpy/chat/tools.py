"""Tools as OpenAI's clients offer them: checked, with what may or must be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

ToolDict = dict[str, Any]
_CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class Offer:
    """tools: in OpenAI's shape, {"type": "function", "function": {name, description, parameters}}. choice: "auto",
    "none", "required" (some tool), or the name of the one that must be called. parallel: several calls may be made."""

    tools: tuple[ToolDict, ...]
    choice: str = "auto"
    parallel: bool = True
    named: bool = False  # choice is a name, even if that is "auto"

    @property
    def must_call(self) -> bool:
        return self.named or self.choice == "required"

    @property
    def chosen(self) -> tuple[ToolDict, ...]:
        """The tools that may be called."""
        if self.named:
            return tuple(tool for tool in self.tools if tool["function"]["name"] == self.choice)
        return () if self.choice == "none" else self.tools


def offered(
    tools: Any,
    tool_choice: Any = None,
    functions: Any = None,
    function_call: Any = None,
    parallel_tool_calls: Any = None,
) -> Offer | None:
    """What a request offers, also with the older `functions` and `function_call`; None where it offers nothing.

    Raises GGUFError naming the field that is wrong.
    """
    if functions is not None:
        if tools is not None:
            raise GGUFError("give tools or functions, not both")
        if tool_choice is not None:
            raise GGUFError("tool_choice goes with tools: with functions, give function_call")
        choice = _choice(function_call, "function_call")
        return _offer(_functions(functions), choice, False, "functions", "function_call")
    if function_call is not None and tools is not None:
        raise GGUFError("function_call goes with functions: with tools, give tool_choice")
    if parallel_tool_calls not in (None, True, False):
        raise GGUFError(f"parallel_tool_calls must be true or false, not {_kind(parallel_tool_calls)}")
    choice = _choice(tool_choice, "tool_choice") if tool_choice is not None else _choice(function_call, "function_call")
    field = "tool_choice" if tool_choice is not None or function_call is None else "function_call"
    return _offer(_tools(tools), choice, parallel_tool_calls is not False, "tools", field)


def _offer(
    tools: tuple[ToolDict, ...], choice: tuple[str, bool], parallel: bool, field: str, choice_field: str
) -> Offer | None:
    text, named = choice
    names = [tool["function"]["name"] for tool in tools]
    if named and text not in names:
        known = f"; {field} has {', '.join(names[:20])}" if names else f", and {field} is empty"
        raise GGUFError(f"{choice_field} names {text!r}, which is not offered{known}")
    if text == "required" and not tools:
        raise GGUFError(f'{choice_field} is "required", and {field} is empty: there is nothing to call')
    return Offer(tools, text, parallel, named) if tools else None


# -- tools --


def _tools(tools: Any) -> tuple[ToolDict, ...]:
    made = []
    for i, tool in enumerate(_list(tools, "tools")):
        name = f"tools[{i}]"
        if not isinstance(tool, Mapping):
            raise GGUFError(f'{name} must be {{"type": "function", "function": {{...}}}}, not {_kind(tool)}')
        if tool.get("type", "function") != "function":
            raise GGUFError(f'{name}.type must be "function", not {str(tool["type"])[:40]!r}')
        if "function" not in tool:
            hint = ": put name and parameters within it" if "name" in tool else ""
            raise GGUFError(f"{name}.function is missing{hint}")
        made.append({**tool, "type": "function", "function": _function(tool["function"], f"{name}.function")})
    return _distinct(made, "tools")


def _functions(functions: Any) -> tuple[ToolDict, ...]:
    listed = _list(functions, "functions")
    made = [{"type": "function", "function": _function(one, f"functions[{i}]")} for i, one in enumerate(listed)]
    return _distinct(made, "functions")


def _list(value: Any, field: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise GGUFError(f"{field} must be a list, not {_kind(value)}")
    return value


def _distinct(tools: list[ToolDict], field: str) -> tuple[ToolDict, ...]:
    names: set[str] = set()
    for i, tool in enumerate(tools):
        name = tool["function"]["name"]
        if name in names:
            raise GGUFError(f"{field}[{i}] has the name {name!r}, which another has: calls could not be told apart")
        names.add(name)
    return tuple(tools)


def _function(function: Any, where: str) -> ToolDict:
    """A function with parameters that are an object's schema. Those left out or null take no arguments."""
    if not isinstance(function, Mapping):
        raise GGUFError(f"{where} must be {{name, description, parameters}}, not {_kind(function)}")
    name = function.get("name")
    if not isinstance(name, str) or not name or any(char.isspace() for char in name):
        shown = repr(name[:40]) if isinstance(name, str) else _kind(name)
        raise GGUFError(f"{where}.name must be a name without white space, not {shown}")
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise GGUFError(f"{where}.description must be a text, not {_kind(description)}")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise GGUFError(f"{where}.strict must be true or false, not {_kind(strict)}")
    made = {key: value for key, value in function.items() if value is not None}
    made["parameters"] = _parameters(function.get("parameters"), f"{where}.parameters")
    return made


def _parameters(schema: Any, where: str) -> ToolDict:
    if schema is None:
        return {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping):
        raise GGUFError(f"{where} must be a JSON schema of an object, not {_kind(schema)}")
    if schema.get("type", "object") != "object":
        raise GGUFError(f'{where}.type must be "object", not {str(schema["type"])[:40]!r}: arguments have names')
    properties = schema.get("properties")
    if properties is not None and not isinstance(properties, Mapping):
        raise GGUFError(f"{where}.properties must be an object of schemas, not {_kind(properties)}")
    return {"type": "object", **schema}


# -- choices --


def _choice(choice: Any, field: str) -> tuple[str, bool]:
    """The choice, and whether it is a name."""
    if choice is None:
        return "auto", False
    if isinstance(choice, str):
        allowed = _CHOICES if field == "tool_choice" else _CHOICES[:2]
        if choice not in allowed:
            names = ", ".join(f'"{one}"' for one in allowed)
            raise GGUFError(f"{field} must be {names} or name a function, not {choice[:40]!r}")
        return choice, False
    if not isinstance(choice, Mapping):
        raise GGUFError(f"{field} must be a text or name a function, not {_kind(choice)}")
    if field == "function_call":
        return _name(choice.get("name"), f"{field}.name"), True
    if choice.get("type", "function") != "function":
        raise GGUFError(f'{field}.type must be "function", not {str(choice["type"])[:40]!r}')
    function = choice.get("function")
    if not isinstance(function, Mapping):
        raise GGUFError(f'{field}.function must be {{"name": ...}}, not {_kind(function)}')
    return _name(function.get("name"), f"{field}.function.name"), True


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise GGUFError(f"{where} must be the name of a function, not {_kind(name)}")
    return name


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
