"""What requests offer, in OpenAI's shapes."""

from __future__ import annotations

from typing import Any

import pytest

from ggufpy.chat.tools import offered
from ggufpy.errors import GGUFError


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def test_nothing_is_offered() -> None:
    assert offered(None) is None
    assert offered([]) is None
    assert offered([], "auto") is None
    assert offered(None, "none", parallel_tool_calls=True) is None
    assert offered(None, functions=[]) is None


def test_tools() -> None:
    schema = {"properties": {"a": {"type": "string"}}}
    offer = offered(
        [tool("f", description="d", parameters=schema, strict=True), tool("g", parameters=None, strict=None)]
    )
    assert offer is not None
    assert (offer.choice, offer.parallel, offer.must_call, offer.named) == ("auto", True, False, False)
    assert [one["function"] for one in offer.tools] == [
        {"name": "f", "description": "d", "parameters": {"type": "object", **schema}, "strict": True},
        {"name": "g", "parameters": {"type": "object", "properties": {}}},
    ]
    assert offer.chosen == offer.tools
    bare = offered([{"function": {"name": "f"}}], parallel_tool_calls=False)
    assert bare is not None
    assert bare.tools[0]["type"] == "function"
    assert not bare.parallel


def test_choices() -> None:
    tools = [tool("f"), tool("auto")]
    for choice, must, names in (("none", False, []), ("auto", False, ["f", "auto"]), ("required", True, ["f", "auto"])):
        offer = offered(tools, choice)
        assert offer is not None
        assert (offer.choice, offer.must_call) == (choice, must)
        assert [one["function"]["name"] for one in offer.chosen] == names
    offer = offered(tools, tool("auto"))  # a tool may have the name of a choice
    assert offer is not None
    assert (offer.choice, offer.must_call) == ("auto", True)
    assert [one["function"]["name"] for one in offer.chosen] == ["auto"]


def test_the_older_functions() -> None:
    offer = offered(None, functions=[{"name": "f"}, {"name": "g"}], function_call={"name": "g"})
    assert offer is not None
    assert (offer.choice, offer.must_call, offer.parallel) == ("g", True, False)
    assert offer.tools[0] == {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
    }
    offer = offered(None, functions=[{"name": "f"}], function_call="none")
    assert offer is not None
    assert offer.chosen == ()


def test_what_is_given_is_not_changed() -> None:
    tools = [tool("f", parameters={"properties": {}})]
    offered(tools)
    assert tools == [tool("f", parameters={"properties": {}})]


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"tools": {"f": 1}}, "tools must be a list, not dict"),
        ({"tools": ["f"]}, r"tools\[0\] must be .*, not str"),
        ({"tools": [{"type": "retrieval"}]}, r"tools\[0\].type must be \"function\", not 'retrieval'"),
        ({"tools": [{"type": "function", "name": "f"}]}, r"tools\[0\].function is missing: put name and parameters"),
        ({"tools": [{"type": "function"}]}, r"tools\[0\].function is missing$"),
        ({"tools": [{"function": "f"}]}, r"tools\[0\].function must be .*, not str"),
        ({"tools": [{"function": {}}]}, r"tools\[0\].function.name must be a name .*, not null"),
        ({"tools": [tool("")]}, r"tools\[0\].function.name must be a name .*, not ''"),
        ({"tools": [tool("a b")]}, r"tools\[0\].function.name must be a name .*, not 'a b'"),
        ({"tools": [tool("f", description=3)]}, r"tools\[0\].function.description must be a text, not int"),
        ({"tools": [tool("f", strict="yes")]}, r"tools\[0\].function.strict must be true or false, not str"),
        ({"tools": [tool("f", parameters=[])]}, r"parameters must be a JSON schema of an object, not list"),
        ({"tools": [tool("f", parameters={"type": "array"})]}, r"parameters.type must be \"object\", not 'array'"),
        (
            {"tools": [tool("f", parameters={"properties": []})]},
            r"parameters.properties must be an object .*, not list",
        ),
        ({"tools": [tool("f"), tool("f")]}, r"tools\[1\] has the name 'f', which another has"),
        (
            {"tools": [tool("f")], "tool_choice": "maybe"},
            r'tool_choice must be "none", "auto", "required" or name .*maybe',
        ),
        ({"tools": [tool("f")], "tool_choice": 3}, "tool_choice must be a text or name a function, not int"),
        ({"tools": [tool("f")], "tool_choice": {"type": "x"}}, "tool_choice.type must be \"function\", not 'x'"),
        ({"tools": [tool("f")], "tool_choice": {"type": "function"}}, r"tool_choice.function must be .*, not null"),
        (
            {"tools": [tool("f")], "tool_choice": {"function": {}}},
            "tool_choice.function.name must be the name of a function",
        ),
        ({"tools": [tool("f")], "tool_choice": tool("g")}, "tool_choice names 'g', which is not offered; tools has f"),
        ({"tools": None, "tool_choice": tool("g")}, "tool_choice names 'g', which is not offered, and tools is empty"),
        ({"tools": [], "tool_choice": "required"}, 'tool_choice is "required", and tools is empty'),
        ({"tools": [tool("f")], "functions": []}, "give tools or functions, not both"),
        ({"tools": None, "functions": [{}]}, r"functions\[0\].name must be a name"),
        (
            {"tools": None, "functions": [{"name": "f"}], "function_call": "required"},
            'function_call must be "none", "auto" or',
        ),
        ({"tools": None, "functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call names 'g'"),
        ({"tools": None, "functions": [{"name": "f"}], "tool_choice": "auto"}, "tool_choice goes with tools"),
        ({"tools": [tool("f")], "function_call": "auto"}, "function_call goes with functions"),
        ({"tools": [tool("f")], "parallel_tool_calls": "yes"}, "parallel_tool_calls must be true or false, not str"),
    ],
)
def test_errors_name_the_field(request_: dict[str, Any], problem: str) -> None:
    with pytest.raises(GGUFError, match=problem) as caught:
        offered(**request_)
    assert "\n" not in str(caught.value)
