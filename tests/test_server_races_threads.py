"""Requests that evaluate on a thread (embeddings, rankings): they hold up nobody, and end when their client goes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from llm_fakes import fake_llama
from serving import Running, serving, until

from ggufpy.api.openai import embeddings
from ggufpy.llm import Llama
from ggufpy.runtime.request import Request
from ggufpy.server.catalogue import Catalogue
from ggufpy.server.settings import ServerOptions

EMBED = "/v1/embeddings"
LONG = 200_000  # tokens of a text that takes 20 s


@pytest.fixture
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=300_000, n_parallel=9)}) as running:
        assert running.ask("/tokenize", {"content": "a"}).status == 200  # the model is loaded
        yield running


def test_long_embeddings_do_not_keep_others_from_being_prepared(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on, at_work = threading.Event(), threading.Semaphore(0)

    def row(*given: Any) -> tuple[list[float], int]:
        at_work.release()
        assert going_on.wait(20)
        return [0.0], 1

    monkeypatch.setattr(embeddings, "row", row)
    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(server.ask, EMBED, {"input": ["a", "b", "c"]}) for _ in range(4)]
        try:
            for _ in range(8):
                assert at_work.acquire(timeout=5)
            begin = time.monotonic()
            said = clients_ask(server)
            assert time.monotonic() - begin < 5
            assert said == [200] * 4
        finally:
            going_on.set()
        assert [answer.result().status for answer in asked] == [200] * 4
    assert not server.service.pool.loaded[0].queue.taken


def clients_ask(server: Running) -> list[int]:
    messages = [{"role": "user", "content": "hello"}]
    some: dict[str, Any] = {
        "/tokenize": {"content": "a"},
        "/v1/models": None,
        "/v1/messages/count_tokens": {"messages": messages},
        "/v1/chat/completions": {"messages": messages, "max_tokens": 1},
    }
    answers: list[int] = []
    for path, body in some.items():
        thread = threading.Thread(target=lambda path=path, body=body: answers.append(server.ask(path, body).status))
        thread.start()
        thread.join(5)
    return answers


@pytest.mark.parametrize("ends", ["client", "timeout"])
def test_an_embedding_that_nobody_waits_for_ends_within_a_step(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(llm: Any, *given: Any) -> tuple[list[float], int]:
        llm.loop.run(Request([97] * LONG, take=lambda first, rows: None, reuse="none"))
        return [0.0], 1

    monkeypatch.setattr(embeddings, "row", row)
    options = replace(ServerOptions(), timeout=0.5 if ends == "timeout" else 100)
    with serving({"fake": lambda: fake_llama(n_ctx=300_000, n_parallel=2)}, options) as server:
        assert server.ask("/tokenize", {"content": "a"}).status == 200
        (served,) = server.service.pool.loaded
        engine: Any = served.llm.engine
        engine.before = lambda: time.sleep(0.05)
        if ends == "client":
            leave_behind(server, {"input": ["a", "b", "c"]})
        else:
            assert server.ask(EMBED, {"input": ["a", "b", "c"]}).status == 408
        until(lambda: not served.queue.taken and not served.llm.loop._boxes, 3)
        until(lambda: not any("evaluate" in thread.name for thread in threading.enumerate()), 3)
        steps = len(engine.steps)
        time.sleep(0.2)
        assert len(engine.steps) == steps


def leave_behind(server: Running, body: Any) -> None:
    data = json.dumps(body).encode()
    head = f"POST {EMBED} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) as client:
        client.sendall(head + data)
        until(lambda: server.service.pool.loaded[0].queue.taken == 2)


def test_llama_servers_embeddings_have_places_and_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = threading.Event()

    def rows(llm: Llama, tokens: list[int]) -> Any:
        going_on.wait(20)
        raise AssertionError("nobody waits any more")

    monkeypatch.setattr(Llama, "rows", rows)
    monkeypatch.setattr(Llama, "pooling", lambda llm: "mean")
    options = replace(ServerOptions(), timeout=0.5)
    with serving({"fake": lambda: fake_llama(n_parallel=2)}, options) as server:
        assert server.ask("/tokenize", {"content": "a"}).status == 200
        with ThreadPoolExecutor(1) as clients:
            asked = clients.submit(server.ask, "/embedding", {"input": ["a", "b", "c"]})
            until(lambda: server.service.pool.loaded[0].queue.taken == 2)
            time.sleep(0.6)
            going_on.set()
            assert asked.result().status == 408


def on_loop() -> bool:
    """Whether this is an event loop's thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def test_a_folder_is_not_looked_at_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []
    bare = Catalogue.entries

    def entries(catalogue: Catalogue) -> Any:
        looked.append(on_loop())
        return bare(catalogue)

    with serving({"fake": fake_llama}) as server:
        assert server.ask("/tokenize", {"content": "a"}).status == 200
        monkeypatch.setattr(Catalogue, "changes", property(lambda catalogue: True))
        monkeypatch.setattr(Catalogue, "entries", entries)
        for path in ("/slots?model=none", "/metrics", "/health", "/v1/models/none", "/props?model=none"):
            server.ask(path)
        for path in ("/tokenize", "/v1/chat/completions", "/api/show", "/v1/embeddings", "/models/load"):
            server.ask(path, {"model": "none", "content": "a", "input": "a", "messages": []})
        assert looked
        assert not any(looked)
