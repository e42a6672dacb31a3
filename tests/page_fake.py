"""A server whose answers are known, for tests of the page: it serves the page's files as `ggufpy serve` does, and
streams what the last message asks for."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ggufpy

PAGE = Path(ggufpy.__file__).parent / "server" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; manifest-src 'self'"
)
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
N_CTX = 8192


@dataclass
class Plan:
    """What the server does with requests for answers, and what it has seen."""

    key: str | None = None
    busy: int = 0  # as many requests get a 429
    loading: int = 0  # as many requests get a 503
    refuse: str = ""  # the message of a 400
    models: list[str] = field(default_factory=lambda: ["smollm2", "another"])
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    delay: float = 0.0  # seconds between pieces
    cut_after: int | None = None  # pieces after which the connection ends
    fail_after: int | None = None  # pieces after which an error comes
    finish: str = "stop"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    gone: int = 0  # streams whose client went away

    def pieces(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The deltas of an answer: those laid down for the last message, or what was said, word by word."""
        said = body["messages"][-1]["content"]
        return self.answers.get(said) or words(f"You said: {said}")


def words(text: str) -> list[dict[str, Any]]:
    """A text as deltas, a word each with what stands before it."""
    parts = text.replace(" ", "\0 ").split("\0")
    return [{"content": part} for part in parts]


class Handler(BaseHTTPRequestHandler):
    """One request of the page."""

    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests look at `Plan.paths`."""

    def do_GET(self) -> None:
        """The page, and what it asks for when it opens."""
        path = urlsplit(self.path).path
        plan = self.server.plan
        plan.paths.append(self.path)
        if path == "/" or path.startswith("/page/"):
            self._file("index.html" if path == "/" else path.removeprefix("/page/"))
        elif not self._allowed():
            pass
        elif path == "/v1/models":
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "ggufpy"} for name in plan.models]
            self._json(200, {"object": "list", "data": data})
        elif path == "/props":
            params = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
            self._json(200, {"default_generation_settings": {"n_ctx": N_CTX, "params": params}})
        else:
            self._json(404, _error("there is no such route"))

    def do_POST(self) -> None:
        """An answer."""
        plan = self.server.plan
        plan.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        plan.bodies.append(body)
        if plan.busy > 0:
            plan.busy -= 1
            self._json(429, _error("the queue is full"), {"Retry-After": "1"})
        elif plan.loading > 0:
            plan.loading -= 1
            self._json(503, _error("the model is being loaded"), {"Retry-After": "1"})
        elif plan.refuse:
            self._json(400, _error(plan.refuse))
        else:
            self._stream(body)

    def _allowed(self) -> bool:
        key = self.server.plan.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self._json(401, _error("this server asks for an API key"))
        return False

    def _file(self, name: str) -> None:
        path = PAGE / name
        if "/" in name or not path.is_file() or path.suffix not in TYPES:
            self._json(404, _error("there is no such file"))
            return
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        self._send(200, path.read_bytes(), f"{TYPES[path.suffix]}; charset=utf-8", headers)

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for chunk in self._chunks(body):
                self.wfile.write(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
        except OSError:
            self.server.plan.gone += 1
        self.close_connection = True

    def _chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any] | str]:
        plan = self.server.plan
        pieces = plan.pieces(body)
        yield _chunk({"role": "assistant"})
        for count, delta in enumerate(pieces):
            if plan.cut_after is not None and count >= plan.cut_after:
                return
            if plan.fail_after is not None and count >= plan.fail_after:
                yield _error("the model stumbled")
                return
            yield _chunk(delta)
            end = time.monotonic() + plan.delay
            while (left := end - time.monotonic()) > 0 and not self.server.stopping.wait(min(left, 0.05)):
                pass
            if self.server.stopping.is_set():
                return
        yield _chunk({}, plan.finish)
        usage = {"prompt_tokens": 20, "completion_tokens": len(pieces), "total_tokens": 20 + len(pieces)}
        timings = {"predicted_n": len(pieces), "predicted_per_second": 12.5, "prompt_n": 20, "cache_n": 4}
        details = {"prompt_tokens_details": {"cached_tokens": 4}}
        yield {"choices": [], "usage": {**usage, **details}, "timings": timings}
        yield "[DONE]"


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "code": None}}


class FakeServer(ThreadingHTTPServer):
    """The server, on a free port; `stop` and `start` make it go and come back at the same one."""

    daemon_threads = True
    plan: Plan

    def __init__(self, plan: Plan, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.plan = plan
        self.stopping = threading.Event()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Notes the connection: browsers keep theirs open."""
        self._open.append(request)
        super().process_request(request, client_address)

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def stop(self) -> None:
        """Ends all connections and closes the port."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for each in self._open:
            with contextlib.suppress(OSError):  # closed by its handler
                each.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
