"""How a server ends: SIGTERM lets answers at work end, a second SIGINT does not, and neither shows a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from byte_model import write_byte_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@dataclass
class Child:
    """A server in a process of its own, and what it has said."""

    process: subprocess.Popen[str]
    port: int = 0
    said: list[str] = field(default_factory=list)
    reader: threading.Thread = field(default_factory=threading.Thread)

    def stream(self, tokens: int) -> socket.socket:
        """A connection with a stream that has begun."""
        body = {"prompt": "a", "stream": True, "n_predict": tokens, "ignore_eos": True, "temperature": 0}
        data = json.dumps(body).encode()
        head = f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        made = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        made.sendall(head.encode() + data)
        assert made.recv(12) == b"HTTP/1.1 200"
        return made

    def end(self) -> int:
        """Its exit status, once it has ended."""
        status = self.process.wait(60)
        self.reader.join(10)
        assert "Traceback" not in "".join(self.said)
        return status

    def listen(self) -> None:
        """Waits until it listens; reads on, on a thread."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"listening at http://127\.0\.0\.1:([0-9]+) ", line):
                self.port = int(found[1])
                break
        assert self.port, self.said
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr or ()))
        self.reader.start()


@contextmanager
def child(path: Path) -> Iterator[Child]:
    command = [sys.executable, "-m", "ggufpy", "serve", str(path), "--port", "0", "-t", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    made = Child(process)
    try:
        made.listen()
        yield made
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("models") / "m.gguf")


def test_what_is_at_work_ends_before_the_server_does(path: Path) -> None:
    with child(path) as server, server.stream(40) as stream:
        idle = socket.create_connection(("127.0.0.1", server.port))
        server.process.send_signal(signal.SIGTERM)
        said = b"".join(iter(lambda: stream.recv(65536), b""))
        assert said.endswith(b"0\r\n\r\n")
        assert b'"tokens_predicted":40' in said
        assert server.end() == -signal.SIGTERM
        idle.close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.port))


def test_a_second_interrupt_waits_for_nobody(path: Path) -> None:
    with child(path) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        time.sleep(0.3)  # its request is at work, and waits for the rest of its body
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 130
