"""One answer: asked for, shown as it comes, stopped by Ctrl-C, counted.

In: a model and messages. Out: the assistant's message and what it took.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Protocol

from ggufpy.commands._chat.conversation import Message
from ggufpy.support.records import dataclass


class Prompt(Protocol):
    """A prompt; `ChatPrompt` of ggufpy.api is one."""

    @property
    def tokens(self) -> list[int]: ...


class Model(Protocol):
    """What a chat needs of a loaded model; `ggufpy.Llama` is one."""

    @property
    def name(self) -> str: ...
    @property
    def n_tokens(self) -> int: ...
    def n_ctx(self) -> int: ...
    def n_vocab(self) -> int: ...
    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], offer: None = None, **variables: Any) -> Prompt: ...
    def create_chat_completion(
        self, messages: Sequence[Mapping[str, Any]], max_tokens: int | None = None, *, stream: bool = False,
        **options: Any,
    ) -> Any: ...  # fmt: skip


class Shown(Protocol):
    """Where an answer is shown."""

    def begin(self) -> None: ...
    def thought(self, text: str) -> None: ...
    def content(self, text: str) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True)
class Counts:
    """What an answer took, in tokens. `cached` of the prompt's were evaluated before; rates are tokens a second, None
    where there is nothing to measure. `finish` is "stop", "length" or "interrupt"."""

    prompt: int
    cached: int
    tokens: int
    rate: float | None
    seconds: float
    finish: str

    @property
    def context(self) -> int:
        """Tokens of the context that are taken."""
        return self.prompt + self.tokens

    def line(self, n_ctx: int) -> str:
        """For people."""
        fresh = max(self.prompt - self.cached, 0)
        rate = f" ({self.rate:.1f} t/s)" if self.rate else ""
        return (
            f"prompt {self.prompt:,} tokens, {fresh:,} of them evaluated; answer {self.tokens:,} tokens{rate}; "
            f"{self.seconds:.1f} s; context {self.context:,} of {n_ctx:,}"
        )


class Interrupts:
    """Within it Ctrl-C ends a wait for the model at once, and anything else after it is done: nothing that is being
    drawn is torn, unless Ctrl-C is pressed again."""

    def __init__(self) -> None:
        self.came = False
        self._waiting = False

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        again, self.came = self.came, True
        if self._waiting or again:
            raise KeyboardInterrupt

    def each(self, chunks: Iterator[Any]) -> Iterator[Any]:
        """What comes of `chunks` before Ctrl-C."""
        while not self.came:
            self._waiting = True
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            finally:
                self._waiting = False
            yield chunk


@dataclasses.dataclass
class _Coming:
    """What has come of an answer."""

    content: list[str] = dataclasses.field(default_factory=list)
    thought: list[str] = dataclasses.field(default_factory=list)
    finish: str = "interrupt"
    usage: Mapping[str, Any] | None = None
    first: float | None = None  # when its first text came
    last: float = 0.0

    def take(self, chunk: Mapping[str, Any], out: Shown) -> None:
        """One chunk of the stream, to be shown."""
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            delta = choice["delta"]
            thought, content = delta.get("reasoning_content"), delta.get("content")
            if not thought and not content:
                continue
            self.last = time.perf_counter()
            self.first = self.first or self.last
            if thought:
                self.thought.append(thought)
                out.thought(thought)
            if content:
                self.content.append(content)
                out.content(content)

    def message(self) -> Message:
        """The assistant's message; some templates want to have its thoughts back."""
        made: Message = {"role": "assistant", "content": "".join(self.content)}
        return {**made, "reasoning_content": "".join(self.thought)} if self.thought else made


def answer(
    llm: Model, messages: Sequence[Message], options: Mapping[str, Any], out: Shown, prompt: int
) -> tuple[Message | None, Counts]:
    """Shows the answer to `messages`, whose prompt has so many tokens. None in place of it where nothing came.

    Ctrl-C ends it with what has come. Raises GGUFError for what the model cannot do, before anything is shown of it.
    """
    started = time.perf_counter()
    chunks = llm.create_chat_completion(messages, stream=True, stream_options={"include_usage": True}, **options)
    coming = _Coming()
    out.begin()
    try:
        with Interrupts() as interrupts:
            try:
                for chunk in interrupts.each(chunks):
                    coming.take(chunk, out)
            except KeyboardInterrupt:
                coming.finish = "interrupt"
            finally:
                chunks.close()
    finally:
        out.end()
    if interrupts.came:
        coming.finish = "interrupt"
    counts = _counts(coming, prompt, llm.n_tokens, time.perf_counter() - started)
    return coming.message() if coming.content or coming.thought else None, counts


def _counts(coming: _Coming, prompt: int, evaluated: int, seconds: float) -> Counts:
    """From the stream's usage; an answer that was stopped has none, and is counted by what is evaluated."""
    cached, tokens = 0, 0
    if coming.usage is not None:
        prompt, tokens = coming.usage["prompt_tokens"], coming.usage["completion_tokens"]
        cached = coming.usage["prompt_tokens_details"]["cached_tokens"]
    elif coming.first is not None:
        tokens = max(evaluated - prompt, 0) + 1  # the newest is not evaluated
    span = coming.last - (coming.first or 0.0)
    rate = (tokens - 1) / span if tokens > 1 and span > 0 else None
    return Counts(prompt, cached, tokens, rate, seconds, coming.finish)
