"""Who may wait: requests are counted, however many texts each of them wants."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from llm_fakes import fake_llama
from serving import serving, until

from ggufpy.llm import Llama
from ggufpy.server.problems import Problem
from ggufpy.server.queue import Queue
from ggufpy.server.settings import ServerOptions

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}


def test_texts_of_one_request_wait_as_one() -> None:
    async def play() -> None:
        queue, order = Queue(1, 2), []

        async def text(client: str, work: object) -> None:
            async with queue.place(client, None, work):
                order.append(client)

        async with queue.place("first"):
            one, two = object(), object()
            tasks = [asyncio.create_task(text("many", one)) for _ in range(100)]
            await asyncio.sleep(0)
            assert (queue.waiting, queue.texts) == (1, 100)
            queue.check()
            tasks += [asyncio.create_task(text("few", two))]
            await asyncio.sleep(0)
            with pytest.raises(Problem, match="2 requests wait"):
                queue.check()
        await asyncio.gather(*tasks)
        assert order.index("few") <= 1  # the clients take turns
        assert (queue.waiting, queue.texts, queue.taken) == (0, 0, 0)

    asyncio.run(play())


def test_many_choices_do_not_keep_others_out() -> None:
    body = {**HELLO, "max_tokens": 400, "logit_bias": {"257": -100}}
    options = replace(ServerOptions(), queue=8)
    with serving({"fake": lambda: fake_llama(n_ctx=4096, n_parallel=1)}, options) as server:
        assert server.ask(CHAT, {**HELLO, "max_tokens": 1}).status == 200
        queue = server.service.pool.loaded[0].queue
        with ThreadPoolExecutor(1) as clients:
            asked = clients.submit(server.ask, CHAT, {**body, "n": 20})
            until(lambda: len(queue._waiting) == 1 and queue.taken == 1)
            assert server.ask(CHAT, {**HELLO, "max_tokens": 2}, headers={"x-api-key": "another"}).status == 200
            assert asked.result().status == 200


def test_clients_that_leave_while_a_model_loads_are_not_counted() -> None:
    going_on = threading.Event()

    def load() -> Llama:
        assert going_on.wait(20)
        return fake_llama()

    with serving({"fake": load}) as server:
        data = json.dumps(HELLO).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        port = urlsplit(server.url).port or 0
        slots = server.service.pool._slots
        try:
            with ExitStack() as clients:
                for _ in range(5):
                    clients.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(head + data)
                until(lambda: bool(slots) and slots["fake"].users == 5)
            until(lambda: not slots["fake"].users, 3)
            assert server.service.book.cancelled["", CHAT] == 5
        finally:
            going_on.set()
        assert server.ask(CHAT, {**HELLO, "max_tokens": 2}).status == 200
        for stream in (False, True):
            assert server.ask(CHAT, {**HELLO, "max_tokens": 2, "stream": stream}).status == 200
        assert server.service.book.cancelled == {("", CHAT): 5}


def test_a_key_is_one_client_however_it_is_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[str] = []
    bare = Queue._enter

    async def enter(queue: Queue, client: str, turn: Any) -> int:
        clients.append(client)
        return await bare(queue, client, turn)

    monkeypatch.setattr(Queue, "_enter", enter)
    body = {**HELLO, "max_tokens": 2}
    with serving({"fake": fake_llama}, keys=("one", "two")) as server:
        for path, headers in (
            (CHAT, {"authorization": "Bearer one"}),
            (CHAT, {"authorization": "bearer   one "}),
            (CHAT, {"authorization": "Bearer one", "x-api-key": "else"}),
            ("/v1/messages", {"x-api-key": "one"}),
            ("/v1/messages", {"x-api-key": "one", "authorization": "Bearer else"}),
        ):
            assert server.ask(path, body, headers=headers).status == 200
        assert len(set(clients)) == 1
        assert server.ask(CHAT, body, headers={"authorization": "Bearer two"}).status == 200
        assert len(set(clients)) == 2
