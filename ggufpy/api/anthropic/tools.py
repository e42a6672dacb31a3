"""Tools on offer, and which may or must be called. In: `tools` and `tool_choice` of a body. Out: the same as OpenAI's
clients offer it (`chat/tools.py`)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from ggufpy.api.anthropic.client_tools import CLIENT_TOOLS
from ggufpy.api.anthropic.fields import (
    Record,
    check_cache_control,
    check_fields,
    choice,
    items,
    kind,
    mapping,
    switch,
    text,
    whole,
    wrong,
)

MOST_TOOLS = 1024  # each is some milliseconds of work before an answer begins
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "advisor_", "mcp_toolset")
SCREENS = ("computer_", "browser_toolset_")
SHARED = ("cache_control", "strict", "defer_loading", "allowed_callers", "input_examples", "eager_input_streaming")


def offered(tools: object, tool_choice: object, references: Collection[str]) -> Record:
    """`tools`, `tool_choice` and `parallel_tool_calls` as OpenAI has them. Raises GGUFError with what is wrong.

    A tool with `defer_loading` is on offer once a result has named it (`references`).
    """
    made: list[Record] = []
    names: set[str] = set()
    for i, tool in enumerate([] if tools is None else items("tools", tools, MOST_TOOLS)):
        function, deferred = _tool(f"tools.{i}", tool)
        if function["name"] in names:
            raise wrong(f"tools.{i}.name", f"{function['name']!r} is another's: calls could not be told apart")
        names.add(function["name"])
        if not deferred or function["name"] in references:
            made.append({"type": "function", "function": function})
    chosen, parallel = _choice(tool_choice, [tool["function"]["name"] for tool in made])
    return {"tools": made or None, "tool_choice": chosen if made else None, "parallel_tool_calls": parallel}


def _tool(place: str, given: object) -> tuple[Record, bool]:
    """A tool's function, and whether it is deferred."""
    tool = mapping(place, given)
    name = tool.get("type")
    if name is not None and not isinstance(name, str):
        raise wrong(f"{place}.type", f"it is {kind(name)}, and must be a text")
    function = _custom(place, tool) if name in (None, "custom") else _defined(place, tool, str(name))
    check_cache_control(f"{place}.cache_control", tool.get("cache_control"))
    if switch(f"{place}.strict", tool.get("strict")):
        function["strict"] = True
    switch(f"{place}.eager_input_streaming", tool.get("eager_input_streaming"))
    callers = tool.get("allowed_callers")
    if callers is not None and "direct" not in items(f"{place}.allowed_callers", callers):
        raise wrong(f"{place}.allowed_callers", 'code is not run here: "direct" must be among them')
    examples = tool.get("input_examples")
    if examples is not None and (some := items(f"{place}.input_examples", examples)):
        lines = [json.dumps(mapping(f"{place}.input_examples.{i}", one)) for i, one in enumerate(some)]
        function["description"] = "\n".join([function.get("description", ""), "Examples of input:", *lines]).strip()
    return function, switch(f"{place}.defer_loading", tool.get("defer_loading"))


def _custom(place: str, tool: Mapping[str, Any]) -> Record:
    check_fields(place, tool, ("name", "input_schema"), ("type", "description", *SHARED))
    name = text(f"{place}.name", tool["name"])
    if not NAME.fullmatch(name):
        raise wrong(f"{place}.name", f"it is {name[:80]!r}, and must be 1 to 128 letters, digits, _ or -")
    schema = mapping(f"{place}.input_schema", tool["input_schema"])
    choice(f"{place}.input_schema.type", schema.get("type", "object"), ("object",))
    if schema.get("properties") is not None:
        mapping(f"{place}.input_schema.properties", schema["properties"])
    function: Record = {"name": name}
    if tool.get("description") is not None:
        function["description"] = text(f"{place}.description", tool["description"])
    return {**function, "parameters": {key: value for key, value in schema.items() if value is not None}}


def _defined(place: str, tool: Mapping[str, Any], name: str) -> Record:
    """A tool that Anthropic has defined."""
    known = CLIENT_TOOLS.get(name)
    if known is not None:
        check_fields(place, tool, ("type", "name"), (*SHARED, *known.own))
        choice(f"{place}.name", tool["name"], (known.name,))
        if tool.get("max_characters") is not None:
            whole(f"{place}.max_characters", tool["max_characters"], 1)
        return known.function
    if name.startswith(SERVER_TOOLS):
        raise wrong(f"{place}.type", f"{name[:60]} is run by Anthropic's servers, and cannot be here: leave it out")
    if name.startswith(SCREENS):
        raise wrong(f"{place}.type", f"{name[:60]} needs images, and models are given text only here: leave it out")
    raise wrong(f"{place}.type", f"it is {name[:60]!r}, and must be custom or one of {', '.join(CLIENT_TOOLS)}")


def _choice(given: object, names: Collection[str]) -> tuple[Any, bool]:
    """OpenAI's `tool_choice`, and whether several calls may be made."""
    if given is None:
        return "auto", True
    asked = mapping("tool_choice", given)
    name = choice("tool_choice.type", asked.get("type"), ("auto", "any", "tool", "none"))
    others = {"none": ("type",), "tool": ("type", "name")}.get(name, ("type",))
    check_fields("tool_choice", asked, others, () if name == "none" else ("disable_parallel_tool_use",))
    parallel = not switch("tool_choice.disable_parallel_tool_use", asked.get("disable_parallel_tool_use"))
    if name in ("any", "tool") and not names:
        raise wrong("tool_choice", f"it is {name}, and there are no tools to call")
    if name == "tool":
        wanted = text("tool_choice.name", asked["name"])
        if wanted not in names:
            raise wrong("tool_choice.name", f"{wanted[:80]!r} is not among the tools")
        return {"type": "function", "function": {"name": wanted}}, parallel
    return {"auto": "auto", "any": "required", "none": "none"}[name], parallel
