"""A server in a process of its own, and what it uses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Serving:
    """A server that runs."""

    pid: int
    port: int

    def resident(self) -> int:
        """Bytes of memory that are its own."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Seconds of CPU that it has used, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@contextmanager
def serving(model: str, *options: str) -> Iterator[Serving]:
    """`ggufpy serve MODEL`, ended by SIGTERM; its model is loaded."""
    command = [sys.executable, "-m", "ggufpy", "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = 0
        for line in process.stderr:
            if found := re.search(r"http://[^ ]*:(\d+)", line):
                port = int(found[1])
            if "is loaded" in line:
                break
        assert port, "the server did not start"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Serving(process.pid, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)
