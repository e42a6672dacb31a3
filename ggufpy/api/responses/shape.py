"""A response, whole and streamed: the record around its items, and the numbers of its events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ggufpy.api.openai.model import Model
from ggufpy.api.openai.shapes import token_text
from ggufpy.api.openai.texts import Delta
from ggufpy.api.responses.output import Output, Telling
from ggufpy.api.shape import Spent
from ggufpy.chat.syntax import Content, Thought

Record = dict[str, Any]


class ResponseShape:
    """How a response is told. `head` has the fields that it echoes, id and model among them; `keep` gets the finished
    record. `logprobs` says whether those of a text's tokens are told."""

    def __init__(
        self, llm: Model, head: Record, telling: Telling, keep: Callable[[Record], None], logprobs: bool = False
    ) -> None:
        self._llm, self._head, self._keep, self._logprobs = llm, head, keep, logprobs
        self._output = Output(telling)
        self._number = 0
        self._pending: list[Delta] = []  # tokens whose text is still held back
        self._thoughts = 0  # tokens of them
        self._finish = "length"

    def prepare(self) -> None:
        """See `Shape`."""

    def begin(self) -> Iterator[Record]:
        """The response exists, and is at work."""
        yield self._numbered({"type": "response.created", "response": self._record("in_progress")})
        yield self._numbered({"type": "response.in_progress", "response": self._record("in_progress")})

    def delta(self, number: int, delta: Delta) -> Iterator[Record]:
        """What is said."""
        yield from map(self._numbered, self._said(delta))

    def end(self, spent: Spent) -> Iterator[Record]:
        """The last items and the whole response, which is kept."""
        complete = self._finish == "stop"
        yield from map(self._numbered, self._output.finish(complete))
        record = self._final(spent, complete)
        yield self._numbered({"type": f"response.{record['status']}", "response": record})

    def whole(self, said: Sequence[Sequence[Delta]], spent: Spent) -> Record:
        """The response in one record."""
        for delta in said[0]:
            for _ in self._said(delta):
                pass
        complete = self._finish == "stop"
        for _ in self._output.finish(complete):
            pass
        return self._final(spent, complete)

    def _numbered(self, event: Record) -> Record:
        self._number += 1
        return {"type": event["type"], "sequence_number": self._number - 1, **event}

    def _said(self, delta: Delta) -> Iterator[Record]:
        """The events of a delta. Tokens without a text belong to the text that comes next."""
        if delta.finish:
            self._finish = delta.finish
        if delta.token is not None:
            self._pending.append(delta)
        logprobs: list[Record] = []
        if delta.pieces:
            if isinstance(delta.pieces[0], Thought):
                self._thoughts += len(self._pending)
            elif self._logprobs and isinstance(delta.pieces[-1], Content):
                logprobs = [_logprob(self._llm, one) for one in self._pending]
            self._pending.clear()
        for piece in delta.pieces:
            mine = logprobs if piece is delta.pieces[-1] else []
            yield from self._output.push(piece, mine)

    def _record(self, status: str, **more: Any) -> Record:
        return {**self._head, "status": status, "output": [], "usage": None, **more}

    def _final(self, spent: Spent, complete: bool) -> Record:
        usage = {
            "input_tokens": spent.prompt,
            "input_tokens_details": {"cached_tokens": spent.cached, "cache_write_tokens": 0},
            "output_tokens": spent.completion,
            "output_tokens_details": {"reasoning_tokens": self._thoughts},
            "total_tokens": spent.prompt + spent.completion,
        }
        details = None if complete else {"reason": "max_output_tokens"}
        record = self._record(
            "completed" if complete else "incomplete", output=self._output.items, usage=usage,
            incomplete_details=details, completed_at=int(time.time()) if complete else None,
        )  # fmt: skip
        self._keep(record)
        return record


def _logprob(llm: Model, delta: Delta) -> Record:
    """A token of the text with its alternatives."""
    assert delta.token is not None
    top = [_entry(llm, token, value) for token, value in delta.top]
    return {**_entry(llm, delta.token, delta.logprob), "top_logprobs": top}


def _entry(llm: Model, token: int, logprob: float) -> Record:
    return {"token": token_text(llm, token), "bytes": list(llm.tokenizer.token_bytes(token)), "logprob": logprob}
