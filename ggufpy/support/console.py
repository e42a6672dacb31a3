"""The standard streams, any of which may be absent (pythonw, `2>&-`), closed, or without a reader.

Nothing to report on is no fault; results that cannot be written are one. Python documents that sys.stdin,
sys.stdout and sys.stderr may be None.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Literal, TextIO, cast

from ggufpy.errors import GGUFError

Name = Literal["stdin", "stdout", "stderr"]


def is_terminal(name: Name) -> bool:
    """Whether a standard stream is there, and is a terminal."""
    stream = _usable(name)
    return stream is not None and stream.isatty()


def has_input() -> bool:
    """Whether something may come from stdin that nobody has to type."""
    return _usable("stdin") is not None and not is_terminal("stdin")


def note(text: str, end: str = "\n") -> None:
    """Says something on stderr, if that can be."""
    stream = _usable("stderr")
    if stream is None:
        return
    try:
        print(text, end=end, file=stream, flush=True)
    except OSError:
        return  # nobody reads it, or the disk that it goes to is full: the work goes on


def read_input(instead: str) -> bytes:
    """All of stdin. Raises GGUFError, with what to give `instead`, where there is none."""
    stream = _usable("stdin")
    if stream is None:
        raise GGUFError(f"standard input is closed: {instead}")
    return stream.buffer.read()


def read_line(instead: str) -> bytes:
    """The next line of stdin, empty at its end. Raises GGUFError, with what to give `instead`, where there is none."""
    stream = _usable("stdin")
    if stream is None:
        raise GGUFError(f"standard input is closed: {instead}")
    return stream.buffer.readline()


def below(stream: TextIO) -> TextIO:
    """The stream that an `Output` writes to, for libraries that ask it for more than text. Others are themselves."""
    inner: object = stream
    return inner.stream if isinstance(inner, Output) and inner.stream is not None else stream


class Output(io.TextIOBase):
    """Stdout that remembers why it could not be written to (`error`). `stream` None is one that was closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.stream is not None and self.stream.isatty()

    def write(self, text: str) -> int:
        with self._noting():
            if self.stream is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return self.stream.write(text)

    def flush(self) -> None:
        with self._noting():
            if self.stream is not None:
                self.stream.flush()

    def close(self) -> None:
        """The stream below stays open."""

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            raise


@contextmanager
def streams() -> Iterator[Output]:
    """Streams that can be written to while a program runs: stderr goes nowhere where there is none.

    Without stdout, text goes nowhere in a program without a console, and fails where the descriptor was closed.
    """
    closed = os.name == "posix" and not _is_open(1)
    _fill_descriptors()
    with ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        if _usable("stderr") is None:
            stack.enter_context(redirect_stderr(null))
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and not stream.closed:
                stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end the answer
        windowed = sys.stdout is None and not closed
        output = Output(null if windowed else _usable("stdout"))
        stack.enter_context(redirect_stdout(cast(TextIO, output)))
        yield output
        _finish(output.stream, sys.stderr)


def _finish(*streams: TextIO | None) -> None:
    """The interpreter writes once more what is left when it ends: what cannot be written must go nowhere then."""
    for stream in streams:
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _usable(name: Name) -> TextIO | None:
    """A standard stream that is there and not closed."""
    stream: TextIO | None = {"stdin": sys.stdin, "stdout": sys.stdout, "stderr": sys.stderr}[name]
    return None if stream is None or getattr(stream, "closed", False) else stream


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _fill_descriptors() -> None:
    """A file that is opened must not get the number of stdout or stderr: what libraries print would go into it."""
    for number in range(3):
        if not _is_open(number):
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
