"""Reads a message as a form says: thoughts, content, calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.chat.syntax.form import Calls, Form
from ggufpy.chat.syntax.ongoing import Ongoing
from ggufpy.chat.syntax.output import Output, Text
from ggufpy.chat.syntax.parts import Text as Marker
from ggufpy.chat.syntax.reader import Finder, NoCall, Reader, Steps

_WRAPPERS = "[{"


class Opening:
    """The text with which a kind of calls begins, and how the first and the following ones go on from there."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.section = calls.opens.strip().rstrip(_WRAPPERS).rstrip()
        self.closes = calls.closes.strip().lstrip("]}").lstrip()
        self.start = leading(calls)
        self.between = calls.between.strip() if is_marker(calls.between.strip()) else ""
        last = max((i for i, part in enumerate(calls.parts) if not isinstance(part, Marker)), default=-1)
        self.parts = calls.parts
        self.after = last + 1
        ends = [*(part.texts()[0] for part in calls.parts[self.after :]), self.closes]
        self.next_text = next((text for text in ends if text), "")

    def texts(self) -> list[str]:
        """The texts by which calls are found."""
        return [text for text in (self.section, self.start) if is_marker(text)]


def leading(calls: Calls) -> str:
    """The text with which each call begins; "" if it is no text of its own."""
    first = calls.parts[0]
    return first.text.strip() if isinstance(first, Marker) else ""


def is_marker(text: str) -> bool:
    """Whether a text is one that would not stand in an answer by chance."""
    return len(text) > 2 and any(not char.isalnum() and not char.isspace() for char in text)


