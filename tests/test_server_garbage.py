"""Requests leave nothing that only the collector of cycles frees: memory would grow until that comes by."""

from __future__ import annotations

import gc
import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from llm_fakes import fake_llama
from serving import Running, serving, until

MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
SHORT = {"messages": MESSAGES, "max_tokens": 4, "temperature": 0}
ENDLESS = {"max_tokens": 200_000, "logit_bias": {"257": -100}, "stream": True}
REQUESTS: dict[str, tuple[str, Any]] = {
    "chat": ("/v1/chat/completions", SHORT),
    "streamed": ("/v1/chat/completions", {**SHORT, "stream": True}),
    "choices": ("/v1/chat/completions", {**SHORT, "n": 2, "temperature": 1}),
    "tools": ("/v1/chat/completions", {**SHORT, "tools": [{"type": "function", "function": TOOL}]}),
    "object": ("/v1/chat/completions", {**SHORT, "response_format": {"type": "json_object"}}),
    "refused": ("/v1/chat/completions", {**SHORT, "temperature": -1}),
    "completions": ("/v1/completions", {"prompt": "hello", "max_tokens": 4, "stream": True}),
    "responses": ("/v1/responses", {"input": "hello", "max_output_tokens": 16, "stream": True, "store": False}),
    "messages": ("/v1/messages", {**SHORT, "stream": True}),
    "ollama": ("/api/chat", {"messages": MESSAGES, "options": {"num_predict": 4}}),
    "llama": ("/completion", {"prompt": "hello", "n_predict": 4, "stream": True}),
}
TIMES = 6


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=300_000, n_parallel=2)}) as running:
        yield running


def send(server: Running, path: str, body: Any, most: int | None = None) -> bytes:
    """What a server answers, to its end or for so many bytes; then the client goes."""
    data = json.dumps({"model": "fake", **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    got = b""
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=10) as client:
        client.sendall(head.encode() + data)
        while (most is None or len(got) < most) and (part := client.recv(65_536)):
            got += part
    return got


def idle(server: Running) -> bool:
    return not any(slot["is_processing"] for slot in server.ask("/slots").json)


def garbage() -> Counter[str]:
    """Objects of this package that only the collector frees, by type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        found = [type(each) for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in found if kind.__module__.startswith("ggufpy"))


@pytest.mark.parametrize("name", REQUESTS)
def test_what_a_request_made_goes_with_it(server: Running, name: str) -> None:
    path, body = REQUESTS[name]
    for _ in range(2):  # what is made once
        send(server, path, body)
    gc.collect()
    gc.disable()
    try:
        for _ in range(TIMES):
            assert send(server, path, body).startswith(b"HTTP/1.1 ")
        left = {kind: count for kind, count in garbage().items() if count >= TIMES}
    finally:
        gc.enable()
    assert not left


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/completion"])
def test_what_a_client_left_goes_too(server: Running, path: str) -> None:
    endless = {
        "/v1/messages": {"messages": MESSAGES, "max_tokens": 200_000, "stream": True},
        "/api/chat": {"messages": MESSAGES, "options": {"num_predict": -1}},
        "/completion": {"prompt": "hello", "n_predict": 200_000, "logit_bias": [[257, -100]], "stream": True},
    }.get(path, {"messages": MESSAGES, **ENDLESS})
    send(server, path, endless, 300)
    until(lambda: idle(server))
    gc.collect()
    gc.disable()
    try:
        for _ in range(TIMES):
            assert send(server, path, endless, 300).startswith(b"HTTP/1.1 200")
        until(lambda: idle(server))
        left = {kind: count for kind, count in garbage().items() if count >= TIMES}
    finally:
        gc.enable()
    assert not left
