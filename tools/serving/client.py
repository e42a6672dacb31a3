"""A client that costs little: one connection a request over plain sockets, what comes is read apart at the end."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"


@dataclass
class Answer:
    """What came of a request: the status, the bytes, and when (seconds of the monotonic clock) each part came."""

    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    asked: float = 0.0
    times: list[float] = field(default_factory=list)
    dropped: bool = False

    @property
    def records(self) -> list[Any]:
        lines = [line[6:] for line in bytes(self.body).split(b"\n") if line.startswith(b"data: {")]
        return [json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        deltas = [r["choices"][0]["delta"] for r in self.records if r.get("choices")]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def ended(self) -> bool:
        """Whether the stream came to its end."""
        return self.body.rstrip().endswith(b"data: [DONE]")

    @property
    def tokens(self) -> int:
        """As the last record counts them."""
        counts = [r["usage"]["completion_tokens"] for r in self.records if r.get("usage")]
        return counts[-1] if counts else 0


async def ask(port: int, body: dict[str, Any], drop_after: float | None = None, path: str = CHAT) -> Answer:
    """One streamed request. `drop_after` seconds from its start its connection is broken off, if it lasts so long."""
    answer = Answer(asked=time.monotonic())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps({"stream": True, "stream_options": {"include_usage": True}, **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    try:
        writer.write(head.encode() + data)
        await asyncio.wait_for(_read(reader, answer), drop_after)
    except asyncio.TimeoutError:
        answer.dropped = True
        sock = writer.get_extra_info("socket")
        if drop_after is not None and int(drop_after * 1e4) % 2:  # by a reset, or by an ordinary end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        writer.close()
    return answer


async def _read(reader: asyncio.StreamReader, answer: Answer) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    answer.status = int(head.split(b" ", 2)[1])
    chunked = b"transfer-encoding: chunked" in head.lower()
    while chunked:
        size = int(await reader.readuntil(b"\r\n"), 16)
        part = await reader.readexactly(size + 2)
        if not size:
            return
        answer.body += part[:-2]
        answer.times.append(time.monotonic())
    answer.body += await reader.read()


async def get(port: int, path: str) -> bytes:
    """The body of a GET."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    whole = await reader.read()
    writer.close()
    return whole.partition(b"\r\n\r\n")[2]