class FormReader:
    """One message. Its generator is `message`."""

    def __init__(self, form: Form, reader: Reader, output: Output, tools: Mapping[str, Any]) -> None:
        self._form = form
        self._reader = reader
        self._output = output
        self._tools = tools
        openings = [Opening(calls) for calls in form.calls] if tools else []
        self._openings: dict[str, list[Opening]] = {}
        for opening in openings:
            for text in opening.texts():
                self._openings.setdefault(text, []).append(opening)
        self._bare = [opening for opening in openings if opening.calls.bare]
        self._calls = Finder(self._openings)
        thoughts = form.thoughts
        self._opens = Finder([thoughts.opens.strip()] if thoughts else [])
        self._closes = Finder([thoughts.closes.strip()] if thoughts else [])
        wraps = [text.strip() for text in form.wraps]
        self._strays = Finder([*self._closes.texts, *wraps])
        self._found = Finder([*self._calls.texts, *wraps])

    def message(self, thinking: bool) -> Steps[None]:
        """Reads it all. thinking: a thought is open at the beginning."""
        if thinking:
            yield from self._thought()
        while True:
            yield from self._between()
            found = yield from self._reader.until(self._found, self._output.content.write)
            if not found:
                return
            if found in self._openings:
                yield from self._section(found, self._output.content)

    # -- thoughts --

    def _between(self) -> Steps[None]:
        """Where no content has begun: thoughts, a closing text that closes nothing, calls without a marker."""
        content = self._output.content
        while True:
            content.write((yield from self._reader.space()))
            if (yield from self._reader.any_of(self._opens)):
                content.trim()
                yield from self._thought()
            elif not content.begun and (yield from self._reader.any_of(self._strays)):
                content.trim()
            else:
                break
        if self._bare and not content.begun and (yield from self._reader.peek()) in ("{", "["):
            yield from self._bare_calls()

    def _thought(self) -> Steps[None]:
        """A thought up to its end.

        A text that begins calls may be one that the model thinks about, or a call of a model that never ended its
        thought. Which it is shows at the end of the thought or of the text, and what follows waits for that.
        """
        text = self._output.thought()
        ends = Finder([*self._closes.texts, *self._calls.texts])
        found = yield from self._reader.until(ends, text.write)
        if found in self._openings and found not in self._closes.texts:
            rest = [found]
            if (yield from self._reader.until(self._closes, rest.append)):
                text.write("".join(rest))
            else:
                yield from self._never_ended("".join(rest), text)
        self._output.content.trim()

    def _never_ended(self, rest: str, text: Text) -> Steps[None]:
        """The text ended within a thought: what follows its first call is no thought."""
        reader = self._reader = Reader()
        reader.push(rest)
        reader.end()
        while found := (yield from reader.until(self._calls, text.write)):
            if (yield from self._section(found, text)):
                return

    # -- calls --

    def _bare_calls(self) -> Steps[None]:
        self._reader.keep()
        yield from self._first_of(self._bare, "", self._output.content)

    def _section(self, found: str, failed: Text) -> Steps[bool]:
        """Calls behind the text `found`; whether there was one. What is none goes to `failed`."""
        return (yield from self._first_of(self._openings[found], found, failed))

    def _first_of(self, openings: list[Opening], found: str, failed: Text) -> Steps[bool]:
        """Calls as the first of `openings` reads them whose first part is there."""
        reader = self._reader
        reader.keep()
        yield from reader.space()
        opening = openings[0]
        for opening in openings:
            if (yield from self._fits(opening, found)):
                break
        call = self._ongoing(opening)
        bracket = False
        try:
            bracket = yield from self._bracket(opening)
            yield from self._call(opening, call, skip=1 if found and found == opening.start else 0)
        except NoCall:
            if not call.begun:
                failed.write(found + reader.kept())
                return False
        yield from self._others(opening, bracket)
        return True

    def _ongoing(self, opening: Opening) -> Ongoing:
        return Ongoing(self._reader, self._output, self._tools, opening.next_text)

    def _fits(self, opening: Opening, found: str) -> Steps[bool]:
        """Whether what comes next may be the part that follows `found`."""
        parts = opening.parts[1:] if found and found == opening.start else opening.parts
        first = next(part for part in parts if not (isinstance(part, Marker) and part.optional))
        if isinstance(first, Marker):
            return (yield from self._reader.starts(first.text.strip()))
        char = yield from self._reader.peek()
        if char == "[" and not opening.start:
            second = (yield from self._reader.peek(2))[1:]
            return not second.strip() or first.fits(second)
        return first.fits(char)

    def _bracket(self, opening: Opening) -> Steps[bool]:
        """Takes a bracket around calls, which models also write or leave out where they were taught otherwise."""
        found = not opening.start and (yield from self._reader.literal("["))
        if found:
            yield from self._reader.space()
        return found

    def _call(self, opening: Opening, call: Ongoing, skip: int) -> Steps[None]:
        for part in opening.parts[skip : opening.after]:
            yield from part.read(call)
        yield from self._closed(opening)

    def _closed(self, opening: Opening) -> Steps[None]:
        """Takes the texts behind the arguments, as far as they are there, and brackets too many before them."""
        for part in opening.parts[opening.after :]:
            yield from self._reader.space()
            while opening.next_text and (yield from self._reader.peek()) in ("}", "]"):
                self._reader.take(1)
                yield from self._reader.space()
            yield from self._reader.literal(part.texts()[0])

    def _others(self, opening: Opening, bracket: bool) -> Steps[None]:
        """Further calls, and the end of all. What is neither is content."""
        reader, content = self._reader, self._output.content
        while True:
            reader.keep()
            bracket = (yield from self._separator(bracket)) and bracket
            if opening.closes and (yield from reader.literal(opening.closes)):
                reader.forget()
                return
            call = self._ongoing(opening)
            try:
                if not (yield from self._another(opening)):
                    raise NoCall
                yield from self._call(opening, call, skip=0)
            except NoCall:
                if not call.begun:
                    content.write(reader.kept())
                    return

    def _separator(self, bracket: bool) -> Steps[bool]:
        """Takes what stands between calls; whether the bracket around them is still open."""
        while True:
            yield from self._reader.space()
            char = yield from self._reader.peek()
            if char == "]" and bracket:
                bracket = False
                self._reader.forget()
                self._reader.take(1)
                self._reader.keep()
            elif char in (",", ";"):
                self._reader.take(1)
            else:
                return bracket

    def _another(self, opening: Opening) -> Steps[bool]:
        """Whether another call begins here."""
        if opening.between and (yield from self._reader.literal(opening.between)):
            yield from self._reader.space()
        char = yield from self._reader.peek()
        if opening.start:
            return (yield from self._reader.starts(opening.start))
        return bool(char) and opening.parts[0].fits(char)
