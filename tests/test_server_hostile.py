"""What hostile clients send: each gets one line of the route's own interface, and nobody else waits for it."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from llm_fakes import fake_llama
from serving import Running, serving, until

from ggufpy.errors import GGUFError
from ggufpy.server import exchange
from ggufpy.server.problems import Problem
from ggufpy.server.run import serve
from ggufpy.server.service import LARGE, Service
from ggufpy.server.settings import ServerOptions
from ggufpy.support import checks

CHAT, TEXT, OLLAMA = "/v1/chat/completions", "/completion", "/api/generate"
MESSAGES = [{"role": "user", "content": "a"}]
HELLO = json.dumps({"messages": MESSAGES, "max_tokens": 2}).encode()
LOCAL = "Host: localhost\r\n"
HUGE = 10**400  # JSON has it, and no float is near


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=64, n_parallel=2)}) as running:
        running.ask(CHAT, HELLO)  # loads it
        yield running


@contextmanager
def healthy(server: Running, seconds: float = 1.0) -> Iterator[None]:
    """Nobody waits for /health longer than that meanwhile."""
    over, worst = threading.Event(), [0.0]

    def watch() -> None:
        while not over.is_set():
            start = time.monotonic()
            assert server.ask("/health").status == 200
            worst.append(time.monotonic() - start)
            over.wait(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
    assert max(worst) < seconds


def raw(server: Running, data: bytes, seconds: float = 10) -> bytes:
    """What comes back for these bytes until the server closes, or is silent for as long as that."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(data)
        said = b""
        while part := connection.recv(65536):
            said += part
        return said


def head(path: str, *lines: str, method: str = "POST", host: str = LOCAL, version: str = "1.1") -> bytes:
    """The head of a request."""
    more = "".join(f"{line}\r\n" for line in ("Connection: close", *lines))
    return f"{method} {path} HTTP/{version}\r\n{host}{more}\r\n".encode("latin-1")


def test_very_many_values_are_counted_and_not_made(server: Running) -> None:
    body = b'{"messages":[' + b"[]," * (8 << 20) + b"[]]}"
    with healthy(server):
        answer = server.ask(CHAT, body)
    assert answer.status == 400
    assert answer.json["error"]["message"] == "the body has more than 1,048,576 values of JSON: send less"


@pytest.mark.parametrize("text", ["a,[{" * (1 << 19), '"\\,' * (1 << 19), ',\\"' * (1 << 19)])
def test_marks_within_texts_are_no_values(text: str) -> None:
    assert exchange.parsed(json.dumps({"a": text, "b": [1, {"c": text}]}).encode())["a"] == text


@pytest.mark.parametrize(
    "body", [b'["' + b'\\"' * (1 << 21), b'""' * (3 << 20), b'["",' * (1 << 20), b"\\" * (1 << 22), b"[" * (1 << 22)]
)
def test_what_is_no_json_is_quickly_so(body: bytes) -> None:
    start = time.process_time()
    with pytest.raises(Problem) as problem:
        exchange.parsed(body)
    assert problem.value.status == 400
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"null", "the body must be an object of JSON, not null"),
        (b"[]", "the body must be an object of JSON, not a list"),
        (b'"a"', "the body must be an object of JSON, not a text"),
        (b'{"a": "\xff"}', "the body is no JSON: byte 7 of it is no UTF-8"),
        (b'{"max_tokens": ' + b"9" * 10**5 + b"}", "the body is no JSON: a whole number has more than 4,300 digits"),
        (b'{"a": NaN}', "the body is no JSON: NaN is no number of JSON"),
        (b'{"a": "\\ud800"}', "the body has a lone surrogate (\\ud800 to \\udfff), which is no text"),
        (b"[" * 10**5 + b"]" * 10**5, "the body is nested too deeply"),
    ],
)
def test_bodies_that_cannot_be(server: Running, body: bytes, said: str) -> None:
    for path, told in ((CHAT, lambda json: json["error"]["message"]), (OLLAMA, lambda json: json["error"])):
        answer = server.ask(path, body)
        assert (answer.status, told(answer.json)) == (400, said)


def test_a_compressed_body_is_said_so(server: Running) -> None:
    packed = gzip.compress(HELLO)
    said = raw(server, head(CHAT, "Content-Encoding: gzip", f"Content-Length: {len(packed)}") + packed)
    assert said.startswith(b"HTTP/1.1 415 ")
    assert b"the body has Content-Encoding 'gzip': send it as it is, without compression" in said
    assert server.ask(CHAT, HELLO, headers={"Content-Encoding": "identity"}).status == 200


