"""What a model says, as items of a response and the events that tell of them.

In: pieces of its text. Out: events without their numbers, in the order of OpenAI's streams; at the end the items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from ggufpy.api.responses.custom import InputReader
from ggufpy.api.responses.items import new_id, sealed
from ggufpy.api.responses.tools import Tool, Toolbox
from ggufpy.chat.syntax import Arguments, Call, Content, Piece, Thought
from ggufpy.support.records import dataclass

Record = dict[str, Any]
Logprobs = Sequence[Record]


@dataclass(frozen=True)
class Telling:
    """What of an answer is told: thoughts as a summary too, and coded (`items.sealed`)."""

    tools: Toolbox
    summary: bool = False
    sealed: bool = False


class Output:
    """The items of one answer."""

    def __init__(self, telling: Telling) -> None:
        self.items: list[Record] = []  # those that are done
        self._telling = telling
        self._open: _Item | None = None
        self._space = ""  # ahead of a text that has not begun
        self._ids: set[str] = set()  # of calls

    def push(self, piece: Piece, logprobs: Logprobs = ()) -> Iterator[Record]:
        """The events of a piece. `logprobs` are those of a text's tokens."""
        if isinstance(piece, Call):
            call_id = new_id("call") if piece.id in self._ids else piece.id  # models that write ids may repeat one
            self._ids.add(call_id)
            yield from self._begin(_call(self._telling.tools.tool(piece.name), call_id))
        elif isinstance(piece, Arguments):
            if self._open is not None:
                yield from self._open.push(piece.text, ())
        elif isinstance(piece, Thought):
            if not isinstance(self._open, _Thoughts):
                yield from self._begin(_Thoughts(self._telling.summary, self._telling.sealed))
            yield from self._pushed(piece.text, ())
        else:
            yield from self._text(piece, logprobs)

    def finish(self, complete: bool) -> Iterator[Record]:
        """The events of the end. An answer that says nothing has a message without text: clients look for one."""
        if self._open is None and not self.items:
            yield from self._begin(_Message())
            yield from self._pushed(self._space, ())
        yield from self._end("completed" if complete else "incomplete")

    def _text(self, piece: Content, logprobs: Logprobs) -> Iterator[Record]:
        """White space alone begins no message: models put it between thoughts and calls."""
        text = piece.text
        if not isinstance(self._open, _Message):
            self._space += text
            if not self._space.strip():
                return
            text = self._space
            yield from self._begin(_Message())
        yield from self._pushed(text, logprobs)

    def _begin(self, item: _Item) -> Iterator[Record]:
        yield from self._end("completed")
        self._space = "" if not isinstance(item, _Message) else self._space
        self._open = item
        item.index = len(self.items)
        yield from item.begin()

    def _pushed(self, text: str, logprobs: Logprobs) -> Iterator[Record]:
        assert self._open is not None
        self._space = ""
        if text or logprobs:
            yield from self._open.push(text, logprobs)

    def _end(self, status: str) -> Iterator[Record]:
        if self._open is None:
            return
        item, self._open = self._open, None
        yield from item.end()
        done = item.record(status)
        self.items.append(done)
        yield {"type": "response.output_item.done", "output_index": item.index, "item": done}


class _Item(ABC):
    """An item that is being said."""

    prefix: str
    index = 0

    def __init__(self) -> None:
        self.id = new_id(self.prefix)
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @abstractmethod
    def record(self, status: str) -> Record:
        """The item as it is now."""

    def begin(self) -> Iterator[Record]:
        """Events of its beginning."""
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self.record("in_progress")}

    @abstractmethod
    def push(self, text: str, logprobs: Logprobs) -> Iterator[Record]:
        """Events of a fragment."""

    @abstractmethod
    def end(self) -> Iterator[Record]:
        """Events of its end, but the last."""

    def _event(self, kind: str, **more: Any) -> Record:
        return {"type": f"response.{kind}", "item_id": self.id, "output_index": self.index, **more}


