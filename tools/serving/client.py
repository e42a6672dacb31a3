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
    loop = asyncio.get_running_loop()
    data = json.dumps({"stream": True, "stream_options": {"include_usage": True}, **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    asked = time.monotonic()
    transport, stream = await loop.create_connection(lambda: _Stream(loop.create_future()), "127.0.0.1", port)
    dropped = False
    try:
        transport.write(head.encode() + data)
        await asyncio.wait_for(stream.over, drop_after)
    except asyncio.TimeoutError:
        dropped = True
        sock = transport.get_extra_info("socket")
        if drop_after is not None and int(drop_after * 1e4) % 2:  # by a reset, or by an ordinary end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        transport.close()
    return stream.answer(asked, dropped)


class _Stream(asyncio.Protocol):
    """What comes over a connection, until the server closes it: put together, and read at the end."""

    def __init__(self, over: asyncio.Future[None]) -> None:
        self.over, self._parts = over, list[tuple[float, bytes]]()

    def data_received(self, data: bytes) -> None:
        self._parts.append((time.monotonic(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def answer(self, asked: float, dropped: bool) -> Answer:
        """What has come."""
        whole = b"".join(data for _, data in self._parts)
        head, _, rest = whole.partition(b"\r\n\r\n")
        answer = Answer(int(head.split(b" ", 2)[1]) if head else 0, asked=asked, dropped=dropped)
        answer.times = [at for at, data in self._parts if b"\ndata: {" in data]
        answer.body += _joined(rest) if b"transfer-encoding: chunked" in head.lower() else rest
        return answer


def _joined(body: bytes) -> bytes:
    """The chunks of a body, one behind the other, as far as they have come."""
    made, at = bytearray(), 0
    while (line := body.find(b"\r\n", at)) > 0 and (size := int(body[at:line], 16)):
        made += body[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
    return bytes(made)


async def get(port: int, path: str) -> bytes:
    """The body of a GET."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    whole = await reader.read()
    writer.close()
    return whole.partition(b"\r\n\r\n")[2]
