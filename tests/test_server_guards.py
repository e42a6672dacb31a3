"""Who may ask: keys, origins, names of the server; and requests that are too large, too slow or no HTTP at all."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from llm_fakes import fake_llama
from serving import Answered, Running, serving, until

from ggufpy.server import exchange, protocol
from ggufpy.server.guards import Access, host_of, is_loopback
from ggufpy.server.settings import ServerOptions

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0}
OPTIONS = ServerOptions(cors=("https://chat.example.com",), allowed_hosts=("box.lan",), body_limit=1 << 20)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=256)}, OPTIONS, ("first key", "second")) as running:
        yield running


def ask(server: Running, headers: dict[str, str], path: str = CHAT, method: str | None = None) -> Answered:
    return server.ask(path, HELLO if method is None else None, method, {"authorization": "Bearer second", **headers})


def raw(server: Running, data: bytes, seconds: float = 10) -> bytes:
    """What comes back for these bytes, up to the connection's end."""
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port), seconds) as client:
        client.sendall(data)
        parts = []
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"authorization": "Bearer second"}, 200),
        ({"authorization": "bearer first key"}, 200),
        ({"authorization": "Bearer secon"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Basic second"}, 401),
        ({"authorization": "Bearer \xff"}, 401),
        ({}, 401),
    ],
)
def test_keys(server: Running, sent: dict[str, str], status: int) -> None:
    answer = server.ask(CHAT, HELLO, headers=sent)
    assert answer.status == status
    if status == 401:
        assert answer.json["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_is_asked_for_everywhere_but_at_the_page_and_health(server: Running) -> None:
    from ggufpy.server.routes import all_routes

    open_paths = {route.path for route in all_routes() if route.open}
    assert open_paths <= {"/", "/page/{name}", "/health", "/v1/health"}
    for route in all_routes():
        if not route.open:
            assert server.ask(route.path, None, route.method).status == 401, route.path


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://chat.example.com", 200),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:5173", 200),
        ("http://[::1]:80", 200),
        ("https://evil.example", 403),
        ("https://chat.example.com.evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("file://", 403),
        ("http://[broken", 403),
    ],
)
def test_origins(server: Running, origin: str, status: int) -> None:
    answer = ask(server, {"origin": origin})
    assert answer.status == status
    assert answer.headers.get("access-control-allow-origin") == (origin if status == 200 else None)


def test_a_browser_may_look_before_it_asks(server: Running) -> None:
    sent = {"origin": "https://chat.example.com", "access-control-request-headers": "authorization, x-mine"}
    answer = server.ask(CHAT, None, "OPTIONS", sent)
    assert answer.status == 204
    assert answer.headers["access-control-allow-headers"] == "authorization, x-mine"
    assert server.ask(CHAT, None, "OPTIONS", {"origin": "https://evil.example"}).status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:99", 200), ("127.0.0.7", 200), ("box.lan:8080", 200), ("evil.example", 403), ("box.lan.evil", 403)],
)
def test_names_of_the_server(server: Running, host: str, status: int) -> None:
    assert ask(server, {"host": host}).status == status


def test_all_may_ask_a_server_for_others_that_names_no_hosts() -> None:
    assert Access(loopback=False).takes_host("any.example")
    assert not Access(loopback=False, hosts=("a.example",)).takes_host("b.example")
    assert not Access(loopback=False).takes_origin("http://localhost:1", "any.example")
    assert Access(loopback=False).takes_origin("https://any.example", "any.example")
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")
    assert host_of("[::1]:80") == "::1"


def test_a_body_that_is_too_large_is_said_so(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=20)
    headers = {"authorization": "Bearer second"}
    connection.request("POST", CHAT, b"x" * (100 << 20), headers)
    answer = connection.getresponse()
    assert answer.status == 413
    assert b"1,048,576 bytes" in answer.read()
    connection.close()
    connection.request("POST", CHAT, iter([b"x" * 65536] * 64), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_heads_are_bounded_in_size_number_and_time(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    start = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    assert raw(server, start + b"A: " + b"x" * 100_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431")
    assert raw(server, start + b"".join(b"A%d: 1\r\n" % i for i in range(200)) + b"\r\n").startswith(b"HTTP/1.1 431")
    assert raw(server, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 431")
    assert raw(server, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    begin = time.monotonic()
    assert raw(server, start).startswith(b"HTTP/1.1 408")
    assert raw(server, b"").startswith(b"HTTP/1.1 408")
    whole = start + b"\r\n"
    assert raw(server, whole + start).count(b"HTTP/1.1 ") == 2  # behind an answer, too
    assert time.monotonic() - begin < 5


def test_a_body_that_does_not_come_is_not_waited_for(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.2)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer second\r\nContent-Length: 9\r\n\r\n{{"
    assert raw(server, head.encode()).startswith(b"HTTP/1.1 408")


def test_an_answer_that_takes_too_long_is_ended() -> None:
    slow = replace(ServerOptions(), timeout=0.2)
    body = {**HELLO, "max_tokens": 200_000, "logit_bias": {"257": -100}}
    with serving({"fake": lambda: fake_llama(n_ctx=300_000)}, slow) as server:
        answer = server.ask(CHAT, body)
        assert answer.status == 408
        assert "--timeout" in answer.json["error"]["message"]
        events = server.ask(CHAT, {**body, "stream": True}).events
        assert "--timeout" in events[-1]["error"]["message"]
        until(lambda: not server.service.pool.loaded[0].queue.taken)
