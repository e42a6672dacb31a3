"""Tools of several kinds, offered to a model as functions, and their calls told as what they are.

A custom tool takes text as it stands; models know functions, so it is one with the argument `input`. Functions of a
namespace have its name before theirs. Tools that OpenAI runs itself (web_search, file_search, ...) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

Record = dict[str, Any]

WORDS = ("none", "auto", "required")
BETWEEN = "__"  # a namespace and a name
INPUT = "input"  # the argument of a custom tool


@dataclass(frozen=True)
class Tool:
    """What a client calls a tool that a model may call. `kind`: "function" or "custom"."""

    kind: str
    name: str
    namespace: str | None = None

    @property
    def offered(self) -> str:
        """What the model calls it."""
        return joined(self.namespace, self.name)


@dataclass(frozen=True)
class Toolbox:
    """Functions and choice in the shape of chat completions, and whose calls are whose, by the model's names."""

    functions: tuple[Record, ...] = ()
    choice: Any = None
    known: tuple[Tool, ...] = ()

    def tool(self, offered: str) -> Tool:
        """The tool of a call."""
        return next((tool for tool in self.known if tool.offered == offered), Tool("function", offered))


def joined(namespace: object, name: str) -> str:
    """The name by which a model knows a function of a namespace."""
    return f"{namespace}{BETWEEN}{name}" if isinstance(namespace, str) and namespace else name


def echoed(tools: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Tools as a response shows them: functions have all that clients look for."""
    made = []
    for tool in tools:
        more = {"parameters": None, "strict": None, "description": None} if tool.get("type") == "function" else {}
        made.append({**more, **tool})
    return made


def toolbox(tools: Any, choice: Any) -> Toolbox:
    """What `tools` and `tool_choice` offer. Raises GGUFError naming the field that is wrong."""
    listed = [] if tools is None else checks.items("tools", tools, "a list of tools")
    made: list[tuple[Tool, Record]] = []
    for i, tool in enumerate(listed):
        made += _functions(tool, f"tools[{i}]", None)
    names: set[str] = set()
    for tool, _ in made:
        if tool.offered in names:
            raise GGUFError(f"tools has {tool.offered!r} twice: calls could not be told apart")
        names.add(tool.offered)
    return _chosen(made, choice)


def _functions(given: Any, where: str, namespace: str | None) -> list[tuple[Tool, Record]]:
    """The functions of one tool, none of a kind that is not for a model."""
    tool = checks.mapping(where, given)
    kind = checks.text(f"{where}.type", tool.get("type"))
    if kind not in ("function", "custom", "namespace"):
        return []
    if kind == "function" and "function" in tool and "name" not in tool:
        raise GGUFError(f"{where}.name is missing: here name and parameters stand beside type, not within function")
    name = checks.text(f"{where}.name", tool.get("name"))
    if kind == "namespace":
        if namespace is not None:
            raise GGUFError(f"{where} is a namespace within a namespace")
        inner = checks.items(f"{where}.tools", tool.get("tools"), "a list of tools")
        return [made for i, one in enumerate(inner) for made in _functions(one, f"{where}.tools[{i}]", name)]
    made = Tool(kind, name, namespace)
    function = _custom(tool, where) if kind == "custom" else _plain(tool, where)
    return [(made, {"type": "function", "function": {"name": made.offered, **function}})]


def _plain(tool: Mapping[str, Any], where: str) -> Record:
    names = ("description", "parameters", "strict")
    parameters = tool.get("parameters")
    if parameters is not None:
        checks.mapping(f"{where}.parameters", parameters)
    return {name: tool[name] for name in names if tool.get(name) is not None}


def _custom(tool: Mapping[str, Any], where: str) -> Record:
    """A custom tool as a function. A regular expression is held; a grammar in Lark is told."""
    about = tool.get("description")
    lines = [] if about is None else [checks.text(f"{where}.description", about)]
    argument: Record = {"type": "string"}
    form = checks.mapping(f"{where}.format", tool.get("format") or {"type": "text"})
    if form.get("type") == "grammar":
        syntax, definition = form.get("syntax"), checks.text(f"{where}.format.definition", form.get("definition"))
        if syntax not in ("lark", "regex"):
            raise GGUFError(f'{where}.format.syntax is {checks.shown(syntax)}; it must be "lark" or "regex"')
        if syntax == "regex":
            argument["pattern"] = f"^(?:{definition})$"
        lines.append(f"The text in `{INPUT}` must be what this {syntax} grammar says:\n{definition}")
    elif form.get("type") != "text":
        raise GGUFError(f'{where}.format.type is {checks.shown(form.get("type"))}; it must be "text" or "grammar"')
    parameters = {
        "type": "object", "properties": {INPUT: argument}, "required": [INPUT], "additionalProperties": False
    }  # fmt: skip
    return {"description": "\n\n".join(lines), "parameters": parameters}


def _chosen(made: list[tuple[Tool, Record]], choice: Any) -> Toolbox:
    """The tools with what may or must be called of them."""
    if choice is None or isinstance(choice, str):
        if choice is not None and choice not in WORDS:
            words = ", ".join(f'"{word}"' for word in WORDS)
            raise GGUFError(f"tool_choice is {checks.shown(choice)}; it must be {words} or an object that names a tool")
        return _box(made, choice)
    wanted = checks.mapping("tool_choice", choice)
    kind = wanted.get("type")
    if kind == "allowed_tools":
        return _allowed(made, wanted)
    if kind not in ("function", "custom"):
        raise GGUFError(f"tool_choice.type is {checks.shown(kind)}: no tool of that kind can be called here")
    _, function = _named(made, wanted, "tool_choice")
    name = function["function"]["name"]
    return _box(made, {"type": "function", "function": {"name": name}})


def _allowed(made: list[tuple[Tool, Record]], wanted: Mapping[str, Any]) -> Toolbox:
    """Only the tools that are allowed are offered; of kinds that cannot be called none is."""
    mode = wanted.get("mode")
    if mode not in ("auto", "required"):
        raise GGUFError(f'tool_choice.mode is {checks.shown(mode)}; it must be "auto" or "required"')
    some = []
    for i, given in enumerate(checks.items("tool_choice.tools", wanted.get("tools"), "a list of tools")):
        one = checks.mapping(f"tool_choice.tools[{i}]", given)
        if one.get("type") in ("function", "custom"):
            some.append(_named(made, one, f"tool_choice.tools[{i}]"))
    return _box(some, mode)


def _named(made: list[tuple[Tool, Record]], wanted: Mapping[str, Any], where: str) -> tuple[Tool, Record]:
    name = joined(wanted.get("namespace"), checks.text(f"{where}.name", wanted.get("name")))
    for tool, function in made:
        if tool.offered == name and tool.kind == wanted["type"]:
            return tool, function
    raise GGUFError(f"{where}.name is {name[:80]!r}, and tools has no {wanted['type']} of that name")


def _box(made: list[tuple[Tool, Record]], choice: Any) -> Toolbox:
    if not made and choice in (None, "auto", "none"):
        choice = None
    return Toolbox(tuple(function for _, function in made), choice, tuple(tool for tool, _ in made))
