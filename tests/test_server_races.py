"""What happens on the server between threads, connections and tasks: wakes, clients that go, stall or pipeline."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import pytest
from llm_fakes import FakeEngine, fake_llama
from serving import Running, serving, until

from ggufpy.errors import GGUFError
from ggufpy.generate.boxes import Pushed
from ggufpy.generate.driver import Driver
from ggufpy.generate.loop import Loop
from ggufpy.runtime.request import Event, Finished, Request, Token
from ggufpy.server import protocol, run
from ggufpy.server.work import Work

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0, "stream": True}
LONG = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 200_000, "temperature": 0,
        "logit_bias": {"257": -100}}  # fmt: skip


class First:
    """Draws the likeliest token."""

    def accept(self, token: int) -> None:
        pass

    def sample(self, logits: Any) -> int:
        return int(logits.argmax())


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=300_000, n_parallel=2)}) as running:
        yield running


def raw_request(body: Any, path: str = CHAT) -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def connected(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=10)


# -- the engine's thread --


def test_a_text_whose_tokens_are_taken_while_it_is_paused_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = FakeEngine(n_ctx=64)
    driver = Driver(Loop(engine), lambda: None, lambda error: None)
    request = Request([97], First(), limit=20)
    events: list[Event] = []
    bare = Pushed.paused

    def paused(box: Pushed, running: bool) -> bool:
        full = bare(box, running)
        if full:  # whoever has the tokens takes them all, between the look and what follows from it
            driver.taken(request, len(request.produced) - request.taken)
        return full

    monkeypatch.setattr(Pushed, "paused", paused)
    driver.submit(request, events.append)
    until(lambda: bool(events) and isinstance(events[-1], Finished), 3)
    assert sum(isinstance(event, Token) for event in events) == 20
    driver.close()


def test_what_is_pushed_while_a_loop_closes_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = FakeEngine()
    loop = Loop(engine)
    bare = Loop._add

    def late(self: Loop, box: Any) -> None:  # the loop closes between the look at whether it is open and this
        monkeypatch.setattr(Loop, "_add", bare)
        loop.close()
        bare(self, box)

    monkeypatch.setattr(Loop, "_add", late)
    events: list[Event] = []
    with pytest.raises(GGUFError, match="closed"):
        loop.push(Request([97], First()), events.append)
    assert not loop._boxes


class Fault(BaseException):
    """What no step handles."""


def test_a_fault_of_the_engines_thread_is_told_to_those_who_wait() -> None:
    with serving({"fake": lambda: fake_llama(n_parallel=2)}) as server:
        assert server.ask(CHAT, HELLO).status == 200
        engine: Any = server.service.pool.loaded[0].llm.engine

        def fault() -> None:
            raise Fault

        engine.before = fault
        answer = server.ask(CHAT, {**HELLO, "stream": False})
        assert answer.status == 500
        assert "Fault" in answer.json["error"]["message"]
        engine.before = None
        assert server.ask(CHAT, {**HELLO, "stream": False}).json["choices"][0]["message"]["content"] == "bcde"


# -- connections --


def test_who_pipelines_and_leaves_gives_the_place_back(server: Running) -> None:
    assert server.ask(CHAT, {**LONG, "max_tokens": 1}).status == 200
    queue = server.service.pool.loaded[0].queue
    with connected(server) as client:
        client.sendall(raw_request({**LONG, "stream": True}) * 2)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        until(lambda: queue.taken == 1)
    until(lambda: not queue.taken, 3)


@pytest.mark.parametrize(
    "rest", [b"GET /health HTTP/1.1\r\nHost: loc", b"GET /" + b"x" * 100_000, b"\0nonsense\r\n\r\n"]
)
def test_nothing_is_written_into_an_answer_that_is_sent(
    server: Running, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with connected(server) as client:
        client.sendall(raw_request({**LONG, "max_tokens": 3000, "stream": True}))
        said = client.recv(1000)
        client.sendall(rest)
        try:
            while part := client.recv(65536):
                said += part
        except ConnectionError:
            pass
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    first, _, _ = body.partition(b"0\r\n\r\n")
    assert b"HTTP/1.1" not in first
    if rest.startswith(b"GET /health"):  # a head that is not whole yet does no harm
        assert b"[DONE]" in first
    until(lambda: not server.service.pool.loaded[0].queue.taken)


def test_a_body_that_is_no_http_is_refused_and_requests_in_a_row_are_answered(server: Running) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with connected(server) as client:
        client.sendall(head + b"zz\r\n")
        assert b"".join(iter(lambda: client.recv(1000), b"")).startswith(b"HTTP/1.1 400")
    with connected(server) as client:
        client.sendall(raw_request(HELLO) * 3)
        said = b""
        while said.count(b"[DONE]") < 3:
            said += client.recv(65536)
        assert said.count(b"HTTP/1.1 200") == 3


def test_a_client_that_does_not_read_is_left(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL", 0.5)
    queue = server.service.pool.loaded[0].queue
    open_before = server.service.book.open
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", urlsplit(server.url).port or 0))
    with client:
        client.sendall(raw_request({**LONG, "stream": True}))
        until(lambda: queue.taken == 1)
        until(lambda: not queue.taken, 20)
        until(lambda: server.service.book.open <= open_before)  # one before it may have been ending
        client.settimeout(5)
        said = b""
        while part := client.recv(1 << 20):  # the connection is gone, not only its request
            said = said[-10:] + part
        assert not said.endswith(b"0\r\n\r\n")


# -- answers that have begun --

STREAMS = {
    CHAT: HELLO,
    "/v1/completions": {"prompt": "hello", "max_tokens": 4, "stream": True},
    "/v1/messages": HELLO,
    "/v1/responses": {"input": "hello", "max_output_tokens": 20, "stream": True},
    "/api/chat": {"model": "fake", "messages": HELLO["messages"]},
    "/api/generate": {"model": "fake", "prompt": "hello"},
    "/completion": {"prompt": "hello", "n_predict": 4, "stream": True},
}


@pytest.mark.parametrize("error", [RuntimeError("secret"), GGUFError("cannot be")], ids=["fault", "refusal"])
@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_that_fails_says_so_in_its_own_way(
    server: Running, path: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Work.deltas

    async def deltas(work: Work) -> AsyncIterator[Any]:
        async with aclosing(bare(work)) as made:
            async for one in made:
                yield one
                raise error

    monkeypatch.setattr(Work, "deltas", deltas)
    answer = server.ask(path, STREAMS[path])
    assert answer.status == 200
    last = answer.body.decode().strip().splitlines()[-1].removeprefix("data: ").removeprefix("error: ")
    record = json.loads(last)
    assert "error" in record.get("response", record)
    assert ("cannot be" if isinstance(error, GGUFError) else "the server has failed: RuntimeError") in last
    assert "secret" not in last
    until(lambda: not server.service.pool.loaded[0].queue.taken)
    assert sum(server.service.book.refused.values())


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat"])
def test_streams_that_are_at_work_when_a_server_ends_are_told(
    path: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DRAIN", 1)
    answers: list[Any] = []
    body = {**LONG, "model": "fake", "stream": True, "options": {"num_predict": -1}}
    body = {name: body[name] for name in body if path == "/api/chat" or name != "options"}
    if path != CHAT:
        del body["logit_bias"]
    if path == "/api/chat":
        body = {name: body[name] for name in ("messages", "model", "options")}
    with serving({"fake": lambda: fake_llama(n_ctx=300_000, succ=lambda token: 98)}) as server:
        thread = threading.Thread(target=lambda: answers.append(server.ask(path, body)))
        thread.start()
        until(lambda: bool(server.service.pool.loaded) and server.service.pool.loaded[0].queue.taken == 1)
    thread.join(10)
    (answer,) = answers
    assert answer.status == 200
    assert "the server is ending" in answer.body.decode().strip().splitlines()[-1]
    assert "Traceback" not in capfd.readouterr().err
