"""Many requests of all interfaces at once, many of which end early: what is left over is nothing, and texts are what
they are alone."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from llm_fakes import fake_llama, vague
from serving import Running, serving, until

from ggufpy.api.openai import embeddings
from ggufpy.llm import Llama
from ggufpy.runtime.request import Request
from ggufpy.server.settings import ServerOptions

MESSAGES = [{"role": "user", "content": "hello"}]
CLIENTS = 24
SERVER_TASKS = 3  # uvicorn's, its lifespan's, and whoever counts them


@dataclass(frozen=True)
class Case:
    """A request; its answers have the same texts always."""

    path: str
    body: dict[str, Any]

    def bytes(self, client: int) -> bytes:
        data = json.dumps(self.body).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {client}\r\n"
        return (head + f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n").encode() + data


def cases() -> list[Case]:
    """Some of each interface: long and short, whole and streamed, with stop strings and several choices."""
    made: list[Case] = []
    for seed in (1, 2):
        for stream in (False, True):
            common = {"seed": seed, "temperature": 1.0, "stream": stream}
            for stop, n in ((None, 1), (["a", "cd"], 3), ("ij", 2)):
                body = {**common, "messages": MESSAGES, "max_tokens": 30 * seed, "stop": stop, "n": n}
                made.append(Case("/v1/chat/completions", body))
            made.append(Case("/v1/completions", {**common, "prompt": ["one", "two"], "max_tokens": 20, "n": 2}))
            made.append(Case("/completion", {**common, "prompt": "hello", "n_predict": 25, "stop": ["ab"]}))
            options = {"seed": seed, "num_predict": 30, "temperature": 1.0}
            made.append(
                Case("/api/chat", {"messages": MESSAGES, "model": "fake", "options": options, "stream": stream})
            )
            body = {"prompt": "hello", "model": "fake", "options": {**options, "stop": ["f"]}, "stream": stream}
            made.append(Case("/api/generate", body))
        for stream in (False, True):
            body = {"messages": MESSAGES, "max_tokens": 30, "temperature": 0, "stream": stream}
            made.append(Case("/v1/messages", body))
            made.append(Case("/v1/responses", {"input": "hello", "max_output_tokens": 30, "temperature": 0,
                                               "stream": stream, "store": False}))  # fmt: skip
    made += [
        Case("/tokenize", {"content": "hello"}),
        Case("/v1/chat/completions", {"messages": "none"}),
        Case("/v1/embeddings", {"input": ["a", "b", "c"]}),
        Case("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 400}]}),
    ]
    return made


def texts(value: Any) -> list[str]:
    """All that was said in a record, in order of its fields."""
    if isinstance(value, dict):
        own = [f"{value.get('index', '')}:{v}" for k, v in value.items() if k in SAID and isinstance(v, str)]
        return own + [text for v in value.values() for text in texts(v)]
    return [text for each in value for text in texts(each)] if isinstance(value, list) else []


SAID = ("content", "text", "response", "delta", "message", "reasoning_content")


def said_of(raw: bytes) -> tuple[int, dict[str, str]]:
    """The status of an answer and what it says, choice by choice, of however many records."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        body, rest = b"", body
        while not rest.startswith(b"0\r\n"):
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            body, rest = body + rest[:length], rest[length + 2 :]
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n")]
    whole: dict[str, str] = {}
    for line in lines:
        if line.startswith("{"):
            record = json.loads(line)
            choices = record.get("choices") or [record]
            for choice in choices:
                key = str(choice.get("index", 0)) if "choices" in record else "0"
                whole[key] = whole.get(key, "") + "".join(texts(choice))
    return int(head.split(b" ")[1]), whole


def asked(server: Running, case: Case, client: int = 0) -> bytes:
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=30) as connection:
        connection.sendall(case.bytes(client))
        return b"".join(iter(lambda: connection.recv(65536), b""))


def dropped(server: Running, case: Case, random_: random.Random) -> None:
    """A client that leaves at some moment: within what it sends, at once, or within what it is sent."""
    data = case.bytes(random_.randrange(5))
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=30) as connection:
        if random_.random() < 0.3:  # with a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        where = random_.random()
        if where < 0.15:
            connection.sendall(data[: random_.randrange(len(data))])
            return
        connection.sendall(data * (2 if where < 0.3 else 1))
        for _ in range(random_.randrange(4)):
            connection.recv(random_.randrange(1, 2000))


def left_over(server: Running) -> tuple[Any, ...]:
    """Threads, files, tasks and connections that there are."""
    (served,) = server.service.pool.loaded

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    there = asyncio.run_coroutine_threadsafe(tasks(), served._loop).result(5)
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    threads = [thread.name for thread in threading.enumerate() if not thread.name.startswith("ggufpy-prepare")]
    return sorted(threads), files, there, server.service.book.open  # up to four threads prepare, and stay


def hammer(count: int) -> None:
    options = replace(ServerOptions(), queue=10_000)
    with serving({"fake": lambda: fake_llama(n_ctx=256, n_parallel=4, rows=vague)}, options) as server:
        some = cases()
        alone = [said_of(asked(server, case)) for case in some]
        assert {status for status, _ in alone} <= {200, 400}
        assert sum(status == 200 for status, _ in alone) >= len(some) - 4
        until(lambda: left_over(server)[2:] == (SERVER_TASKS, 0))
        before = left_over(server)

        def one(number: int) -> str | None:
            random_ = random.Random(number)
            index = random_.randrange(len(some))
            if random_.random() < 0.5:
                dropped(server, some[index], random_)
                return None
            said = said_of(asked(server, some[index], number % 5))
            return None if said == alone[index] else f"{some[index]}: {said} is not {alone[index]}"

        with ThreadPoolExecutor(CLIENTS) as clients:
            wrong = [told for told in clients.map(one, range(count)) if told]
        assert not wrong, wrong[:3]
        (served,) = server.service.pool.loaded
        queue, loop = served.queue, served.llm.loop
        until(lambda: not (queue.taken or queue.texts), 2)
        until(lambda: not (loop._boxes or loop._new or loop._scheduler.running or loop._scheduler._waiting), 2)
        until(lambda: left_over(server) == before, 5)
        assert sorted(queue._free) == list(range(queue.places))
        assert not queue._waiting
        assert not any(slot.working for slot in served.slots)


@pytest.fixture(autouse=True)
def _vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake model has no hidden states: it reads the texts of embeddings, and that is all."""

    def row(llm: Llama, *given: Any) -> tuple[list[float], int]:
        llm.loop.run(Request([97] * 200, take=lambda first, rows: None, reuse="none"))
        return [0.5], 200

    monkeypatch.setattr(embeddings, "row", row)


def test_hundreds_of_requests_leave_nothing_behind() -> None:
    hammer(400)


@pytest.mark.slow
def test_thousands_of_requests_leave_nothing_behind() -> None:
    hammer(10_000)