@pytest.mark.parametrize(
    ("host", "version", "status"),
    [
        ("", "1.1", 400),
        ("Host: localhost\r\nHost: example.com\r\n", "1.1", 400),
        ("Host: localhost\r\nHost: localhost\r\n", "1.0", 400),
        ("", "1.0", 200),  # as load balancers ask for a server's health
        ("Host: \r\n", "1.0", 403),
        ("Host: example.com\r\n", "1.0", 403),
        ("Host: localhost.example.com\r\n", "1.1", 403),
        ("Host: 127.0.0.1@example.com\r\n", "1.1", 403),
    ],
)
def test_who_is_called(server: Running, host: str, version: str, status: int) -> None:
    said = raw(server, head("/health", method="GET", host=host, version=version))
    assert said.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "lines",
    [
        (f"Content-Length: {len(HELLO)}", "Transfer-Encoding: chunked"),
        (f"Content-Length: {len(HELLO)}", "Content-Length: 5"),
        ("Content-Length: -1",),
        ("Content-Length: " + "9" * 30,),
        ("Transfer-Encoding: gzip",),
        ("X: a\nY: b",),
        ("X : a",),
        ("X: a\x00b",),
    ],
)
def test_heads_that_two_servers_could_read_differently_are_refused(server: Running, lines: tuple[str, ...]) -> None:
    assert raw(server, head(CHAT, *lines) + HELLO).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "path",
    ["/page/..%2f..%2fetc/passwd", "/page/%2e%2e", "/page/%00", "/page/__init__.py", "/page//etc/passwd",
     "/v1/models/..%2f", "/v1/models/%00", "/models/..%2f..%2fetc%2fpasswd", "/v1/responses/..%2f..",
     "/slots?model=..%2f..", "/props?model=%00", "/nope%0d%0aSet-Cookie:x"],
)  # fmt: skip
def test_paths_lead_nowhere(server: Running, path: str) -> None:
    answer = server.ask(path)
    assert answer.status == 404
    assert b"root:" not in answer.body
    assert not any("cookie" in name.lower() for name in answer.headers)


@pytest.mark.parametrize(
    "model", ["../../etc/passwd", "fake\0", "f\u0430ke", "..", "/etc/passwd", "x" * 10**6, "hf:a/b"]
)
def test_names_of_models_are_no_paths(server: Running, model: str) -> None:
    for path in (CHAT, "/v1/completions", "/v1/messages", "/v1/responses", TEXT, "/api/chat", "/models/load"):
        more = {} if path == "/models/load" else {"messages": MESSAGES}
        answer = server.ask(path, {"model": model, **more})
        assert answer.status == 404, (path, answer.body[:300])
        assert len(answer.body) < 500


WRITE = {"model": "fake", "prompt": "a"}
STOPS = [str(i) for i in range(10**5)]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (CHAT, {"messages": MESSAGES, "stop": STOPS}, "stop has 100000 texts"),
        (TEXT, {"prompt": "a", "stop": STOPS}, "stop has 100,000 texts, and may have 256"),
        (TEXT, {"prompt": "a", "stop": ["b", "c" * 5000]}, "stop[1] has 5,000 characters, and may have 4,096"),
        (OLLAMA, {**WRITE, "options": {"stop": STOPS}}, "options.stop has 100,000 texts, and may have 256"),
        (OLLAMA, {**WRITE, "options": {"stop": ["c" * 5000]}}, "options.stop[0] has 5,000 characters"),
        (OLLAMA, {**WRITE, "options": {"stop": [1]}}, "options.stop[0]"),
        (TEXT, {"prompt": "a", "n_predict": 10**12}, "n_predict is 1000000000000, and must be from -1 to 2,147,"),
        (TEXT, {"prompt": "a", "seed": 10**4000}, "seed is 1000"),
        (TEXT, {"prompt": "a", "n_keep": -(10**4000)}, "n_keep is -1000"),
    ],
)  # fmt: skip
def test_what_every_token_would_pay_for_is_bounded(server: Running, path: str, body: Any, said: str) -> None:
    answer = server.ask(path, body)
    assert answer.status == 400
    assert said in answer.body.decode()
    assert len(answer.body) < 400


def test_probabilities_of_a_whole_text_are_bounded() -> None:
    with serving({"fake": lambda: fake_llama(n_ctx=4096)}) as server:
        many = {"prompt": "a", "n_probs": 10**9}
        assert server.ask(TEXT, {**many, "n_predict": 1}).status == 200
        answer = server.ask(TEXT, {**many, "n_cmpl": 1, "n_predict": -1})
    assert answer.status == 400
    assert "n_probs" in answer.json["error"]["message"]


NUMBERS = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "presence_penalty", "frequency_penalty")
FIELDS = {
    CHAT: (*NUMBERS, "n", "top_logprobs", "max_completion_tokens", "logit_bias", "repeat_penalty", "stop"),
    "/v1/completions": (*NUMBERS, "n", "logprobs", "best_of", "prompt", "logit_bias"),
    TEXT: (*NUMBERS, "n_predict", "n_probs", "id_slot", "prompt", "logit_bias", "lora", "mirostat_tau", "n_cmpl"),
    "/v1/messages": ("max_tokens", "temperature", "top_p", "top_k", "messages", "system"),
    "/v1/messages/count_tokens": ("messages", "system"),
    "/v1/responses": ("max_output_tokens", "temperature", "top_p", "top_logprobs", "input"),
    "/api/chat": ("keep_alive", "top_logprobs", "messages"),
    OLLAMA: ("keep_alive", "context", "top_logprobs"),
    "/tokenize": ("content",),
    "/detokenize": ("tokens",),
}
BASES: dict[str, Any] = {
    "/v1/completions": {"prompt": "a"}, TEXT: {"prompt": "a"}, OLLAMA: {"prompt": "a"},
    "/v1/responses": {"input": "a"}, "/tokenize": {"content": "a"}, "/detokenize": {"tokens": [1]},
}  # fmt: skip