class _Message(_Item):
    """A text for the reader."""

    prefix = "msg"

    def __init__(self) -> None:
        super().__init__()
        self._logprobs: list[Record] = []
        self._begun = False

    def _part(self) -> Record:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self._logprobs}

    def record(self, status: str) -> Record:
        content = [self._part()] if self._begun else []
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}

    def begin(self) -> Iterator[Record]:
        yield from super().begin()
        self._begun = True
        yield self._event("content_part.added", content_index=0, part={**self._part(), "logprobs": []})

    def push(self, text: str, logprobs: Logprobs) -> Iterator[Record]:
        self._parts.append(text)
        self._logprobs += logprobs
        yield self._event("output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))

    def end(self) -> Iterator[Record]:
        yield self._event("output_text.done", content_index=0, text=self.text, logprobs=self._logprobs)
        yield self._event("content_part.done", content_index=0, part=self._part())


class _Thoughts(_Item):
    """A thought. Its summary, where that is wanted, is the thought itself: nothing here makes a shorter one."""

    prefix = "rs"

    def __init__(self, summary: bool, sealed: bool) -> None:
        super().__init__()
        self._summary, self._sealed, self._begun = summary, sealed, False

    def record(self, status: str) -> Record:
        text = self.text
        summary = [{"type": "summary_text", "text": text}] if self._summary and self._begun else []
        content = [{"type": "reasoning_text", "text": text}] if self._begun else []
        item = {"id": self.id, "type": "reasoning", "status": status, "summary": summary, "content": content}
        code = sealed(text) if self._sealed and status != "in_progress" else None
        return {**item, "encrypted_content": code}

    def begin(self) -> Iterator[Record]:
        yield from super().begin()
        self._begun = True
        if self._summary:
            part = {"type": "summary_text", "text": ""}
            yield self._event("reasoning_summary_part.added", summary_index=0, part=part)
        yield self._event("content_part.added", content_index=0, part={"type": "reasoning_text", "text": ""})

    def push(self, text: str, logprobs: Logprobs) -> Iterator[Record]:
        self._parts.append(text)
        if self._summary:
            yield self._event("reasoning_summary_text.delta", summary_index=0, delta=text)
        yield self._event("reasoning_text.delta", content_index=0, delta=text)

    def end(self) -> Iterator[Record]:
        text = self.text
        if self._summary:
            part = {"type": "summary_text", "text": text}
            yield self._event("reasoning_summary_text.done", summary_index=0, text=text)
            yield self._event("reasoning_summary_part.done", summary_index=0, part=part)
        yield self._event("reasoning_text.done", content_index=0, text=text)
        yield self._event("content_part.done", content_index=0, part={"type": "reasoning_text", "text": text})


def _call(tool: Tool, call_id: str) -> _Item:
    return _Custom(tool, call_id) if tool.kind == "custom" else _Function(tool, call_id)


class _Function(_Item):
    """A call of a function."""

    prefix = "fc"

    def __init__(self, tool: Tool, call_id: str) -> None:
        super().__init__()
        self._tool, self._call_id = tool, call_id

    def record(self, status: str) -> Record:
        return {**_head(self.id, "function_call", status, self._call_id, self._tool), "arguments": self.text}

    def push(self, text: str, logprobs: Logprobs) -> Iterator[Record]:
        self._parts.append(text)
        if text:
            yield self._event("function_call_arguments.delta", delta=text)

    def end(self) -> Iterator[Record]:
        yield self._event("function_call_arguments.done", name=self._tool.name, arguments=self.text)


class _Custom(_Item):
    """A call of a custom tool."""

    prefix = "ctc"

    def __init__(self, tool: Tool, call_id: str) -> None:
        super().__init__()
        self._tool, self._call_id = tool, call_id
        self._reader = InputReader()

    def record(self, status: str) -> Record:
        return {**_head(self.id, "custom_tool_call", status, self._call_id, self._tool), "input": self.text}

    def push(self, text: str, logprobs: Logprobs) -> Iterator[Record]:
        if said := self._reader.push(text):
            yield self._said(said)

    def end(self) -> Iterator[Record]:
        rest, whole = self._reader.finish()
        if rest:
            yield self._said(rest)
        yield self._event("custom_tool_call_input.done", input=whole)

    def _said(self, text: str) -> Record:
        self._parts.append(text)
        return self._event("custom_tool_call_input.delta", delta=text)


def _head(item_id: str, kind: str, status: str, call_id: str, tool: Tool) -> Record:
    """What calls of both kinds have."""
    made = {"id": item_id, "type": kind, "status": status, "call_id": call_id, "name": tool.name}
    return made if tool.namespace is None else {**made, "namespace": tool.namespace}
