"""A process of templates: requests from standard input, answers to standard output, until there is no more input.

It is started with nothing but jinja2 to import, gives up what templates have no use for, and then says that it is
ready. Each message is its length in 8 bytes, most significant first, and then so many bytes. `renderer.py` is the
other side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import BinaryIO

from ggufpy.chat import limits
from ggufpy.chat.rendering import Rendering

READY = b"ready"
_DEPTH = 1500  # of Python's calls: metering has some of its own, and as deep a template as ever is to compile
_PATIENCE = 2.0  # times what a request may take, after which a process that nobody kills ends itself


def serve() -> None:
    """The life of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asked
    sys.setrecursionlimit(_DEPTH)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nobody else's output gets between answers
    questions = sys.stdin.buffer
    rendering = Rendering(killable=True)
    rendering.answer(b'{"source": "{{ 1 | tojson }}", "variables": {}, "blank": [], "seconds": 1, "now": "2000-01-01"}')
    _give_up()
    with contextlib.suppress(OSError):  # whoever asked is gone
        send(answers, READY)
        while (asked := receive(questions)) is not None:
            with _alarm(_PATIENCE * (limits.SECONDS + len(asked) * limits.SECONDS_A_BYTE)):
                answer = rendering.answer(asked)
            send(answers, answer)


def send(file: BinaryIO, message: bytes) -> None:
    """Writes a message to an unbuffered file. Raises OSError when nobody reads it."""
    left = memoryview(len(message).to_bytes(8, "big") + message)
    while left:
        left = left[file.write(left) :]


def receive(file: BinaryIO, most: int | None = None) -> bytes | None:
    """The next message, None at the end of the file, within one too, or for one of more than `most` bytes."""
    head = _read(file, 8)
    count = int.from_bytes(head, "big")
    if len(head) < 8 or (most is not None and count > most):
        return None
    message = _read(file, count)
    return message if len(message) == count else None


def _read(file: BinaryIO, count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := file.read(min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _give_up() -> None:
    """No more memory than a chat needs, no files, no processes, where the system can hold this one to it."""
    sys.dont_write_bytecode = True
    if sys.platform == "win32":
        return
    import resource

    most = {"RLIMIT_DATA": limits.MAX_MEMORY, "RLIMIT_AS": 4 * limits.MAX_MEMORY, "RLIMIT_FSIZE": 0}
    for name, value in {**most, "RLIMIT_NPROC": 0, "RLIMIT_CORE": 0}.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        with contextlib.suppress(OSError, ValueError):  # some systems have the name and not the limit
            hard = resource.getrlimit(kind)[1]
            lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (lower, lower))


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Within it the process is ended by the system when it takes far too long: the one that asked may be gone."""
    if sys.platform == "win32":
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
