"""Bodies that nobody meant: each is answered, or refused in one line that names a place. Never a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic_serving import HELLO, TOOL, URL, saying
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Running, serving

from ggufpy.api.anthropic.request import question
from ggufpy.api.anthropic.versions import VERSIONS
from ggufpy.errors import GGUFError

FEW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3000) | st.floats(-2, 2) | st.sampled_from(["", "a", "t1", "text"])
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(
    ["text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result",
     "tool_reference", "server_tool_use", "nothing"]
)  # fmt: skip
FIELDS = ["text", "thinking", "signature", "data", "id", "name", "input", "tool_use_id", "content", "source", "title",
          "citations", "cache_control", "is_error", "caller", "tool_name", "toolset_name"]  # fmt: skip
BLOCKS = st.builds(
    lambda kind, rest: {"type": kind, **rest}, KINDS, st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=5)
)
GOOD = st.sampled_from(
    [
        {"type": "text", "text": "x"},
        {"type": "thinking", "thinking": "x", "signature": "y"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
        {"type": "tool_result", "tool_use_id": "t1", "content": "rain", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "rain"}]},
    ]
)
ROLES = st.sampled_from(["user", "assistant", "system"])


def talks(blocks: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Conversations of such blocks."""
    contents = st.text(max_size=3) | st.lists(blocks, max_size=4)
    return st.lists(st.fixed_dictionaries({"role": ROLES, "content": contents}), max_size=6)


OTHERS = (
    "system", "stop_sequences", "temperature", "top_p", "top_k", "tools", "tool_choice", "thinking", "output_config",
    "output_format", "metadata", "context_management", "cache_control", "container", "stream", "chat_template_kwargs",
    "seed",
)  # fmt: skip
BODIES = st.fixed_dictionaries(
    {"model": st.just("fake"), "max_tokens": st.integers(0, 5) | ANY, "messages": talks(BLOCKS | GOOD | ANY) | ANY},
    optional=dict.fromkeys(OTHERS, ANY),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: saying("Rain.", n_ctx=4096)}) as running:
        yield running


@FEW
@given(BODIES, st.sampled_from(list(VERSIONS.values())))
def test_bodies_are_taken_or_refused_in_one_line(body: Any, version: Any) -> None:
    told = "taken: "
    try:
        question(body, version)
    except GGUFError as error:
        told = str(error)
    assert "\n" not in told
    assert ": " in told


@FEW
@given(talks(GOOD), st.booleans())
def test_histories_are_answered_or_refused(server: Running, messages: Any, tools: bool) -> None:
    body = {**HELLO, "max_tokens": 2, "messages": messages, **({"tools": [TOOL]} if tools else {})}
    answer = server.ask(URL, body)
    assert answer.status in (200, 400), answer.json
    if answer.status == 400:
        assert answer.json["error"]["message"].startswith("messages")


@settings(FEW, max_examples=60)
@given(BODIES)
def test_the_server_answers_whatever_comes(server: Running, body: Any) -> None:
    answer = server.ask(URL, json.dumps(body).encode())
    assert answer.status in (200, 400), answer.body
    if answer.status == 400:
        assert set(answer.json) == {"type", "error", "request_id"}


def test_large_bodies_take_no_long(server: Running) -> None:
    many = [{"type": "text", "text": "x"}] * 20_000
    messages = [{"role": ("user", "assistant")[i // 2 % 2], "content": "x"} for i in range(20_001)]
    for body in ({"messages": [{"role": "user", "content": many}]}, {"messages": messages}):
        answer = server.ask(URL, {**HELLO, **body})
        assert answer.status == 400
        assert "prompt is too long" in answer.json["error"]["message"]
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    assert server.ask(URL, {**HELLO, "tools": [{**TOOL, "input_schema": {"enum": deep}}]}).status in (200, 400)
