"""An answer in Anthropic's shapes: a message of blocks, or the events of its stream.

In: deltas, as they come. Out: thinking, text and tool_use blocks, in the order in which the model wrote them. A whole
message is made of the same events, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from secrets import token_hex
from typing import TYPE_CHECKING

from ggufpy.api.anthropic.fields import Record
from ggufpy.api.anthropic.versions import USUAL, Version
from ggufpy.api.anthropic.writing import BlockWriter, collected
from ggufpy.chat.syntax import Thought
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.api.openai.asked import Asked
    from ggufpy.api.openai.texts import Delta
    from ggufpy.api.shape import Spent


@dataclass(frozen=True)
class Telling:
    """How an answer is told. thoughts: whether they are told at all, shown: with their text. stops: the client's stop
    sequences. limit: `max_tokens`; 0 is a prompt that is read, without an answer. edits: whether `context_management`
    was asked for. version: how answers of it are."""

    thoughts: bool = False
    shown: bool = True
    stops: tuple[str, ...] = ()
    limit: int = 1
    edits: bool = False
    version: Version = USUAL


class MessageShape:
    """How a message is told; see `Shape`."""

    def __init__(self, asked: Asked, telling: Telling) -> None:
        self._asked, self._telling = asked, telling
        self._blocks = BlockWriter(telling.thoughts, telling.shown)
        self._thinking = self._count = 0  # tokens
        self._last: Delta | None = None
        self._id = f"msg_{token_hex(12)}"

    def prepare(self) -> None:
        """See `Shape`."""

    def begin(self) -> Iterator[Record]:
        """The message without its content. How much of the prompt is read from what is kept is not known yet: the
        counts of `message_delta` stand."""
        usage = {**_input(len(self._asked.tokens), 0), "output_tokens": 0, "service_tier": "standard"}
        yield {"type": "message_start", "message": self._message([], None, None, usage)}
        yield {"type": "ping"}

    def delta(self, number: int, delta: Delta) -> Iterator[Record]:
        """The events of what is said."""
        if delta.finish:
            self._last = delta
        if not self._telling.limit:
            return
        if delta.token is not None:
            self._count += 1
            self._thinking += any(isinstance(piece, Thought) for piece in delta.pieces)
        yield from self._blocks.events(delta.pieces)
        if delta.finish:
            yield from self._blocks.close()

    def end(self, spent: Spent) -> Iterator[Record]:
        """Why it ended and what it took."""
        reason, stop = self._stop()
        event: Record = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": stop, "stop_details": None},
            "usage": self._usage(spent),
        }
        yield {**event, **self._edits()}
        yield {"type": "message_stop"}

    def whole(self, said: Sequence[Sequence[Delta]], spent: Spent) -> Record:
        """A message in one record."""
        events = [event for delta in said[0] for event in self.delta(0, delta)]
        reason, stop = self._stop()
        usage = {**self._usage(spent), "service_tier": "standard"}
        return {**self._message(collected(events), reason, stop, usage), **self._edits()}

    def _message(self, content: list[Record], reason: str | None, stop: str | None, usage: Record) -> Record:
        made: Record = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._asked.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "stop_details": None,
            "usage": usage,
        }
        return made if self._telling.version.named else {**made, "truncated": False, "exception": None}

    def _edits(self) -> Record:
        """What was done to a conversation that may be edited: nothing."""
        return {"context_management": {"applied_edits": []}} if self._telling.edits else {}

    def _usage(self, spent: Spent) -> Record:
        thoughts = {"thinking_tokens": self._thinking}
        return {
            **_input(spent.prompt, spent.cached),
            "output_tokens": self._count,
            "output_tokens_details": thoughts,
        }

    def _stop(self) -> tuple[str, str | None]:
        """`stop_reason` and `stop_sequence`."""
        last, telling = self._last, self._telling
        assert last is not None
        if last.finish == "length":
            full = telling.limit and self._count < telling.limit
            return "model_context_window_exceeded" if full else "max_tokens", None
        if not telling.limit:
            return "max_tokens", None
        if self._blocks.called and (self._blocks.complete or last.stop is None):
            return "tool_use", None
        return ("stop_sequence", last.stop) if last.stop in telling.stops else ("end_turn", None)


def _input(prompt: int, cached: int) -> Record:
    """Counts of a prompt: `input_tokens` are those that were not read from what is kept."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }
