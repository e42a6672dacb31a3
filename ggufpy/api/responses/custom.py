"""The text within the arguments of a custom tool's call, as it comes.

In: fragments of the JSON text {"input": "..."}. Out: fragments of the text that the string stands for.
"""

from __future__ import annotations

import json
import re

from ggufpy.api.responses.tools import INPUT

_HEAD = re.compile(r'\s*\{\s*"' + INPUT + r'"\s*:\s*"')
_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_PIECE = re.compile(r'[^"\\]+|' + _PAIR + r'|\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]')
_HIGH = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
_LONGEST = 12  # characters of two escapes that are one character


class InputReader:
    """Reads the string. Arguments of another form are the text themselves, at the end."""

    def __init__(self) -> None:
        self._all: list[str] = []  # of the arguments
        self._rest = ""  # not yet read
        self._said: list[str] = []
        self._within: bool | None = None  # None before the string, False behind it

    def push(self, fragment: str) -> str:
        """What a fragment makes certain of the text."""
        self._all.append(fragment)
        self._rest += fragment
        if self._within is None:
            head = _HEAD.match(self._rest)
            if head is None:
                return ""
            self._within, self._rest = True, self._rest[head.end() :]
        text = self._read() if self._within else ""
        self._said.append(text)
        return text

    def finish(self) -> tuple[str, str]:
        """The text that is left, and the whole."""
        whole, said = self._whole(), "".join(self._said)
        return (whole[len(said) :], whole) if whole.startswith(said) else ("", said)

    def _read(self) -> str:
        made, at = [], 0
        while piece := _PIECE.match(self._rest, at):
            text = piece.group()
            if _HIGH.fullmatch(text) and len(self._rest) - at < _LONGEST:
                break  # its other half may follow
            made.append(json.loads(f'"{text}"', strict=False) if text[0] == "\\" else text)
            at = piece.end()
        self._rest = self._rest[at:]
        if self._rest.startswith('"'):
            self._within = False
        return "".join(made).encode("utf-8", "replace").decode()

    def _whole(self) -> str:
        text = "".join(self._all)
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return "".join(self._said) if self._within is not None else text
        if isinstance(value, dict) and isinstance(value.get(INPUT), str):
            return str(value[INPUT]).encode("utf-8", "replace").decode()
        return text
