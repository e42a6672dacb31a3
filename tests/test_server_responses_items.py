"""Responses in parts: items, tools, thoughts, the text within a custom call, what is kept; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette")

from hypothesis import given, settings
from hypothesis import strategies as st
from llm_fakes import fake_llama
from responding import responding
from serving import Running, serving

from ggufpy.api.openai.texts import Delta
from ggufpy.api.responses.custom import InputReader
from ggufpy.api.responses.fields import RESPONSE
from ggufpy.api.responses.items import CALLS, NO_TEXT, OUTPUTS, UNSEEN, itemized, sealed, told
from ggufpy.api.responses.output import Output, Telling
from ggufpy.api.responses.shape import ResponseShape
from ggufpy.api.responses.tools import toolbox
from ggufpy.api.shape import Spent
from ggufpy.chat.syntax import Arguments, Call, Content, Thought
from ggufpy.errors import GGUFError
from ggufpy.server.problems import Problem
from ggufpy.server.responses import prepare
from ggufpy.server.responses_store import Responses

PATH = "/v1/responses"
REFUSED = [name for name, field in RESPONSE.items() if field.effect == "refused" and name != "background"]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": responding}) as running:
        yield running


def chat(*items: Any, instructions: str | None = None) -> list[dict[str, Any]]:
    return told(itemized(list(items)), instructions).messages


def text(role: str, said: str) -> dict[str, Any]:
    return {"role": role, "content": said}


def call(name: str, call_id: str, **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "call_id": call_id, "arguments": "{}", **more}


def output(call_id: str, said: Any = "done") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


# -- items --


def test_thoughts_texts_and_calls_in_a_row_are_one_message() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    made = chat(text("user", "q"), thought, text("assistant", "I look."), call("a", "1"), call("b", "2", namespace="n"),
                output("2"), output("1", [{"type": "input_text", "text": "x"}, {"type": "input_image"}]),
                text("assistant", "So."), instructions="Be brief.")  # fmt: skip
    assert [message["role"] for message in made] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    said = made[2]
    assert (said["reasoning_content"], said["content"]) == ("hm", "I look.")
    assert [one["function"]["name"] for one in said["tool_calls"]] == ["a", "n__b"]
    assert [message["tool_call_id"] for message in made[3:5]] == ["2", "1"]
    assert made[4]["content"] == f"x\n{NO_TEXT}"


@pytest.mark.parametrize(
    ("reasoning", "thought"),
    [
        ({"summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": sealed("whole")}, "whole"),
        ({"summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "gAAA of another"}, "s"),
        ({"summary": [], "encrypted_content": "gAAA of another"}, None),
        ({"summary": [{"text": "s"}], "content": [{"text": "a"}, {"text": "b"}]}, "a\n\nb"),
    ],
)
def test_a_thought_comes_back(reasoning: dict[str, Any], thought: str | None) -> None:
    made = chat(text("user", "q"), {"type": "reasoning", **reasoning}, text("assistant", "a"), text("user", "q"))
    assert made[1].get("reasoning_content") == thought
    assert len(chat(text("user", "q"), {"type": "reasoning", **reasoning}, text("user", "q"))) == 2  # none alone


def test_every_kind_of_call_is_shown_and_every_other_item_left_out() -> None:
    action = {"type": "exec", "command": ["ls"]}
    shell = {"type": "local_shell_call", "id": "l", "call_id": "l", "action": action, "status": "completed"}
    patch = {"type": "apply_patch_call", "call_id": "p", "operation": {"type": "delete_file", "path": "a"}}
    custom = {"type": "custom_tool_call", "call_id": "c", "name": "x", "input": 'a "b"'}
    mcp = {"type": "mcp_call", "id": "m", "name": "y", "arguments": "{}", "server_label": "s", "output": "z"}
    made = chat(
        shell, {"type": "local_shell_call_output", "id": "l", "output": "a\nb"},
        patch, {"type": "apply_patch_call_output", "call_id": "p", "status": "completed", "output": "ok"},
        custom, {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"}, mcp,
        *({"type": kind} for kind in sorted(UNSEEN)),
    )  # fmt: skip
    calls = [one["function"] for message in made for one in message.get("tool_calls", ())]
    assert [one["name"] for one in calls] == ["local_shell", "apply_patch", "x", "y"]
    assert json.loads(calls[0]["arguments"]) == action
    assert json.loads(calls[2]["arguments"]) == {"input": 'a "b"'}
    assert [message["content"] for message in made if message["role"] == "tool"] == ["a\nb", "ok", "ok", "z"]
    assert not UNSEEN & {*CALLS, *OUTPUTS}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([output("1")], "input[0].call_id is '1', and no call"),
        ([call("a", "1")], "input[0] is a call without an output"),
        ([call("a", "1"), call("b", "1")], "input[1].call_id is '1', which another"),
        ([call("a", "1"), output("1"), output("1")], "input[2].call_id"),
        ([{"role": "tool", "content": "x"}], "input[0].role"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content[0] is of type"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "user"}], "input[0].content"),
        ([{"type": "compaction", "encrypted_content": "x"}], "input[0].type is 'compaction'"),
        ([{"type": "reasoning", "encrypted_content": "ggufpy:!"}], "input[0].encrypted_content"),
        ([{"type": 1}], "input[0].type"),
        ([{**output("1"), "call_id": None}], "input[0].call_id is None"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input[0].call_id is None"),
        ([1], "input[0]"),
        ([{"type": "local_shell_call", "call_id": "1", "action": "ls"}], "input[0].action"),
    ],
)
def test_items_that_cannot_be_are_named(items: list[Any], said: str) -> None:
    with pytest.raises(GGUFError) as error:
        chat(*items)
    assert str(error.value).startswith(said)


def test_the_error_of_a_message_names_its_item() -> None:
    items = [text("user", "q"), text("assistant", "I look."), call("a", "1"), output("1"), call("b", "2"), output("2")]
    made = told(itemized(items), "Be brief.")
    assert made.places == ["instructions", "input[0]", "input[1]", "input[3]", "input[4]", "input[5]"]
    model = responding()
    model.chat_template.render = lambda *a, **b: refuse("messages[4].tool_calls[0].function.arguments is no JSON")
    with pytest.raises(Problem, match=r"^input\[4\]: tool_calls\[0\]\.function\.arguments is no JSON") as error:
        prepare(Responses(), "", model, {"input": items, "instructions": "Be brief.", "model": "fake"})
    assert (error.value.status, error.value.param) == (400, "input[4]")


def refuse(message: str) -> Any:
    raise GGUFError(message)


# -- tools --

FIND = {"type": "function", "name": "find"}
EDIT = {"type": "custom", "name": "edit", "format": {"type": "grammar", "syntax": "regex", "definition": "a+"}}
ROOM = {"type": "namespace", "name": "crm", "tools": [FIND]}
SEARCH = {"type": "web_search_preview"}


@pytest.mark.parametrize(
    ("choice", "names", "chosen"),
    [
        (None, ["find", "edit", "crm__find"], None),
        ("required", ["find", "edit", "crm__find"], "required"),
        ({"type": "custom", "name": "edit"}, ["find", "edit", "crm__find"], {"name": "edit"}),
        ({**FIND, "namespace": "crm"}, ["find", "edit", "crm__find"], {"name": "crm__find"}),
        ({"type": "allowed_tools", "mode": "required", "tools": [FIND, SEARCH]}, ["find"], "required"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [SEARCH]}, [], None),
    ],
)
def test_tools_become_functions(choice: Any, names: list[str], chosen: Any) -> None:
    box = toolbox([FIND, SEARCH, EDIT, ROOM], choice)
    assert [one["function"]["name"] for one in box.functions] == names == [tool.offered for tool in box.known]
    assert (box.choice["function"] if isinstance(box.choice, dict) else box.choice) == chosen
    custom = [one["function"]["parameters"] for one in box.functions if one["function"]["name"] == "edit"]
    assert all(one["properties"]["input"]["pattern"] == "^(?:a+)$" for one in custom)


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        ([{"type": "function", "function": {"name": "f"}}], None, "tools[0].name is missing"),
        ([{"name": "f"}], None, "tools[0].type"),
        ([FIND, FIND], None, "tools has 'find' twice"),
        ([{**EDIT, "format": {"type": "grammar", "syntax": "abnf", "definition": ""}}], None, "tools[0].format.syntax"),
        ([{**ROOM, "tools": [ROOM]}], None, "tools[0].tools[0] is a namespace"),
        ("all", None, "tools is"),
        ([FIND], "always", "tool_choice is"),
        ([FIND], {"type": "web_search_preview"}, "tool_choice.type is"),
        ([FIND], {"type": "function", "name": "lose"}, "tool_choice.name is 'lose'"),
        ([FIND], {"type": "custom", "name": "find"}, "tool_choice.name is 'find', and tools has no custom"),
        ([FIND], {"type": "allowed_tools", "mode": "some", "tools": []}, "tool_choice.mode"),
    ],
)
def test_tools_that_cannot_be_are_named(tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(GGUFError) as error:
        toolbox(tools, choice)
    assert str(error.value).startswith(said)


@given(st.text(), st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_the_text_of_a_custom_call_is_read_as_it_comes(said: str, ascii_only: bool, data: st.DataObject) -> None:
    said = said.encode("utf-8", "replace").decode()
    whole = json.dumps({"input": said}, ensure_ascii=ascii_only)
    reader, parts, at = InputReader(), [], 0
    while at < len(whole):
        size = data.draw(st.integers(1, 9))
        parts.append(reader.push(whole[at : at + size]))
        at += size
    rest, all_of_it = reader.finish()
    assert "".join(parts) + rest == all_of_it == said
    assert not rest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [('{"input": "ab\\', "ab"), ('{"text": 1}', '{"text": 1}'), ("", ""), ('{"a": 1, "input": "x"}', "x")],
)
def test_arguments_of_another_form_are_not_lost(arguments: str, said: str) -> None:
    reader = InputReader()
    first = reader.push(arguments)
    assert (first + reader.finish()[0], reader.finish()[1]) == (said, said)


# -- what is said --


def test_thoughts_are_told_counted_and_coded() -> None:
    kept: list[dict[str, Any]] = []
    telling = Telling(toolbox(None, None), summary=True, sealed=True)
    shape = ResponseShape(fake_llama(), {"id": "resp_1", "store": True}, telling, kept.append)
    deltas = [
        Delta("", 1), Delta("", 2, pieces=(Thought("let "),)), Delta("", 3, pieces=(Thought("me"),)),
        Delta("", 4, pieces=(Content("\n\n"),)), Delta("", 5, pieces=(Content("so"),)), Delta("", finish="stop"),
    ]  # fmt: skip
    said = (event for delta in deltas for event in shape.delta(0, delta))
    events = [*shape.begin(), *said, *shape.end(Spent(9, 2, 5))]
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert [kind for kind in kinds if kind.startswith("reasoning")] == [
        "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_text.delta",
        "reasoning_summary_text.delta", "reasoning_text.delta", "reasoning_summary_text.done",
        "reasoning_summary_part.done", "reasoning_text.done",
    ]  # fmt: skip
    response = events[-1]["response"]
    thought, message = response["output"]
    assert thought["content"][0]["text"] == thought["summary"][0]["text"] == "let me"
    assert message["content"][0]["text"] == "\n\nso"
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 2
    assert kept == [response]
    back = chat(text("user", "q"), {**thought, "content": None, "summary": []}, text("assistant", "so"))
    assert back[1]["reasoning_content"] == "let me"


def test_ids_of_calls_differ_and_white_space_before_them_is_no_message() -> None:
    said = Output(Telling(toolbox([FIND], None)))
    pieces = [Content("\n"), Call(0, "1", "find"), Arguments(0, "{"), Arguments(0, "}"), Content(" \n"),
              Call(1, "1", "find"), Arguments(1, "{}")]  # fmt: skip
    events = [event for piece in pieces for event in said.push(piece)] + [*said.finish(True)]
    assert [item["type"] for item in said.items] == ["function_call"] * 2
    assert [item["arguments"] for item in said.items] == ["{}"] * 2
    assert len({item["call_id"] for item in said.items}) == 2
    assert [event["output_index"] for event in events if event["type"].endswith("added")] == [0, 1]


# -- what is kept --


def record(name: str, size: int = 10) -> dict[str, Any]:
    return {"id": name, "output": [{"id": f"{name}_item", "text": "x" * size}]}


def test_the_newest_are_kept_and_the_others_given_back() -> None:
    kept = Responses(most=3, most_bytes=100_000)
    for i in range(5):
        kept.keep("me", record(f"r{i}"), None, [{"id": "in"}])
    assert len(kept) == 3
    kept.find("me", "r2")  # wanted, so it is new
    kept.keep("me", record("r5"), None, [])
    assert kept.find("me", "r2").record["id"] == "r2"
    for name in ("r0", "r1", "r3", "none"):
        with pytest.raises(Problem, match="is not kept"):
            kept.find("me", name)
    with pytest.raises(Problem):
        kept.item("me", "r0_item")
    assert kept.item("me", "r5_item")["id"] == "r5_item"
    with pytest.raises(Problem):
        kept.item("you", "r5_item")


def test_a_conversation_is_kept_once_and_as_long_as_its_end() -> None:
    kept, before = Responses(most=10, most_bytes=1 << 20), None
    for i in range(6):
        kept.keep("me", record(f"r{i}", 1000), before, [{"id": f"in{i}"}])
        before = kept.find("me", f"r{i}").whole
    assert kept.size < 6 * 2200
    for i in range(5):
        kept.delete("me", f"r{i}")
    assert len(kept.find("me", "r5").whole.all()) == 12
    assert kept.size > 6 * 1000
    kept.delete("me", "r5")
    assert kept.size == 0 == len(kept)
    small = Responses(most=10, most_bytes=5000)
    for i in range(9):
        small.keep("me", record(f"r{i}", 1000), None, [])
        assert small.size <= 5000
    assert len(small) == 2


# -- fields --


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", -1, "from 0 to 2"), ("temperature", 2.1, "from 0 to 2"), ("top_p", 2, "from 0 to 1"),
        ("temperature", "hot", "must be a number"), ("max_output_tokens", 0, "at least 1"),
        ("top_logprobs", 21, "from 0 to 20"), ("max_tool_calls", 0, "at least 1"), ("stream", 1, "true or false"),
        ("background", True, "background"), ("text", {"format": {"type": "xml"}}, "text.format.type"),
        ("text", {"format": {"type": "json_schema", "name": "a"}}, "text.format.schema"),
        ("text", {"format": {"type": "json_schema", "name": "a", "schema": {"type": "x"}}}, "type"),
        ("text", {"verbosity": "loud"}, "text.verbosity"), ("text", {"size": 1}, "text.size"),
        ("reasoning", {"effort": "huge"}, "reasoning.effort"), ("include", ["all"], "include[0]"),
        ("truncation", "middle", "truncation"), ("metadata", {"a": 1}, "metadata.a"),
        ("metadata", {str(i): "" for i in range(17)}, "16"), ("stream_options", {"x": 1}, "stream_options.x"),
        ("service_tier", 1, "service_tier"), ("input", 1, "input"), ("input", [], "input is empty"),
        ("previous_response_id", 1, "previous_response_id"), ("instructions", 1, "instructions"),
        ("tool_choice", "required", "there is nothing to call"), ("temperatur", 1, "did you mean temperature?"),
        ("messages", [], "messages is no field"), ("seed", "x", "seed"), ("stop", 1, "stop"), ("top_k", "x", "top_k"),
        ("chat_template_kwargs", 1, "chat_template_kwargs is 1"), ("safety_identifier", "x" * 5000, "4,096"),
        ("input", [{"type": "additional_tools", "tools": 1}], "input[0].tools"),
        *((name, {}, "cannot be honoured") for name in sorted(REFUSED)),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_named(server: Running, field: str, value: Any, said: str) -> None:
    answer = server.ask(PATH, {"input": "@hello", field: value})
    error = answer.json["error"]
    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert said in error["message"]
    assert "\n" not in error["message"]


def test_fields_without_effect_are_taken_and_null_says_nothing(server: Running) -> None:
    taken = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "prompt_cache_key": "k", "safety_identifier": "s",
        "service_tier": "auto", "max_tool_calls": 3, "parallel_tool_calls": False, "background": False,
        "prompt_cache_retention": "24h", "stream_options": {"include_obfuscation": True}, "seed": 1, "top_k": 3,
        "text": {"format": {"type": "text"}, "verbosity": "low"}, "reasoning": {"effort": "none", "summary": "auto"},
        "include": ["web_search_call.results"], "instructions": "Be brief.", "client_metadata": {},
    }  # fmt: skip
    made = server.ask(PATH, {"input": "@hello", "temperature": 0, **taken}).json
    assert made["output"][0]["content"][0]["text"] == "Hello, Zoë!"
    assert (made["user"], made["metadata"], made["temperature"]) == ("me", {"a": "b"}, 0)
    nothing = dict.fromkeys([name for name in RESPONSE if name != "input"])
    assert server.ask(PATH, {**nothing, "input": "@hello"}).status == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["type", "role", "content", "id", "call_id", "name", "arguments", "output", "input", "action", "summary", "status",
     "encrypted_content", "namespace", "tools", "text", "function", "parameters", "format"]
)  # fmt: skip
KINDS = st.sampled_from([*CALLS, *OUTPUTS, *sorted(UNSEEN), "message", "reasoning", "item_reference", "user",
                         "function", "custom", "namespace", "input_text", "assistant", "1"])  # fmt: skip
ITEMS = st.dictionaries(NAMES, KINDS | JSON | st.lists(st.dictionaries(NAMES, KINDS | JSON, max_size=3), max_size=2),
                        max_size=6)  # fmt: skip


@given(st.lists(ITEMS, max_size=4), st.dictionaries(st.sampled_from(sorted(RESPONSE)), JSON | KINDS | st.lists(ITEMS)))
@settings(max_examples=60, deadline=None)
def test_whatever_is_sent_is_no_fault_of_the_server(
    server: Running, items: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    answer = server.ask(PATH, {**more, "input": items, "max_output_tokens": 1, "stream": False})
    assert answer.status in (200, 400, 404), answer.body
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    ("query", "status"), [("limit=0", 400), ("limit=x", 400), ("order=up", 400), ("after=x", 400), ("limit=1", 200)]
)
def test_pages_of_items(server: Running, query: str, status: int) -> None:
    name = server.ask(PATH, {"input": [text("user", "a"), text("user", "@hello")]}).json["id"]
    answer = server.ask(f"{PATH}/{name}/input_items?{query}")
    assert answer.status == status
    if status == 200:
        assert (len(answer.json["data"]), answer.json["has_more"]) == (1, True)
        after = answer.json["last_id"]
        rest = server.ask(f"{PATH}/{name}/input_items?after={after}").json
        assert (len(rest["data"]), rest["has_more"]) == (1, False)
    assert server.ask(f"{PATH}/{name}?stream=true").status == 400
