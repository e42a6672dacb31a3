"""Anthropic's messages: blocks and their events, fields, versions, histories, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic_serving import CALL, HELLO, THOUGHT, TOOL, URL, ask, joined, saying
from serving import Running, serving

from ggufpy.api.anthropic import models
from ggufpy.api.anthropic.writing import parsed, partial_object
from ggufpy.errors import GGUFError

COUNT = f"{URL}/count_tokens"
THINK = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "rain"}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    texts = {
        "fake": "Rain.",
        "thinker": THOUGHT + "Rain.",
        "caller": f"{THOUGHT}Let me see.\n{CALL}\n{CALL}",
    }
    with serving({name: lambda text=text: saying(text) for name, text in texts.items()}) as running:  # type: ignore[misc]
        yield running


def talk(*contents: Any) -> dict[str, Any]:
    """Messages by turns, the user's first."""
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": one} for i, one in enumerate(contents)]}


def said(server: Running, body: dict[str, Any]) -> str:
    """The prompt that a model gets, as text: what the fake one has last begun with."""
    answer = ask(server, body)
    assert answer.status == 200, answer.json
    loaded = {served.name: served for served in server.service.pool.loaded}["fake"]
    engine: Any = loaded.llm.engine
    return bytes(token for token in engine.held if token < 256).decode().removesuffix(answer.json["content"][0]["text"])


# -- answers --


@pytest.mark.parametrize("model", ["fake", "thinker", "caller"])
@pytest.mark.parametrize(
    "more", [{}, THINK, {"max_tokens": 30}, {**THINK, "tools": [TOOL]}, {"stop_sequences": ["ai"]}]
)
def test_a_stream_says_what_a_whole_message_says(server: Running, model: str, more: dict[str, Any]) -> None:
    asked = {**more, "model": model}
    whole = ask(server, asked).json
    events = ask(server, {**asked, "stream": True}).events
    blocks, final = joined(events)
    for block in [*whole["content"], *blocks]:
        if block["type"] == "tool_use":
            assert block.pop("id").startswith("toolu_")
            block["input"] = json.loads(block["input"]) if isinstance(block["input"], str) else block["input"]
    assert blocks == whole["content"]
    assert final["delta"]["stop_reason"] == whole["stop_reason"]
    assert final["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(blocks)


def test_thoughts_are_told_where_they_are_asked_for(server: Running) -> None:
    asked = {"model": "thinker", **THINK}
    thinking, text = ask(server, asked).json["content"]
    assert (thinking["type"], thinking["thinking"], text["text"]) == ("thinking", "Oslo, I guess.", "Rain.")
    hidden = ask(server, {**asked, "thinking": {**THINK["thinking"], "display": "omitted"}}).json["content"][0]  # type: ignore[dict-item]
    assert hidden == {**thinking, "thinking": ""}
    plain = ask(server, {"model": "thinker"}).json
    assert [block["type"] for block in plain["content"]] == ["text"]
    assert plain["usage"]["output_tokens_details"]["thinking_tokens"] > 5
    history = talk("Weather?", [thinking, text], "And now?")
    assert ask(server, {**asked, **history}).status == 200


def test_why_an_answer_ended(server: Running) -> None:
    assert ask(server).json["stop_reason"] == "end_turn"
    assert ask(server, {"max_tokens": 2}).json["stop_reason"] == "max_tokens"
    stopped = ask(server, {"stop_sequences": ["nope", "in"]}).json
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "in")
    assert stopped["content"] == [{"type": "text", "text": "Ra"}]
    called = ask(server, {"model": "caller", "tools": [TOOL]}).json
    assert called["stop_reason"] == "tool_use"
    assert called["content"][-1]["input"] == {"city": "Oslo"}


def test_an_answer_that_fills_the_context_says_so() -> None:
    with serving({"fake": lambda: saying("x" * 500, n_ctx=128)}) as server:
        whole = ask(server).json
    assert whole["stop_reason"] == "model_context_window_exceeded"
    assert whole["usage"]["output_tokens"] < 128


