"""A chat without a terminal that can be drawn on: every line of stdin is a message or a /command."""

from __future__ import annotations

from collections.abc import Iterator

from ggufpy.commands import UsageError
from ggufpy.commands._chat.plain import Plain
from ggufpy.commands._chat.session import Chat
from ggufpy.errors import GGUFError
from ggufpy.support import console

EXIT_INTERRUPTED = 130


def run(chat: Chat, out: Plain, single: bool) -> int:
    """Takes messages to the end of stdin, or all of it as a `single` one; returns the exit status.

    Ctrl-C ends an answer and the chat. What cannot be done ends it too (GGUFError), unless somebody types.
    """
    typed = console.is_terminal("stdin")
    count = 0
    for number, text in _whole(typed) if single else _lines(typed):
        try:
            chat.take(text)
        except GGUFError as error:
            if not typed:
                where = "" if single else f"line {number} of stdin: "
                raise GGUFError(f"{where}{error}") from error
            out.error(str(error))
        count += 1
        stopped = chat.stopped
        if chat.over or (stopped and not typed) or (single and typed):
            return EXIT_INTERRUPTED if stopped and not typed else 0
    if not count and not typed:
        raise UsageError("no message: stdin is empty; give a message a line, or run it at a terminal")
    return 0


def _whole(typed: bool) -> Iterator[tuple[int, str]]:
    """One message: all of stdin, or the first line that is typed."""
    if typed:
        yield from _lines(typed)
        return
    text = _decoded(console.read_input("give a message on it, or run it at a terminal"), "stdin")
    if text.strip():
        yield 1, text.removesuffix("\n").removesuffix("\r")


def _lines(typed: bool) -> Iterator[tuple[int, str]]:
    """Lines with something in them, and their numbers, each when it comes."""
    number = 0
    while True:
        if typed:
            console.note("> ", end="")
        raw = console.read_line("give a message a line, or run it at a terminal")
        if not raw:
            if typed:
                console.note("")
            return
        number += 1
        text = _decoded(raw, f"line {number} of stdin").strip("\r\n")
        if text.strip():
            yield number, text


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GGUFError(f"{where} is not UTF-8 text (byte {error.start}): convert it first") from error
