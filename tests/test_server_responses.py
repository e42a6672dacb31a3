"""/v1/responses as its clients use it: the real openai package, and requests in the shape of Codex's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("openai", "2.50")  # whose types know tools of a namespace

import openai
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from responding import responding
from serving import Running, serving

PATH = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "edits files",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch" /(.|\\n)*/'},
}
NAMESPACE = {
    "type": "namespace", "name": "crm", "description": "customers",
    "tools": [{"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}}],
}  # fmt: skip
TOOLS = [WEATHER, PATCH, NAMESPACE, {"type": "web_search", "external_web_access": False}]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": responding}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def streamed(server: Running, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream: each is what the client's types say, numbered, and named by its frame."""
    answer = server.ask(PATH, {"temperature": 0, **body, "stream": True})
    assert answer.status == 200, answer.body
    events: list[dict[str, Any]] = answer.events
    for event in events:
        EVENTS.validate_python(event)
    frames = answer.body.decode().split("\n\n")[:-1]
    assert [frame.split("\n")[0] for frame in frames] == [f"event: {event['type']}" for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Their types without what repeats."""
    made: list[str] = []
    for event in events:
        name = event["type"].removeprefix("response.")
        if made[-1:] != [name]:
            made.append(name)
    return made


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in items]


@pytest.mark.parametrize("said", ["hello", "nothing", "weather", "said", "patch", "twice"])
def test_a_stream_tells_what_a_whole_response_does(server: Running, said: str) -> None:
    body = {"input": f"@{said}", "tools": TOOLS}
    whole = server.ask(PATH, {"temperature": 0, **body}).json
    events = streamed(server, body)
    assert TypeAdapter(Response).validate_python(whole).status == "completed"
    assert events[-1]["type"] == "response.completed"
    last = events[-1]["response"]
    assert without_ids(last["output"]) == without_ids(whole["output"])
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == last["output"]
    assert {**last["usage"], "input_tokens_details": 0} == {**whole["usage"], "input_tokens_details": 0}


def test_the_events_of_a_text_come_in_their_order(server: Running) -> None:
    events = streamed(server, {"input": "@hello"})
    assert kinds(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    text = "".join(event["delta"] for event in events if event["type"].endswith("text.delta"))
    assert text == "Hello, Zoë!" == events[-1]["response"]["output"][0]["content"][0]["text"]
    assert events[-1]["response"]["usage"]["output_tokens"] == len(text.encode())


def test_calls_of_each_kind_are_told_as_what_they_are(server: Running) -> None:
    events = streamed(server, {"input": "@patch", "tools": TOOLS})
    parts = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    item = events[-1]["response"]["output"][0]
    assert len(parts) > 10
    assert "".join(parts) == item["input"] == '*** Begin Patch\n+a = "é"\\'
    assert item["type"] == "custom_tool_call"
    events = streamed(server, {"input": "@twice", "tools": TOOLS})
    first, second = events[-1]["response"]["output"]
    assert (first["name"], json.loads(first["arguments"])) == ("weather", {"city": "A"})
    assert (second["name"], second["namespace"], second["arguments"]) == ("find", "crm", "{}")
    assert first["call_id"] != second["call_id"]


def test_what_is_cut_is_incomplete(server: Running) -> None:
    whole = server.ask(PATH, {"input": "@weather", "tools": TOOLS, "max_output_tokens": 50, "temperature": 0}).json
    assert whole["status"] == "incomplete"
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
    assert whole["output"][-1]["status"] == "incomplete"
    events = streamed(server, {"input": "@hello", "max_output_tokens": 3})
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hel"


def test_the_clients_helpers(client: Any) -> None:
    made = client.responses.create(model="fake", input="@hello", temperature=0)
    assert made.output_text == "Hello, Zoë!"
    assert made.model == "fake"
    with client.responses.stream(model="fake", input="@hello", temperature=0) as stream:
        seen = [event.type for event in stream]
        assert stream.get_final_response().output_text == "Hello, Zoë!"
    assert seen[0] == "response.created"

    class Person(BaseModel):
        name: str
        age: int

    parsed = client.responses.parse(model="fake", input="@json", text_format=Person, temperature=0)
    assert parsed.output_parsed == Person(name="Tom", age=5)


def test_a_round_of_tools_and_a_conversation_that_goes_on(client: Any, server: Running) -> None:
    first = client.responses.create(model="fake", input="@said", tools=TOOLS, temperature=0)
    said, call = first.output
    assert (said.type, call.type, json.loads(call.arguments)) == ("message", "function_call", {"city": "Rome"})
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sun, @hello"}
    rest = {"model": "fake", "tools": TOOLS, "temperature": 0}
    by_id = client.responses.create(previous_response_id=first.id, input=[output], **rest)
    question = {"role": "user", "content": "@said"}
    by_hand = client.responses.create(input=[question, *first.output, output], **rest)
    assert by_id.output_text == by_hand.output_text == "Hello, Zoë!"
    assert by_id.usage.input_tokens == by_hand.usage.input_tokens
    by_name = [question, *({"type": "item_reference", "id": item.id} for item in first.output), output]
    assert client.responses.create(input=by_name, **rest).usage.input_tokens == by_hand.usage.input_tokens
    listed = client.responses.input_items.list(by_id.id, order="asc", limit=2)
    assert [item.type for item in listed] == ["message", "message", "function_call", "function_call_output"]


def test_what_is_kept_can_be_had_and_forgotten(client: Any, server: Running) -> None:
    made = client.responses.create(model="fake", input="@hello", temperature=0, metadata={"a": "b"})
    assert client.responses.retrieve(made.id).model_dump() == made.model_dump()
    with pytest.raises(openai.BadRequestError, match="has ended"):
        client.responses.cancel(made.id)
    client.responses.delete(made.id)
    for path, method in ((made.id, "GET"), (made.id, "DELETE"), (f"{made.id}/input_items", "GET")):
        assert server.ask(f"{PATH}/{path}", None, method).status == 404
    with pytest.raises(openai.NotFoundError, match="is not kept"):
        client.responses.create(model="fake", input="@hello", previous_response_id=made.id)
    forgotten = client.responses.create(model="fake", input="@hello", temperature=0, store=False)
    assert server.ask(f"{PATH}/{forgotten.id}").status == 404


def test_one_key_does_not_see_what_another_keeps() -> None:
    with serving({"fake": responding}, keys=("one", "two")) as running:
        one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
        name = running.ask(PATH, {"input": "@hello"}, headers=one).json["id"]
        assert running.ask(f"{PATH}/{name}", headers=one).status == 200
        assert running.ask(f"{PATH}/{name}", headers=two).status == 404
        assert running.ask(f"{PATH}/{name}").status == 401


def test_tokens_are_counted_and_told(client: Any, server: Running) -> None:
    counted = client.responses.input_tokens.count(model="fake", input="@hello")
    body = {"input": "@hello", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    events = streamed(server, body)
    assert counted.input_tokens == events[-1]["response"]["usage"]["input_tokens"]
    part = events[-1]["response"]["output"][0]["content"][0]
    assert [bytes(one["bytes"]) for one in part["logprobs"]] == [bytes([byte]) for byte in "Hello, Zoë!".encode()]
    assert all(len(one["top_logprobs"]) == 2 for one in part["logprobs"])
    deltas = [one for event in events if event["type"].endswith("text.delta") for one in event["logprobs"]]
    assert deltas == part["logprobs"]


def test_turns_are_left_out_only_where_that_is_asked_for(server: Running) -> None:
    turns: list[dict[str, Any]] = [{"role": "developer", "content": "Be brief."}]
    for i in range(9):
        turns += [{"role": "user", "content": f"{i}" * 500}, {"role": "assistant", "content": f"{i}" * 100}]
    body = {"input": [*turns, {"role": "user", "content": "@hello"}], "temperature": 0}
    refused = server.ask(PATH, body)
    assert refused.status == 400
    assert refused.json["error"]["code"] == "context_length_exceeded"
    assert server.ask(PATH, {**body, "truncation": "disabled"}).status == 400
    made = server.ask(PATH, {**body, "truncation": "auto"}).json
    assert made["output"][0]["content"][0]["text"] == "Hello, Zoë!"
    assert made["left_out_items"] == 2 * 4
    assert made["usage"]["input_tokens"] <= 4096 - 4096 // 8
    short = server.ask(PATH, {"input": "@hello", "truncation": "auto", "temperature": 0}).json
    assert "left_out_items" not in short
    alone = {"input": [*turns[:1], {"role": "user", "content": "x" * 5000}], "truncation": "auto"}
    assert server.ask(PATH, alone).status == 400


def codex_request(said: str) -> dict[str, Any]:
    """What Codex CLI 0.171 sends with wire_api = "responses", its texts made short."""
    items = [
        ("developer", ["You are a coding agent.", "The sandbox is read-only."]),
        ("user", ["<environment_context>\n<cwd>/work</cwd>\n</environment_context>"]),
        ("user", [f"@{said}"]),
    ]
    command = {
        "type": "object", "properties": {"cmd": {"type": "string"}, "tty": {"type": "boolean"}}, "required": ["cmd"],
        "additionalProperties": False,
    }  # fmt: skip
    shell = {"type": "function", "name": "exec_command", "description": "Runs a command.", "strict": False}
    agents = {"type": "function", "name": "close_agent", "description": "Closes one.", "strict": False}
    return {
        "model": "fake",
        "stream": True,
        "input": [
            {
                "type": "message", "id": f"msg_{i}", "role": role,
                "content": [{"type": "input_text", "text": text} for text in texts],
            }
            for i, (role, texts) in enumerate(items)
        ],
        "tools": [
            {**shell, "parameters": command},
            {"type": "namespace", "name": "agents", "description": "", "tools": [{**agents, "parameters": command}]},
            PATCH,
            WEATHER,
            {"type": "web_search", "external_web_access": False},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2",
        "client_metadata": {"session_id": "01a2", "turn_id": "01a3"},
    }  # fmt: skip


def test_codex_is_answered_turn_after_turn(server: Running) -> None:
    """Codex sends its history with each request: items as they came, and what its tools gave."""
    body = codex_request("patch")
    done = [event["item"] for event in streamed(server, body) if event["type"] == "response.output_item.done"]
    assert done[0]["type"] == "custom_tool_call"
    output = {"type": "custom_tool_call_output", "call_id": done[0]["call_id"], "output": "Success. @weather"}
    body["input"] += [*done, output]
    events = streamed(server, body)
    call = events[-1]["response"]["output"][0]
    parts = [{"type": "input_text", "text": "@hello"}, {"type": "input_image", "image_url": "data:image/png;base64,AA"}]
    body["input"] += [call, {"type": "function_call_output", "call_id": call["call_id"], "output": parts}]
    events = streamed(server, body)
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello, Zoë!"


def test_a_failure_within_a_stream_is_told_as_one(server: Running) -> None:
    from ggufpy.server.families.responses import ResponseStream
    from ggufpy.server.problems import Problem

    family = ResponseStream()
    for event in streamed(server, {"input": "@hello"})[:5]:
        family.frame(event)
    frame = family.broken(Problem(500, "the model failed")).decode()
    event = json.loads(frame.split("data: ")[1])
    EVENTS.validate_python(event)
    assert frame.startswith("event: response.failed\n")
    assert event["sequence_number"] == 5
    assert event["response"]["error"] == {"code": "server_error", "message": "the model failed"}
