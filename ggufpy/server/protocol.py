"""HTTP as uvicorn speaks it with httptools, with bounds on heads: how long they may be, and how long they may take.

uvicorn bounds neither, so that a client could keep a connection open with a byte now and then, or fill the memory with
one endless header. Nor does it leave a client that does not read, or tell the request at work that its client has gone
where another one was sent behind it.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 64 << 10  # of a request's line and headers together
HEAD_COUNT = 100  # headers
HEAD_SECONDS = 15.0  # from a connection, or the end of an answer, to a whole head; and for a body that stands still
STALL = 60.0  # seconds in which a client must read something of what it is sent
TOO_LONG = b"the request's line and headers are more than 64 KiB or 100 headers"


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None  # runs while a head is awaited
    _in_head = False  # whether a head has begun and is not whole
    _head_bytes = 0
    _cycles: tuple[RequestResponseCycle, ...] = ()  # requests whose answers are not whole, the oldest first
    _stalled: asyncio.TimerHandle | None = None  # runs while the client does not read
    _unread = 0  # bytes

    @property
    def _busy(self) -> bool:
        """Whether an answer is being made: nothing else may be written."""
        return any(not cycle.response_complete for cycle in self._cycles)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_waiting()
        self._stop_looking()
        super().connection_lost(exc)
        for cycle in self._cycles:  # uvicorn tells the newest one only
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.cycle is not None and self.cycle.response_complete:  # uvicorn stops its own timer for any byte
            self._await_head()
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse()

    def on_message_begin(self) -> None:
        """The first byte of a head has come."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come."""
        super().on_header(name, value)
        if len(self.headers) > HEAD_COUNT or sum(len(n) + len(v) for n, v in self.headers) > HEAD_BYTES:
            self._refuse()

    def on_url(self, url: bytes) -> None:
        """A part of the request's target has come."""
        super().on_url(url)
        if len(self.url) > HEAD_BYTES:
            self._refuse()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._stop_waiting()
        self._in_head = False
        if not self.transport.is_closing():
            super().on_headers_complete()
            self._cycles = (*(cycle for cycle in self._cycles if not cycle.response_complete), self.cycle)

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        at_work = [cycle for cycle in self._cycles if not cycle.response_complete]
        in_body = len(at_work) == 1 and at_work[0].more_body and not at_work[0].response_started
        if at_work and not in_body:
            self.transport.abort()
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is sent to."""
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        """It has read on."""
        self._stop_looking()
        super().resume_writing()

    def _look_later(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(STALL, self._look)

    def _look(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread:
            self._look_later()
        else:
            self.transport.abort()  # closing would wait until what is there has been read

    def _stop_looking(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._busy:  # its time begins when that is over
            self._await_head()
        elif not self.transport.is_closing():
            self._answer(b"408 Request Timeout", b"the request's headers did not come in time")

    def _refuse(self) -> None:
        if self._busy:
            self.transport.abort()
        elif not self.transport.is_closing():
            self._answer(b"431 Request Header Fields Too Large", TOO_LONG)

    def _answer(self, status: bytes, told: bytes) -> None:
        body = b'{"error":{"message":"' + told + b'","type":"invalid_request_error","param":null,"code":null}}'
        head = b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        self.transport.close()
