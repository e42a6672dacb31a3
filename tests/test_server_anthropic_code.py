"""Requests with the shape of Claude Code's: what its program sends (2.1.197, against a server that wrote it down), its
long texts in other and shorter words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anthropic_serving import CALL, THOUGHT, URL, joined, saying
from serving import Answered, Running, serving

HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
    "anthropic-dangerous-direct-browser-access": "true",
    "authorization": "Bearer key",
    "user-agent": "claude-cli/2.1.197 (external, sdk-cli)",
    "x-app": "cli",
    "x-claude-code-session-id": "1ae5c654-f299-4394-8e6c-83d1c21add39",
    "x-stainless-retry-count": "0",
}
KEPT = {"type": "ephemeral"}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """A tool as it is sent."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"name": name, "description": f"Runs {name}.", "input_schema": schema}


TOOLS = [
    tool("Bash", command={"type": "string"}, timeout={"type": "number"}),
    tool("Read", file_path={"type": "string"}, limit={"type": "integer", "exclusiveMinimum": 0}),
    tool("weather", city={"type": "string", "enum": ["Oslo", "Rome"]}),
]
BODY: dict[str, Any] = {
    "model": "fake",
    "metadata": {"user_id": '{"device_id":"225f","account_uuid":"","session_id":"1ae5c654"}'},
    "max_tokens": 32000,
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.0df; cc_entrypoint=sdk-cli;"},
        {"type": "text", "text": "You are an agent.", "cache_control": KEPT},
        {"type": "text", "text": "\nHelp with programs.", "cache_control": KEPT},
    ],
    "tools": TOOLS,
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nIt is Friday.\n</system-reminder>"},
                {"type": "text", "text": "Weather in Oslo?", "cache_control": KEPT},
            ],
        },
        {"role": "system", "content": "Agents that may be asked:\n- reader"},
    ],
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    models = {
        "fake": lambda: saying(f"{THOUGHT}Let me see.\n{CALL}", "It rains."),
        "title": lambda: saying('{"title": "Rain"}'),
    }
    with serving(models, keys=("key",)) as running:
        yield running


def ask(server: Running, body: dict[str, Any]) -> Answered:
    return server.ask(f"{URL}?beta=true", body, headers=HEADERS)


def test_a_turn_with_a_call_and_its_result(server: Running) -> None:
    first = ask(server, BODY)
    blocks, final = joined(first.events)
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
    assert final["delta"]["stop_reason"] == "tool_use"
    assert final["context_management"] == {"applied_edits": []}
    call = {**blocks[2], "input": {"city": "Oslo"}}
    result = {
        "tool_use_id": call["id"],
        "type": "tool_result",
        "content": "rain",
        "is_error": False,
        "cache_control": KEPT,
    }
    turns = [{"role": "assistant", "content": [*blocks[:2], call]}, {"role": "user", "content": [result]}]
    blocks, final = joined(ask(server, {**BODY, "messages": [*BODY["messages"], *turns]}).events)
    assert blocks == [{"type": "text", "text": "It rains."}]
    assert final["usage"]["cache_read_input_tokens"] > 5 * final["usage"]["input_tokens"]


def test_the_title_of_a_session(server: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }
    body = {
        **BODY,
        "model": "title",
        "max_tokens": 64000,
        "thinking": {"type": "disabled"},
        "temperature": 1,
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": schema}},
        "tools": [],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "<session>\nhi\n</session>"}]}],
    }
    del body["context_management"]
    assert joined(ask(server, body).events)[0] == [{"type": "text", "text": '{"title": "Rain"}'}]


def test_tokens_are_counted_for_it(server: Running) -> None:
    names = ("model", "messages", "tools", "system", "thinking", "context_management")
    body = {name: BODY[name] for name in names}
    answer = server.ask(f"{URL}/count_tokens?beta=true", body, headers=HEADERS)
    assert answer.status == 200
    assert answer.json["input_tokens"] > 500


def test_a_prompt_that_is_too_long_is_refused_in_the_words_that_it_knows(server: Running) -> None:
    answer = ask(server, {**BODY, "messages": [{"role": "user", "content": "x" * 9000}]})
    assert answer.status == 400
    assert "prompt is too long: " in answer.json["error"]["message"]
    assert " tokens > 8192 maximum" in answer.json["error"]["message"]
