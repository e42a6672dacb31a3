"""What all answers have, and how a token is named in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.model import Model, Record
from ggufpy.api.shape import Spent, TextSpent
from ggufpy.support.version import __version__

FINGERPRINT = f"ggufpy-{__version__}"  # what made the text, as far as we know: OpenAI's `system_fingerprint`


def head(asked: Asked, kind: str) -> Record:
    """The fields that every answer and every chunk begins with."""
    made = {"id": asked.id, "object": kind, "created": asked.created, "model": asked.model}
    return {**made, "system_fingerprint": FINGERPRINT}


def chunk_head(asked: Asked, kind: str) -> Record:
    """The same for a chunk that is not the last: where usage is wanted, those have a null for it."""
    return {**head(asked, kind), "usage": None} if asked.include_usage else head(asked, kind)


def timings(spent: Spent | TextSpent) -> Record:
    """llama-server's `timings`, to be put beside usage; nothing where nobody took the time (llama.cpp: tools/server).

    `prompt_n` are tokens that were evaluated, `cache_n` those that were read before, times are in ms.
    """
    if not (spent.prompt_seconds or spent.decode_seconds):
        return {}
    read = spent.prompt - spent.cached
    made: Record = {"cache_n": spent.cached}
    for name, count, seconds in (
        ("prompt", read, spent.prompt_seconds), ("predicted", spent.completion, spent.decode_seconds),
    ):  # fmt: skip
        made[f"{name}_n"] = count
        made[f"{name}_ms"] = 1e3 * seconds
        made[f"{name}_per_token_ms"] = 1e3 * seconds / count if count else 0.0
        made[f"{name}_per_second"] = count / seconds if seconds else 0.0
    return {"timings": made}


class Clock:
    """`timings` on every chunk, where they are wanted (llama-server's timings_per_token)."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._spent: Callable[[int], TextSpent] | None = None

    def account(self, spent: Callable[[int], TextSpent]) -> None:
        """Takes what says how much a choice has taken so far."""
        self._spent = spent

    def now(self, number: int) -> Record:
        """What a chunk of a choice is to have."""
        return timings(self._spent(number)) if self._wanted and self._spent is not None else {}


class Last:
    """Holds back the last chunk of a stream with a `finish_reason`, so that what the call took can go on it."""

    def __init__(self, asked: Asked, kind: str) -> None:
        self._asked, self._kind = asked, kind
        self._running = len(asked.samplings)
        self._held: list[Record] = []

    def finished(self, chunk: Record) -> Iterator[Record]:
        """A choice ends with this chunk."""
        self._running -= 1
        if self._running:
            yield chunk
        else:
            self._held.append(chunk)

    def end(self, spent: Spent) -> Iterator[Record]:
        """The last chunks: llama-server has `timings` on the very last, be it the one with usage."""
        times = timings(spent)
        if self._asked.include_usage:
            yield from self._held
            yield {**head(self._asked, self._kind), "choices": [], "usage": spent.usage, **times}
        else:
            yield from ({**chunk, **times} for chunk in self._held)


def token_text(llm: Model, token: int) -> str:
    """The text of one token; bytes that are no whole character become U+FFFD."""
    return llm.tokenizer.token_bytes(token).decode("utf-8", "replace")