@pytest.mark.parametrize("path", FIELDS)
def test_numbers_that_no_float_is_near(server: Running, path: str) -> None:
    for name in FIELDS[path]:
        for value in (HUGE, -HUGE, [HUGE], {"1": HUGE}, {"a": [HUGE]}, [[HUGE, HUGE]], [{"id": 0, "scale": HUGE}]):
            base = BASES.get(path, {"messages": MESSAGES})
            limit = {"max_tokens": 1} if path in (CHAT, "/v1/completions", TEXT, "/v1/messages") else {}
            answer = server.ask(path, {"model": "fake", **base, **limit, name: value})
            assert answer.status < 500, (name, value, answer.body)


def test_options_of_ollama_that_no_float_is_near(server: Running) -> None:
    for name in ("temperature", "top_k", "seed", "num_predict", "num_ctx", "repeat_penalty", "mirostat_tau"):
        answer = server.ask(OLLAMA, {"model": "fake", "prompt": "a", "options": {name: HUGE}})
        assert answer.status == 400, (name, answer.body)
        assert len(answer.body) < 400


def test_a_schema_that_is_too_much_holds_up_nobody(server: Running) -> None:
    schema = {"allOf": [{"type": "string", "pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrstuvwx"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with healthy(server):
        answer = server.ask(CHAT, {"messages": MESSAGES, "response_format": form})
    assert answer.status == 400
    assert answer.json["error"]["param"] == "response_format.json_schema.schema"


@pytest.mark.parametrize("stream", [True, False])
def test_answers_that_the_end_of_the_server_cuts_say_so(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggufpy.server.run.DRAIN", 0.2)
    said: list[bytes] = []
    with serving({"fake": lambda: fake_llama(n_ctx=1 << 16)}) as server:
        body = {"prompt": "a", "max_tokens": 60000, "stream": stream, "ignore_eos": True}
        packed = json.dumps(body).encode()
        sent = head("/v1/completions", f"Content-Length: {len(packed)}") + packed
        thread = threading.Thread(target=lambda: said.append(raw(server, sent, 30)))
        thread.start()
        until(lambda: any(served.queue.taken for served in server.service.pool.loaded))
    thread.join(30)
    assert said[0].startswith(b"HTTP/1.1 200 " if stream else b"HTTP/1.1 503 ")
    assert b'"message":"the server is ending"' in said[0]
    assert b"[DONE]" not in said[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ServerOptions(cors=("chat.example.com",)), "--cors is 'chat.example.com'; an origin is a scheme and a name"),
        (ServerOptions(cors=("*", "https://chat.example.com/")), "--cors is 'https://chat.example.com/'"),
        (ServerOptions(timeout=-1), "--timeout is -1; seconds are wanted, or 0"),
        (ServerOptions(load_wait=-2), "--load-wait is -2; seconds are wanted, or 0"),
    ],
)
def test_options_that_would_let_nobody_in(options: ServerOptions, said: str) -> None:
    def start() -> Service:
        raise AssertionError("it began")

    with pytest.raises(GGUFError, match=re.escape(said)):
        serve(start, options)


def test_large_bodies_are_looked_at_one_after_the_other_and_hold_up_no_others(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, at_once, most = threading.Event(), [0], [0]

    def slow(*_: Any) -> int:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        assert go.wait(30)
        at_once[0] -= 1
        return 1

    monkeypatch.setattr("ggufpy.api.anthropic.request.count_tokens", slow)
    body = {"messages": [{"role": "user", "content": "a" * (LARGE + 1)}], "model": "fake"}
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.ask("/v1/messages/count_tokens", body).status))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    try:
        until(lambda: at_once[0] == 1)
        assert server.ask(CHAT, HELLO).status == 200
        assert server.ask("/tokenize", {"content": "a"}).status == 200
    finally:
        go.set()
        for thread in threads:
            thread.join(30)
    assert most == [1]
    assert len(answers) == 6


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat", "/completion", "/tokenize"]
)
def test_an_endless_name_is_told_in_a_short_line(server: Running, path: str) -> None:
    answer = server.ask(path, {"a" * (1 << 20): 1, "messages": [], "max_tokens": 1})
    assert answer.status == 400
    assert len(answer.body) < 1000


def test_what_was_meant_is_sought_in_the_beginning_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr("difflib.get_close_matches", lambda name, known, n: looked_at.append(name) or [])
    assert checks.meant("a" * 10**6, ["temperature"]) == ""
    assert len(looked_at[0]) == checks.MOST_NAME
    monkeypatch.undo()
    assert checks.meant("temprature", ["top_p", "temperature"]) == "; did you mean temperature?"
