"""How answers of the formats with functions hold calls, as data; and calls in answers of the others.

An answer is messages with heads: a text has one, and each call has one that names the function, with the arguments as
JSON behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ggufpy.chat.syntax.base import Parser, Syntax, Tools
from ggufpy.chat.syntax.form import Calls, Form
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.lark import ANYTHING, Control, Lark, quoted
from ggufpy.chat.syntax.markers import tokens_of
from ggufpy.chat.syntax.ongoing import Ongoing, schemas
from ggufpy.chat.syntax.output import Output, hex_id
from ggufpy.chat.syntax.reader import Finder, NoCall, Reader, Steps
from ggufpy.chat.syntax.written import Wrapped, arguments
from ggufpy.chat.tools import Offer
from ggufpy.support.records import dataclass

_NAME = re.compile(r"[^\s<>{}\[\]\"':]+")
_LONGEST = 1024  # characters of a name


@dataclass(frozen=True)
class Heads:
    """`text` begins a text. `call` and `named` stand before and behind a function's name. `again` comes between a
    message and a further one, behind texts too; `more` between two calls alone. within: a call may come behind a text,
    without any of these."""

    call: str
    named: str
    text: str = ""
    again: str = ""
    more: str = ""
    within: bool = False


class HeadsSyntax(Syntax):
    """What `heads` say."""

    def __init__(self, name: str, heads: Heads) -> None:
        self.name = name
        self.heads = heads
        self.markers = tokens_of([text.strip() for text in vars(heads).values() if isinstance(text, str)])

    def parser(self, prompt: str, tools: Tools | None = None) -> Parser:
        """See Syntax. Without tools a prompt has the head of the text, and the answer is text alone."""
        reader, output = Reader(), Output(hex_id)
        steps = _Answer(self.heads, reader, output, schemas(tools)).read()
        return Parser(reader, output, steps)

    def lark(self, offer: Offer, prompt: str, control: Control) -> str | None:
        """See Syntax."""
        heads, lark = self.heads, Lark(control)
        if offer.choice == "none" or not offer.tools:
            return None
        if heads.within and not offer.must_call and not lark.is_token(heads.call):
            return None  # nothing tells such a call from text before it is there
        lark.rule("start", "")  # it comes first; written below
        lark.rule("TEXT", ANYTHING)
        names = [_call(lark, number, tool["function"], heads) for number, tool in enumerate(offer.chosen)]
        call = lark.rule("call", " | ".join(names))
        text = f"{lark.text(heads.text) if heads.text else ''} TEXT".strip()
        between = heads.again or heads.more
        several = between and offer.parallel and not offer.named
        further = f" ({lark.text(between)} {call})*" if several else ""
        if offer.must_call:
            lark.rule("start", call + further)
        elif heads.within:
            lark.rule("start", f"TEXT ({call})?")
        elif heads.again:
            lark.rule("message", f"{text} | {call}")
            more = "message)*" if several else "message)?"
            lark.rule("start", f"message ({lark.text(heads.again)} {more}")
        else:
            lark.rule("start", f"{text} | {call}{further}")
        return lark.grammar()


def _call(lark: Lark, number: int, function: Mapping[str, Any], heads: Heads) -> str:
    """The rule of one function."""
    head = f"{lark.text(heads.call) if heads.call else ''} {quoted(function['name'])} {lark.text(heads.named)}"
    return lark.rule(f"call_{number}", f"{head} {lark.schema(function.get('parameters'))}".strip())


class _Answer:
    """One answer. Its generator is `read`."""

    def __init__(self, heads: Heads, reader: Reader, output: Output, tools: Mapping[str, Any]) -> None:
        self._heads = heads
        self._reader = reader
        self._output = output
        self._tools = tools
        found = [heads.again.strip(), heads.call.strip() if heads.within else ""]
        self._marks = Finder(found if tools else [])
        self._call, self._named = heads.call.strip(), heads.named.strip()

    def read(self) -> Steps[None]:
        """Reads it all. What is none of the messages is text."""
        content = self._output.content
        more = yield from self._message()
        while more:
            mark = yield from self._reader.until(self._marks, content.write)
            if not mark:
                return
            if mark == self._call and self._heads.within:
                more = yield from self._a_call(mark)
            else:
                more = yield from self._message(mark)

    def _message(self, mark: str = "") -> Steps[bool]:
        """One message behind `mark`: its head, and the call if it is one. Whether text follows, which is left."""
        reader, content, head = self._reader, self._output.content, self._heads.text.strip()
        if mark:
            content.trim()
        if not self._tools:
            return True
        space = yield from reader.space()
        if head and (yield from reader.literal(head)):
            content.trim()
            yield from reader.space()
            return True
        if self._heads.within and not (yield from reader.starts(self._call)):
            content.write(space)
            return True
        if self._call and not (yield from reader.literal(self._call)):
            content.write(mark + space)
            return True
        return (yield from self._a_call(mark + space + self._call))

    def _a_call(self, taken: str) -> Steps[bool]:
        """Calls, the head of the first of which is `taken` up to the name. Whether more follows."""
        reader, content = self._reader, self._output.content
        while True:
            reader.keep()
            call = Ongoing(reader, self._output, self._tools)
            try:
                yield from self._one(call)
            except NoCall:
                if not call.begun:
                    content.write(taken + reader.kept())
                    return True
            taken = yield from reader.space()
            if not self._heads.more or not (yield from reader.literal(self._call)):
                return True
            taken += self._call

    def _one(self, call: Ongoing) -> Steps[None]:
        reader = self._reader
        call.name((yield from reader.run(_NAME, _LONGEST)))
        yield from reader.space()
        if not (yield from reader.literal(self._named)):
            raise NoCall
        yield from reader.space()
        yield from arguments(call)


class PlainSyntax(FormSyntax):
    """Formats that say nothing of functions: where one must be called the answer is {"name": ..., "arguments": ...},
    and else it is free."""

    def __init__(self, name: str) -> None:
        super().__init__(name, Form(calls=(Calls((Wrapped(),), bare=True, several=False),)))

    def lark(self, offer: Offer, prompt: str, control: Control) -> str | None:
        """See Syntax."""
        return super().lark(offer, prompt, control) if offer.must_call else None