def test_a_prompt_may_be_read_without_an_answer(server: Running) -> None:
    assert ask(server, {"max_tokens": 0}).json["content"] == []
    usage = ask(server, {"max_tokens": 1}).json["usage"]
    assert usage["cache_read_input_tokens"] > usage["input_tokens"]


def test_a_call_that_is_cut_short_is_told_as_far_as_it_came(server: Running) -> None:
    for most in range(60, 110):
        answer = ask(server, {"model": "caller", "tools": [TOOL], "max_tokens": most}).json
        assert answer["stop_reason"] in ("max_tokens", "tool_use")
        assert all(block["input"] in ({}, {"city": "Oslo"}) for block in answer["content"] if "input" in block)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", {}), ("{", {}), ('{"a', {}), ('{"a": 1', {}), ('{"a": 1, "b": [1, 2', {"a": 1, "b": [1]}), ("[1, 2]", {}),
        ('{"a": {"b": "x", "c": "}"', {"a": {"b": "x"}}), ('{"a": "\\"}", "b', {"a": '"}'}), ("}}}", {}),
    ],
)  # fmt: skip
def test_objects_that_are_cut_short(text: str, whole: dict[str, Any]) -> None:
    assert partial_object(text) == whole


def test_what_is_no_object_of_json_is_none() -> None:
    assert parsed(['{"a": ', "NaN}"]) is None
    assert parsed(["[" * 100_000]) is None
    assert parsed([]) == {}
    assert parsed(['{"city": "\\ud800"}']) == {"city": "?"}  # half a surrogate is no text


# -- what a model is given --


def test_messages_reach_the_model(server: Running) -> None:
    assert "<|im_start|>system\nBe brief.<|im_end|>" in said(server, {"system": "Be brief."})
    blocks = [
        {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Two."},
    ]
    assert "system\nOne.\nTwo.<|im_end|>" in said(server, {"system": blocks})
    found = {"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "found"}]}
    page = {"type": "document", "title": "D", "source": {"type": "text", "media_type": "text/plain", "data": "page"}}
    assert "user\nT\nS\n\nfound\nD\n\npage<|im_end|>" in said(server, talk([found, page]))
    prompt = said(server, {**talk("Weather?", [USE], [RESULT]), "tools": [TOOL]})
    assert '"arguments": {"city": "Oslo"}}' in prompt
    assert "<|im_start|>tool\nrain<|im_end|>" in prompt
    failed = {**RESULT, "is_error": True, "content": [{"type": "text", "text": "no net"}]}
    assert "tool\nError: no net<|im_end|>" in said(server, {**talk("Weather?", [USE], [failed]), "tools": [TOOL]})


def test_turns_of_one_role_are_one(server: Running) -> None:
    messages = [{"role": "user", "content": text} for text in ("One.", "Two.")]
    assert "<|im_start|>user\nOne.\nTwo.<|im_end|>" in said(server, {"messages": messages})


def test_the_assistant_s_last_message_is_gone_on_from(server: Running) -> None:
    assert said(server, talk("Hello", "R")).endswith("<|im_start|>assistant\nR")
    assert ask(server, talk("Hello", "R")).json["content"] == [{"type": "text", "text": "ain."}]
    assert ask(server, talk("Hello", "")).json["content"] == [{"type": "text", "text": "Rain."}]


def test_a_deferred_tool_is_on_offer_once_it_is_named(server: Running) -> None:
    tools = [TOOL, {**TOOL, "name": "tides", "defer_loading": True}]
    assert "tides" not in said(server, {"tools": tools})
    named = {**RESULT, "content": [{"type": "tool_reference", "tool_name": "tides"}]}
    assert '"name": "tides"' in said(server, {**talk("Weather?", [USE], [named]), "tools": tools})


def test_tools_that_anthropic_has_defined(server: Running) -> None:
    tools = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 10_000},
        {"type": "memory_20250818", "name": "memory"},
    ]
    prompt = said(server, {"tools": tools})
    assert all(word in prompt for word in ('"name": "bash"', "str_replace", "/memories"))


def test_what_a_program_sends_with_every_request_stays_out_of_the_prompt(server: Running) -> None:
    line = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=12345;"}
    prompt = said(server, {"system": [line, {"type": "text", "text": "Be brief."}]})
    assert "billing" not in prompt
    assert "system\nBe brief." in prompt


def test_tokens_are_counted(server: Running) -> None:
    body = {**talk("Weather?", "R"), "model": "fake", "tools": [TOOL], "system": "Be brief."}
    counted = server.ask(COUNT, body).json
    usage = ask(server, body).json["usage"]
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
    assert server.ask(COUNT, {**body, "top_k": -1}).status == 400
    assert server.ask(COUNT, body, headers={"anthropic-version": "1999-01-01"}).status == 400


# -- versions --


def test_versions(server: Running) -> None:
    newest, usual, first = "2026-10-21", "2023-06-01", "2023-01-01"
    for name in ("temperature", "top_p", "top_k"):
        body = {key: value for key, value in HELLO.items() if key != "temperature"}
        answer = server.ask(URL, {**body, name: 1}, headers={"anthropic-version": newest})
        assert answer.status == 400
        assert answer.json["error"]["message"].startswith(f"{name}: version 2026-10-21")
        assert server.ask(URL, {**body, name: 1}, headers={"anthropic-version": usual}).status == 200
    document = {"type": "document", "source": {"type": "text", "data": "page"}}
    history = talk("Hello", [document], "And?")
    plain = {key: value for key, value in HELLO.items() if key != "temperature"}
    assert server.ask(URL, {**plain, **history}, headers={"anthropic-version": newest}).status == 400
    assert server.ask(URL, {**plain, **history}, headers={"anthropic-version": usual}).status == 200
    cited = talk([{"type": "text", "text": "x", "citations": [{}]}])
    assert server.ask(URL, {**plain, **cited}, headers={"anthropic-version": newest}).status == 400
    stream = ask(server, {"stream": True}, anthropic_version=first)
    assert b"event:" not in stream.body
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert joined(stream.events)[0] == [{"type": "text", "text": "Rain."}]
    assert ask(server, {}, anthropic_version=first).json["truncated"] is False
    unknown = ask(server, {}, anthropic_version="2024-01-01")
    assert unknown.status == 400
    assert unknown.json["request_id"] == unknown.headers["request-id"]


# -- what is refused --

NAMED = [
    ({"max_tokens": None}, "max_tokens: it is missing"),
    ({"max_tokens": -1}, "max_tokens: it is -1"),
    ({"max_tokens": 1.5}, "max_tokens: it is 1.5"),
    ({"temperature": 1.1}, "temperature: it is 1.1, and must be from 0 to 1"),
    ({"temperature": True}, "temperature: it is true or false"),
    ({"top_k": -1}, "top_k: it is -1"),
    ({"stop_sequences": [""]}, "stop_sequences.0: it is empty"),
    ({"stop_sequences": ["x"] * 257}, "stop_sequences: there are 257, and may be 256 at most"),
    ({"tools": [TOOL] * 1025}, "tools: there are 1,025"),
    ({"max_token": 1}, "max_token: there is no such field; did you mean max_tokens?"),
    ({"stream": "yes"}, "stream: it is a text"),
    ({"mcp_servers": [{}]}, "mcp_servers: it cannot be honoured"),
    ({"metadata": {"x": 1}}, "metadata.x: there is no such field"),
    ({"context_management": {"edits": [{"type": "x"}]}}, "context_management.edits.0.type: it is 'x'"),
    ({"system": [{"type": "image"}]}, "system.0: image cannot be taken"),
    ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens: it is 10"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens: it is 2000, and must be below"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort: it is 'huge'"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 1}}}}, "output_config.format.schema"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name: it is 'a b'"),
    ({"tools": [{"name": "a"}]}, "tools.0.input_schema: it is missing"),
    ({"tools": [TOOL, TOOL]}, "tools.1.name: 'weather' is another's"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type: web_search_20250305 is run by"),
    ({"tools": [{"type": "computer_20250124", "name": "computer"}]}, "tools.0.type: computer_20250124 needs images"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: it is any, and there are no tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name: 'x' is not among the tools"),
    ({"messages": []}, "messages: it is empty"),
    ({"messages": "hello"}, "messages: it is a text"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: it is 'tool'"),
    (talk(""), "messages.0.content: it is empty"),
    (talk("a", "", "b"), "messages.1.content: it is empty"),
    (talk([{"type": "text", "text": ""}]), "messages.0.content.0.text: it is empty"),
    (talk([{"type": "picture"}]), "messages.0.content.0.type: it is 'picture'"),
    (talk([{"type": "image", "source": {}}]), "messages.0.content.0: image cannot be taken"),
    (talk([{"type": "document", "source": {"type": "base64"}}]), "messages.0.content.0.source: documents of"),
    (talk([{"type": "text", "text": "x", "colour": 1}]), "messages.0.content.0.colour: there is no such field"),
    (talk("a", [USE]), "messages.1.content.0: 't1' is a tool_use without a tool_result"),
    (talk("a", [USE], "b"), "messages.1.content.0: 't1' is a tool_use without a tool_result"),
    (talk([RESULT]), "messages.0.content.0.tool_use_id: 't1' is that of no tool_use"),
    (talk("a", [USE], [RESULT, RESULT]), "messages.2.content.1.tool_use_id: 't1' has a result already"),
    (talk("a", [USE, USE], [RESULT]), "messages.1.content.1.id: 't1' is that of another"),
    (talk("a", [RESULT]), "messages.1.content.0.type: it is 'tool_result'"),
    (talk("a", [{**USE, "input": "x"}], [RESULT]), "messages.1.content.0.input: it is a text"),
    (talk("a", "b "), "messages.1: the last message is the assistant's, and its text must not end with white space"),
    (talk("a", [{"type": "thinking", "thinking": "x"}]), "messages.1: the last message is"),
    ({"model": 5}, "model is 5"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "told"), NAMED)
def test_what_cannot_be_is_refused_by_name(server: Running, more: dict[str, Any], told: str) -> None:
    answer = ask(server, more)
    error = answer.json["error"]
    assert answer.status in (400, 404)
    assert error["message"].startswith(told)
    assert "\n" not in error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert answer.json["request_id"] == answer.headers["request-id"]


def test_what_changes_nothing_is_taken(server: Running) -> None:
    more = {
        "metadata": {"user_id": "u"}, "service_tier": "auto", "speed": "standard", "container": None, "mcp_servers": [],
        "cache_control": {"type": "ephemeral", "ttl": "1h"}, "diagnostics": {"previous_message_id": None},
        "fallbacks": "default", "inference_geo": "eu", "thread": False, "thinking": {"type": "disabled"},
    }  # fmt: skip
    assert ask(server, more).status == 200


# -- models --


def test_pages_of_models() -> None:
    some = [models.model(name, 0, 4096) for name in "abcde"]
    assert some[0]["created_at"] == "1970-01-01T00:00:00Z"
    first = models.page(some, {"limit": "2"})
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (["a", "b"], True)
    last = models.page(some, {"limit": "2", "after_id": "d"})
    assert ([one["id"] for one in last["data"]], last["has_more"], last["last_id"]) == (["e"], False, "e")
    before = models.page(some, {"limit": "2", "before_id": "d"})
    assert ([one["id"] for one in before["data"]], before["has_more"]) == (["b", "c"], True)
    assert models.page([], {})["first_id"] is None
    for query in (
        {"limit": "0"},
        {"limit": "x"},
        {"after_id": "z"},
        {"page": "1"},
        {"after_id": "a", "before_id": "b"},
    ):
        with pytest.raises(GGUFError):
            models.page(some, query)
