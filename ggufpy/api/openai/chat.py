"""Chat completions, whole and streamed: content, thoughts (`reasoning_content`) and calls of tools.

A parser takes the answer apart as it comes; whole and streamed answers say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.model import Model, Record
from ggufpy.api.openai.shapes import Clock, Last, chunk_head, head, timings, token_text
from ggufpy.api.openai.texts import Delta
from ggufpy.api.shape import Spent
from ggufpy.chat.syntax import Arguments, Call, Content, Piece, Thought

CHUNK = "chat.completion.chunk"


class ChatShape:
    """How a chat completion is told."""

    def __init__(self, llm: Model, asked: Asked, timed: bool = False) -> None:
        self._llm, self._asked, self.clock = llm, asked, Clock(timed)
        self._head = chunk_head(asked, CHUNK)
        self._last = Last(asked, CHUNK)
        self._calls = [_Calls(asked.legacy_calls) for _ in asked.samplings]

    def prepare(self) -> None:
        """See `Shape`."""

    def begin(self) -> Iterator[Record]:
        """Of every choice the role."""
        for number in range(len(self._asked.samplings)):
            yield {**self._head, "choices": [_delta(number, {"role": "assistant"}, None, None)]}

    def delta(self, number: int, delta: Delta) -> Iterator[Record]:
        """What is said, and why it ended."""
        asked = self._asked
        self._calls[number].see(delta.pieces)
        logprobs = None if asked.logprobs is None or delta.token is None else _logprobs(self._llm, [delta])
        pieces = [piece for piece in delta.pieces if _is_told(piece, asked.legacy_calls)]
        start = {**self._head, **self.clock.now(number)}
        for piece in pieces or ([Content("")] if logprobs is not None else []):
            yield {**start, "choices": [_delta(number, _said(piece, asked.legacy_calls), logprobs, None)]}
            logprobs = None
        if delta.finish:
            reason = self._calls[number].finish(delta)
            yield from self._last.finished({**start, "choices": [_delta(number, {}, None, reason)]})

    def end(self, spent: Spent) -> Iterator[Record]:
        """The last chunk, with what it took where that is wanted."""
        yield from self._last.end(spent)

    def whole(self, said: Sequence[Sequence[Delta]], spent: Spent) -> Record:
        """A chat completion in one dict."""
        asked, choices = self._asked, []
        for number, deltas in enumerate(said):
            pieces = [piece for delta in deltas for piece in delta.pieces]
            message = _message(pieces, asked.legacy_calls)
            logprobs = None if asked.logprobs is None else _logprobs(self._llm, deltas)
            calls = _Calls(asked.legacy_calls)
            calls.see(pieces)
            finish = calls.finish(deltas[-1])
            choices.append({"index": number, "message": message, "logprobs": logprobs, "finish_reason": finish})
        return {**head(asked, "chat.completion"), "choices": choices, "usage": spent.usage, **timings(spent)}


def _message(pieces: Sequence[Piece], legacy: bool) -> Record:
    """The assistant's message of an answer's pieces."""
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    calls = [piece for piece in pieces if isinstance(piece, Call)]
    message: Record = {"role": "assistant", "content": None if calls and not content else content}
    if thought:
        message["reasoning_content"] = thought
    made = []
    for call in calls:
        parts = (piece.text for piece in pieces if isinstance(piece, Arguments) and piece.index == call.index)
        function = {"name": call.name, "arguments": "".join(parts)}
        made.append({"id": call.id, "type": "function", "function": function})
    if made and legacy:
        message["function_call"] = made[0]["function"]
    elif made:
        message["tool_calls"] = made
    return message


class _Calls:
    """Whether a choice has called tools, and the arguments of its newest call."""

    def __init__(self, legacy: bool) -> None:
        self._reason = "function_call" if legacy else "tool_calls"
        self._arguments: list[str] | None = None

    def see(self, pieces: Sequence[Piece]) -> None:
        """What has come of the choice."""
        for piece in pieces:
            if isinstance(piece, Call):
                self._arguments = []
            elif isinstance(piece, Arguments) and self._arguments is not None:
                self._arguments.append(piece.text)

    def finish(self, last: Delta) -> str:
        """Why the choice ended: by a call, unless that was cut short."""
        reason = last.finish or "length"
        if self._arguments is None or reason != "stop":
            return reason
        return reason if last.cut and not _is_json("".join(self._arguments)) else self._reason


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_told(piece: Piece, legacy: bool) -> bool:
    """Whether a delta has room for a piece: `function_call` has it for the first call."""
    return not (legacy and isinstance(piece, Call | Arguments) and piece.index)


def _said(piece: Piece, legacy: bool) -> Record:
    """A piece as the delta of a message."""
    if isinstance(piece, Content):
        return {"content": piece.text}
    if isinstance(piece, Thought):
        return {"reasoning_content": piece.text}
    if isinstance(piece, Call):
        function = {"name": piece.name, "arguments": ""}
        call: Record = {"index": piece.index, "id": piece.id, "type": "function", "function": function}
        return {"function_call": function} if legacy else {"tool_calls": [call]}
    part = {"arguments": piece.text}
    return {"function_call": part} if legacy else {"tool_calls": [{"index": piece.index, "function": part}]}


def _delta(number: int, delta: Record, logprobs: Record | None, finish: str | None) -> Record:
    return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(llm: Model, said: Sequence[Delta]) -> Record:
    """OpenAI's `logprobs` of a chat completion."""

    def entry(token: int, value: float) -> dict[str, Any]:
        raw = llm.tokenizer.token_bytes(token)
        return {"token": token_text(llm, token), "logprob": value, "bytes": list(raw)}

    return {
        "content": [
            {**entry(delta.token, delta.logprob), "top_logprobs": [entry(t, value) for t, value in delta.top]}
            for delta in said
            if delta.token is not None
        ],
        "refusal": None,
    }
