"""The server's own manners: routes, errors, streams, clients that go."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from llm_fakes import fake_llama
from serving import Running, serving, until

from ggufpy.server.routes import all_routes

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=4096, n_parallel=2)}) as running:
        yield running


def test_every_route_answers_in_its_own_way() -> None:
    routes = all_routes()
    assert len({(route.method, route.path) for route in routes}) == len(routes)
    assert all((route.answer is None) != (route.prepare is None) for route in routes)


def test_a_stream_says_what_a_whole_answer_says(server: Running) -> None:
    whole = server.ask(CHAT, HELLO).json
    events = server.ask(CHAT, {**HELLO, "stream": True}).events
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == whole["choices"][0]["message"]["content"] == "bcde"
    assert whole["model"] == "fake"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (CHAT, b"{", 400, "no JSON"),
        (CHAT, b"[1]", 400, "object of JSON"),
        (CHAT, b"\xff", 400, "no JSON"),
        (CHAT, b'{"messages": "\\ud800"}', 400, "surrogate"),
        (CHAT, b"[" * 100_000, 400, "nested"),
        (CHAT, b'{"n": NaN}', 400, "NaN"),
        (CHAT, {}, 400, "messages"),
        (CHAT, {**HELLO, "model": "../fake"}, 404, "no model"),
        ("/v1/nothing", {}, 404, "nothing at"),
        ("/health", {}, 405, "nothing at"),
    ],
)
def test_what_cannot_be_is_one_line(server: Running, path: str, body: object, status: int, said: str) -> None:
    answer = server.ask(path, body)
    assert answer.status == status
    error = answer.json["error"]
    assert said in error["message"]
    assert "\n" not in error["message"]


def test_a_prompt_that_does_not_fit_says_both_numbers(server: Running) -> None:
    answer = server.ask(CHAT, {"messages": [{"role": "user", "content": "x" * 5000}]})
    assert answer.status == 400
    assert "5008 tokens" in answer.json["error"]["message"]
    assert "holds 4096" in answer.json["error"]["message"]
    assert answer.json["error"]["code"] == "context_length_exceeded"


def test_a_client_that_goes_gives_its_place_back(server: Running) -> None:
    port = urlsplit(server.url).port
    body = json.dumps({**HELLO, "max_tokens": 4000, "stream": True, "logit_bias": {"257": -100}}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    queue = server.service.pool.loaded[0].queue
    for _ in range(4):  # twice as many as there are places
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head + body)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            until(lambda: queue.taken == 1)
        until(lambda: not queue.taken)
