"""What a template writes for an assistant's message, found by rendering small chats through it."""

from __future__ import annotations

import re
import time
from functools import cached_property
from typing import Any, Protocol

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

USER = "quincequestion"
CONTENT = "medlaranswer"
THOUGHT = "sorrelthought"
NAMES = ("pick_damson", "drop_rowan")
TEXT_KEY, TEXT = "orchard", "fig tree"
NUMBER_KEY, NUMBER = "baskets", 7
ARGUMENTS = ({TEXT_KEY: TEXT, NUMBER_KEY: NUMBER}, {TEXT_KEY: "plum tree"})
IDS = ("qcall0001", "qcall0002")  # Mistral's templates want nine letters and digits
MOST_SECONDS = 5.0  # of all renderings, about twenty; one takes some milliseconds
_FIELDS = ("reasoning_content", "thinking", "reasoning")
_CUT = re.compile(r"(<[^<>\s]*|\[/?[A-Z_]*)$")  # a marker that was cut
_CUT_END = re.compile(r"^([^<>\s]*>|[A-Z_]*\])")
_OPENED: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": True}, {"thinking": True}, {"enable_thinking": False})


class Renders(Protocol):
    """A chat template."""

    source: str

    def render(self, messages: Any, add_generation_prompt: bool = True, **extra: Any) -> str: ...


@dataclass(frozen=True)
class Around:
    """What a template writes before and after a text."""

    before: str
    after: str


class Shown:
    """Renderings of one template, each made when it is first needed. What fails shows nothing."""

    def __init__(self, template: Renders) -> None:
        self.source = template.source
        self._template = template
        self._seconds = 0.0
        self._tails: dict[str, str | None] = {}

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Ends of prompts behind the user's text, as they are and with thinking asked for or not."""
        found = (self._tail(None, True, extra) for extra in _OPENED)
        return tuple(dict.fromkeys(text for text in found if text is not None))

    @cached_property
    def tells_of_tools(self) -> bool:
        """Whether the prompt names the tools on offer."""
        try:
            text = self._template.render([{"role": "user", "content": USER}], add_generation_prompt=True, tools=_TOOLS)
        except GGUFError:
            return False
        return NAMES[0] in text

    @cached_property
    def header(self) -> str:
        """The text with which an assistant's message begins."""
        plain = self._tail({"content": CONTENT}, False)
        thoughts = (self._tail({"content": CONTENT, field: THOUGHT}, False) for field in _FIELDS)
        starts = [(plain, CONTENT), (self._tail(self._call(1, ""), False), NAMES[0])]
        starts += [(text, THOUGHT) for text in thoughts if text and THOUGHT in text]
        prompts = self.prompts[:1] + tuple(text for text in self.prompts[1:] if self._alike(text))
        texts = [*prompts, *(text.partition(word)[0] for text, word in starts if text)]
        return common_start(texts) if len(texts) > 1 else (texts or [""])[0]

    def _alike(self, prompt: str) -> bool:
        """Whether a prompt ends the user's message as the first one does: some add words to it."""
        return bool(common_start([prompt, self.prompts[0]]).strip())

    @cached_property
    def start(self) -> str:
        """The header without what ends the user's message before it."""
        before = self._tail(None, False)
        return self.header[len(before) :] if before and self.header.startswith(before) else self.header

    @cached_property
    def plain(self) -> Around | None:
        """Around a message's content."""
        return around(self.written({"content": CONTENT}), CONTENT)

    @cached_property
    def thought(self) -> tuple[str, Around] | None:
        """The field of a thought that is shown, and what is before it and between it and the content."""
        for field in _FIELDS:
            text = self.written({"content": CONTENT, field: THOUGHT})
            first = around(text, THOUGHT)
            if first and CONTENT in first.after:
                return field, Around(first.before, first.after.partition(CONTENT)[0])
        return None

    @cached_property
    def thought_then_call(self) -> str:
        """What is written behind a thought before a call; "" where that is not shown."""
        field = self.thought[0] if self.thought else _FIELDS[0]
        text = self.written({**self._call(1, ""), field: THOUGHT})
        found = around(text, THOUGHT)
        return found.after.partition(NAMES[0])[0] if found and NAMES[0] in found.after else ""

    def calls(self, count: int, content: str = "") -> str | None:
        """A message with one or two calls; None if not all of them are in it."""
        text = self.written(self._call(count, content))
        wanted = NAMES[:count] if not content else (*NAMES[:count], content)
        return text if text and all(word in text for word in wanted) else None

    def written(self, fields: dict[str, Any]) -> str | None:
        """What is written behind the header for an assistant's message with these fields."""
        text = self._tail(fields, False)
        if text is None:
            return None
        return text[len(self.header) :] if text.startswith(self.header) else None

    def _call(self, count: int, content: str) -> dict[str, Any]:
        calls = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in zip(IDS, NAMES, ARGUMENTS, strict=True)
        ]
        return {"content": content, "tool_calls": calls[:count]}

    def _tail(self, fields: dict[str, Any] | None, prompt: bool, extra: dict[str, Any] | None = None) -> str | None:
        """What is written behind the user's text. Once all renderings took their time none is made any more."""
        key = repr((fields, prompt, extra))
        if key not in self._tails:
            start = time.monotonic()
            self._tails[key] = None if self._seconds > MOST_SECONDS else self._rendered(fields, prompt, extra)
            self._seconds += time.monotonic() - start
        return self._tails[key]

    def _rendered(self, fields: dict[str, Any] | None, prompt: bool, extra: dict[str, Any] | None) -> str | None:
        chat: list[dict[str, Any]] = [{"role": "user", "content": USER}]
        if fields is not None:
            chat.append({"role": "assistant", **fields})
        try:
            text = self._template.render(chat, add_generation_prompt=prompt, tools=_TOOLS, **(extra or {}))
        except GGUFError:
            return None
        _, found, tail = text.rpartition(USER)
        return tail if found else None


def _tool(name: str) -> dict[str, Any]:
    properties = {
        TEXT_KEY: {"type": "string", "description": "where"},
        NUMBER_KEY: {"type": "integer", "description": "how many"},
    }
    schema = {"type": "object", "properties": properties, "required": [TEXT_KEY]}
    return {"type": "function", "function": {"name": name, "description": "does it", "parameters": schema}}


_TOOLS = [_tool(name) for name in NAMES]


def around(text: str | None, word: str) -> Around | None:
    """What is before and after the first `word` of a text."""
    before, found, after = (text or "").partition(word)
    return Around(before, after) if found else None


def common_start(texts: list[str]) -> str:
    """What all begin with, without a marker or word that is cut."""
    start = _shared(texts)
    rests = [text[len(start) :] for text in texts]
    if all(not rest for rest in rests):
        return start
    cut = _CUT.sub("", start)
    if cut == start and any(rest[:1].isalnum() for rest in rests):
        cut = re.sub(r"\w+$", "", start)
    return cut


def shared_end(texts: list[str]) -> str:
    """What all end with, from the first character on that is of no word."""
    return re.sub(r"^\w+", "", _shared([text[::-1] for text in texts])[::-1])


def common_end(texts: list[str]) -> str:
    """What all end with, without a marker or word that is cut."""
    end = _shared([text[::-1] for text in texts])[::-1]
    rests = [text[: len(text) - len(end)] for text in texts]
    if all(not rest for rest in rests):
        return end
    cut = _CUT_END.sub("", end)
    if cut == end and any(rest[-1:].isalnum() for rest in rests):
        cut = re.sub(r"^\w+", "", end)
    return cut


def _shared(texts: list[str]) -> str:
    first, last = min(texts), max(texts)
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:n]
