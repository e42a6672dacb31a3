"""OpenAI's routes with anything at all in each field: an answer, or an error of the client's; never one of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llm_fakes import fake_llama
from serving import Running, serving
from test_embeddings import llama, plan_of, source_of

from ggufpy.api.openai.fields import CHAT, COMPLETION, EMBEDDING, RERANK, Table

MANY = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
WORDS = st.sampled_from(
    ["", "a", "user", "assistant", "tool", "system", "function", "text", "json_schema", "json_object", "auto", "none",
     "required", "object", "string", "root ::= 'a'", 'root ::= "a"', "{", "98", "-1", "<end>", "\x00", "é" * 9]
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 300), st.sampled_from([10**9, -(1 << 63), 1 << 64, 10**40, 1e308, -1e308, 1e-320, 0.5, 1e999])
)
KEYS = st.sampled_from(
    ["role", "content", "type", "text", "function", "name", "arguments", "parameters", "properties", "schema", "id",
     "json_schema", "tool_calls", "tool_call_id", "function_call", "refusal", "allowed_tools", "mode", "tools", "scale",
     "include_usage", "98", "x", "$ref", "enum", "pattern", "items", "anyOf", "reasoning_content", "strict"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
# What is nearly right gets further than what is not.
LIKELY: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "1", "tool_call_id": "c"},
    ],
    "tools": [TOOL],
    "functions": [TOOL["function"]],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "json_schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "b+"}}},
    "logit_bias": {"98": 5},
    "stream_options": {"include_usage": True},
    "prompt": [[97], [98, 99]],
    "input": [[97], [98, 99]],
    "documents": ["a", {"text": "b"}],
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=64, n_parallel=2)}) as running:
        yield running


@pytest.fixture(scope="module")
def vectors() -> Iterator[Running]:
    plan = plan_of()
    with serving({"vectors": lambda: llama(plan, source_of(plan))}) as running:
        yield running


def bent(value: Any) -> st.SearchStrategy[Any]:
    """The value with something else at one place in it, or as it is."""
    places = [st.just(value), JSON]
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            places.append(bent(inner).map(lambda new, key=key: {**value, key: new}))
            places.append(st.just({other: one for other, one in value.items() if other != key}))
        places.append(st.tuples(KEYS, JSON).map(lambda pair: {**value, pair[0]: pair[1]}))
    if isinstance(value, list) and value:
        for i, inner in enumerate(value):
            places.append(bent(inner).map(lambda new, i=i: [*value[:i], new, *value[i + 1 :]]))
    return st.one_of(places)


def bodies(table: Table, base: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with something in one to three fields, on top of one that can be answered."""
    one = st.sampled_from(sorted(table)).flatmap(
        lambda name: st.tuples(st.just(name), bent(LIKELY[name]) if name in LIKELY else JSON)
    )
    return st.lists(one, min_size=1, max_size=3).map(lambda pairs: {**base, **dict(pairs)})


def check(server: Running, path: str, body: dict[str, Any]) -> None:
    answer = server.ask(path, json.dumps(body).replace("Infinity", "1e999").encode())
    if answer.status == 200:
        broken = [event for event in answer.events if "error" in event] if body.get("stream") is True else []
        assert all(event["error"]["type"] == "invalid_request_error" for event in broken), (body, broken)
        return
    error = answer.json["error"]
    assert 400 <= answer.status < 500, (answer.status, body, error)
    assert error["message"]
    assert "\n" not in error["message"], error
    assert len(error["message"]) < 2000


@MANY
@given(bodies(CHAT, {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "temperature": 0}))
def test_chats(server: Running, body: dict[str, Any]) -> None:
    check(server, "/v1/chat/completions", body)


@MANY
@given(bodies(COMPLETION, {"prompt": "a", "max_tokens": 3, "temperature": 0}))
def test_text_completions(server: Running, body: dict[str, Any]) -> None:
    check(server, "/v1/completions", body)


@MANY
@given(bodies(EMBEDDING, {"input": "a"}))
def test_embeddings(vectors: Running, body: dict[str, Any]) -> None:
    check(vectors, "/v1/embeddings", body)


@MANY
@given(bodies(RERANK, {"query": "a", "documents": ["b"]}))
def test_ranks(vectors: Running, body: dict[str, Any]) -> None:
    check(vectors, "/v1/rerank", body)
