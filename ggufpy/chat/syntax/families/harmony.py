"""gpt-oss: messages in channels, each with a head that says what it is.

After the prompt's `<|start|>assistant` comes `<|channel|>analysis<|message|>thought<|end|>`, then more messages:
"final" and "commentary" are for the reader, and one ` to=functions.NAME` is a call, whose head may have the channel
before or behind that, and a type such as `<|constrain|>json`.

Source: OpenAI's guide to the harmony format; llama.cpp, common/parsers/gpt-oss.cpp, for what models write besides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ggufpy.chat.syntax.base import Parser, Syntax, Tools
from ggufpy.chat.syntax.json_text import value
from ggufpy.chat.syntax.lark import ANYTHING, Control, Lark, quoted
from ggufpy.chat.syntax.ongoing import Ongoing, schemas
from ggufpy.chat.syntax.output import Output, Text, hex_id
from ggufpy.chat.syntax.reader import Finder, NoCall, Reader, Steps
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.tools import Offer

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_HEAD_ENDS = Finder([_MESSAGE, _START, *_ENDS])
_BODY_ENDS = Finder([_START, *_ENDS])
_NEXT = Finder([_CHANNEL, _MESSAGE, _START, "to="])
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_KIND = re.compile(r"<\|channel\|>\s*(\w+)")
_MAX_HEAD = 1024


class Harmony(Syntax):
    name = "harmony"
    markers = (_START, _CHANNEL, _MESSAGE, "<|constrain|>", *_ENDS)

    def parser(self, prompt: str, tools: Tools | None = None) -> Parser:
        """Also continues a message whose head, or part of it, ends the prompt."""
        reader, output = Reader(), Output(hex_id)
        _, begun, head = prompt.rpartition(f"{_START}assistant")
        head, body, _ = head.partition(_MESSAGE)
        if begun and len(head) < _MAX_HEAD and not any(end in head for end in _ENDS):
            reader.push(head + body)
        return Parser(reader, output, _messages(reader, output, schemas(tools)))

    def answer_after(self, prompt: str) -> str | None:
        final = f"{_CHANNEL}final{_MESSAGE}"
        return None if final in prompt.rpartition(f"{_START}assistant")[2] else final

    def lark(self, offer: Offer, prompt: str, control: Control) -> str | None:
        if not offer.chosen:
            return None
        lark = Lark(control)
        lark.rule("start", "")
        calls = []
        for number, tool in enumerate(offer.chosen):
            function = tool["function"]
            name = quoted(f" to=functions.{function['name']}")
            channel, message = lark.text(f"{_CHANNEL}commentary"), lark.text(_MESSAGE)
            kind = f'(" json" | {lark.text(" <|constrain|>json")})'
            head = f"({name} {channel} {kind} | {channel} {name} {kind}) {message}"
            calls.append(lark.rule(f"call_{number}", f"{head} {lark.schema(function.get('parameters') or {})}"))
        ended = f"{ANYTHING} {lark.text('<|end|>')}"
        if not lark.is_token("<|end|>"):
            ended = lark.rule("ended[lazy]", f"{ANYTHING} {quoted('<|end|>')}")
        again = lark.text(f"{_START}assistant")
        thought = f"{lark.text(f'{_CHANNEL}analysis{_MESSAGE}')} {ended} {again}"
        said = f"{lark.text(f'{_CHANNEL}commentary{_MESSAGE}')} {ended} {again}"
        lark.rule("before", f"({thought} | {said})*")
        lark.rule("call", f"({' | '.join(calls)}) ({lark.text('<|call|>')})?")
        final = f" | {lark.text(f'{_CHANNEL}final{_MESSAGE}')} {ANYTHING}" if not offer.must_call else ""
        lark.rule("start", f"before (call{final})")
        return lark.grammar()


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    found = _CHANNEL in shown.source and _MESSAGE in shown.source and "analysis" in shown.source
    return Harmony() if found or (architecture == "gpt-oss" and not shown.calls(1)) else None


def _messages(reader: Reader, output: Output, tools: Mapping[str, Any]) -> Steps[None]:
    """All messages. A text without a head is content as it stands."""
    while (yield from reader.peek()):
        reader.keep()
        yield from reader.space()
        if not (yield from _has_head(reader)):
            output.content.write(reader.kept())
            yield from reader.until(_BODY_ENDS, output.content.write)
            continue
        head: list[str] = []
        found = yield from reader.until(_HEAD_ENDS, head.append)
        text = "".join(head)
        if found != _MESSAGE:
            reader.forget()
            continue  # a head without a body says nothing
        yield from _body(reader, output, tools, text)


def _has_head(reader: Reader) -> Steps[bool]:
    for text in ("assistant", *_NEXT.texts):
        if (yield from reader.starts(text)):
            return True
    return False


def _body(reader: Reader, output: Output, tools: Mapping[str, Any], head: str) -> Steps[None]:
    recipient, kind = _RECIPIENT.search(head), _KIND.search(head)
    if recipient and recipient[1] != "assistant":
        call = Ongoing(reader, output, tools)
        try:
            call.name(recipient[1])
            yield from reader.space()
            if (yield from reader.peek()) != "{":
                raise NoCall
            yield from value(reader, call.write)
        except NoCall:
            output.content.write(reader.kept())
            yield from reader.until(_BODY_ENDS, output.content.write)
        else:
            yield from reader.until(_BODY_ENDS, lambda text: None)
        return
    reader.forget()
    thinks = kind is not None and kind[1] == "analysis"
    text: Text = output.thought() if thinks else output.content
    yield from reader.until(_BODY_ENDS, text.write)
    if thinks:
        output.content.trim()
