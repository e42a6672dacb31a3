"""Answers of /api/chat and /api/generate: records of a stream, or one that says the same.

A call of a tool is told once its arguments are whole, as an object. Lengths of time are in nanoseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ggufpy.api.ollama import moments
from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.model import Model
from ggufpy.api.openai.shapes import token_text
from ggufpy.api.openai.texts import Delta
from ggufpy.api.shape import Spent
from ggufpy.chat.syntax import Arguments, Call, Content, Piece, Thought
from ggufpy.support.records import dataclass

Record = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What some deltas say: text, thoughts, and calls that are whole."""

    content: str
    thinking: str
    calls: tuple[Record, ...]

    @property
    def says(self) -> bool:
        """Whether there is anything."""
        return bool(self.content or self.thinking or self.calls)


class Calls:
    """The calls of an answer, put together from their fragments."""

    def __init__(self) -> None:
        self._call: Call | None = None
        self._parts: list[str] = []

    def push(self, piece: Piece) -> Record | None:
        """The call that a piece shows to be over, if it does. Raises ValueError, with what came of it, for one that
        is no object."""
        if isinstance(piece, Arguments):
            self._parts.append(piece.text)
            return None
        if isinstance(piece, Content | Thought):
            return self.finish() if piece.text.strip() else None
        done = self.finish()
        self._call, self._parts = piece, []
        return done

    def finish(self) -> Record | None:
        """The call that is under way, which is over. Raises ValueError for one that is no object."""
        call, text = self._call, "".join(self._parts)
        if call is None:
            return None
        self._call = None
        try:
            arguments = json.loads(text or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError(f'{{"name": {json.dumps(call.name)}, "arguments": {text}')
        function = {"index": call.index, "name": call.name, "arguments": arguments}
        return {"id": call.id, "function": function}


class Teller:
    """What is said, piece by piece. `parsed`: deltas have pieces."""

    def __init__(self, parsed: bool) -> None:
        self._parsed, self._calls = parsed, Calls()

    def part(self, deltas: Sequence[Delta]) -> Part:
        """What some deltas say. A call that was cut short is told as the text that came of it."""
        if not self._parsed:
            return Part("".join(delta.text for delta in deltas), "", ())
        content: list[str] = []
        thinking: list[str] = []
        calls: list[Record] = []
        for delta in deltas:
            for piece in delta.pieces:
                self._over(self._calls.push, calls, content, piece)
                if isinstance(piece, Content):
                    content.append(piece.text)
                elif isinstance(piece, Thought):
                    thinking.append(piece.text)
            if delta.finish:
                self._over(self._calls.finish, calls, content)
        return Part("".join(content), "".join(thinking), tuple(calls))

    def _over(self, step: Any, calls: list[Record], content: list[str], *piece: Piece) -> None:
        try:
            call = step(*piece)
        except ValueError as error:
            content.append(str(error))
        else:
            if call is not None:
                calls.append(call)


class _Shape:
    """What both answers have in common."""

    def __init__(self, llm: Model, asked: Asked) -> None:
        self._llm, self._asked = llm, asked
        self._teller = Teller(asked.parser is not None)
        self._last = ""

    def prepare(self) -> None:
        """See `Shape`."""

    def begin(self) -> Iterator[Record]:
        """See `Shape`: a stream begins with what is said."""
        return iter(())

    def delta(self, number: int, delta: Delta) -> Iterator[Record]:
        """See `Shape`."""
        self._hear(delta)
        part = self._teller.part([delta])
        self._last = delta.finish or self._last
        if part.says or (self._asked.logprobs is not None and delta.token is not None):
            yield {**self._head(), **self._told(part), "done": False, **self._logprobs([delta])}

    def end(self, spent: Spent) -> Iterator[Record]:
        """See `Shape`."""
        yield {**self._head(), **self._told(Part("", "", ())), **self._done(spent), **self._spent(spent)}

    def whole(self, said: Sequence[Sequence[Delta]], spent: Spent) -> Record:
        """See `Shape`."""
        for delta in said[0]:
            self._hear(delta)
        self._last = said[0][-1].finish or ""
        told = self._told(self._teller.part(said[0]))
        return {**self._head(), **told, **self._done(spent), **self._spent(spent), **self._logprobs(said[0])}

    def _told(self, part: Part) -> Record:
        raise NotImplementedError

    def _hear(self, delta: Delta) -> None:
        """A delta has come."""

    def _done(self, spent: Spent) -> Record:
        return {"done": True, "done_reason": self._last or "stop"}

    def _head(self) -> Record:
        return {"model": self._asked.model, "created_at": moments.now()}

    def _spent(self, spent: Spent) -> Record:
        """Counts and times; those of a prompt have its cached tokens in them, as with ollama."""
        total = spent.wait_seconds + spent.prompt_seconds + spent.decode_seconds
        return {
            "total_duration": moments.nanoseconds(total),
            "load_duration": moments.nanoseconds(spent.load_seconds),
            "prompt_eval_count": spent.prompt,
            "prompt_eval_duration": moments.nanoseconds(spent.prompt_seconds),
            "eval_count": spent.completion,
            "eval_duration": moments.nanoseconds(spent.decode_seconds),
        }

    def _logprobs(self, said: Sequence[Delta]) -> Record:
        if self._asked.logprobs is None:
            return {}
        drawn = [(delta.token, delta) for delta in said if delta.token is not None]
        made = []
        for token, delta in drawn:
            entry = self._entry(token, delta.logprob)
            if delta.top:
                entry["top_logprobs"] = [self._entry(other, value) for other, value in delta.top]
            made.append(entry)
        return {"logprobs": made} if made else {}

    def _entry(self, token: int, value: float) -> Record:
        raw = self._llm.tokenizer.token_bytes(token)
        return {"token": token_text(self._llm, token), "logprob": value, "bytes": list(raw)}


class ChatShape(_Shape):
    """How a chat's answer is told."""

    def _told(self, part: Part) -> Record:
        message: Record = {"role": "assistant", "content": part.content}
        if part.thinking:
            message["thinking"] = part.thinking
        if part.calls:
            message["tool_calls"] = list(part.calls)
        return {"message": message}


class GenerateShape(_Shape):
    """How a text is told. With `goes_on` its end has the tokens of prompt and answer, as `context`."""

    def __init__(self, llm: Model, asked: Asked, goes_on: bool) -> None:
        super().__init__(llm, asked)
        self._goes_on, self._cut = goes_on, False
        self._drawn: list[int] = []

    def _hear(self, delta: Delta) -> None:
        if delta.token is not None:
            self._drawn.append(delta.token)
        self._cut = self._cut or delta.cut

    def _told(self, part: Part) -> Record:
        told: Record = {"response": part.content}
        return {**told, "thinking": part.thinking} if part.thinking else told

    def _done(self, spent: Spent) -> Record:
        done = super()._done(spent)
        if not self._goes_on:
            return done
        eos = self._llm.tokenizer.eos
        ends = [eos] if eos is not None and done["done_reason"] == "stop" and not self._cut else []
        return {**done, "context": [*self._asked.tokens, *self._drawn, *ends]}


def at_once(name: str, reason: str, chat: bool) -> Record:
    """The answer to a request that loads or unloads a model ("load", "unload")."""
    said: Record = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    return {"model": name, "created_at": moments.now(), **said, "done": True, "done_reason": reason}
