"""Runs what a call asks for: the texts of its choices, token by token.

In: an `Asked`. Out: deltas, each of one choice: what may be shown, the token behind it, and at its end the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.model import Model
from ggufpy.api.shape import Spent
from ggufpy.generate.stops import StopFilter
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.chat.syntax import Piece
    from ggufpy.generate.loop import Stream
    from ggufpy.runtime.request import Request

Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Delta:
    """One step of a choice. `pieces` is what a parser made of the text; without one they are none.

    `length` is how many characters the token has added, of which some may be held back; `stop` is the stop string that
    has ended the choice, wherever it stood.
    """

    text: str
    token: int | None = None
    logprob: float = 0.0
    top: Top = ()
    finish: str | None = None
    pieces: tuple[Piece, ...] = ()
    length: int = 0
    stop: str | None = None

    @property
    def cut(self) -> bool:
        """Whether a stop string has ended the choice."""
        return self.stop is not None


class Job:
    """One call at work: its choices side by side, as many as the model has room for. One thread at a time takes its
    deltas; any may `cancel`."""

    def __init__(self, llm: Model, asked: Asked) -> None:
        self.llm, self.asked = llm, asked
        self._texts = [_Text(llm, asked, i) for i in range(len(asked.samplings))]

    @property
    def spent(self) -> Spent:
        """Tokens, so far."""
        requests = [text.stream.request for text in self._texts]
        return Spent(*counts(self.asked, requests, [text.count for text in self._texts]))

    def deltas(self) -> Iterator[tuple[int, Delta]]:
        """The deltas of all choices, each with its choice's number."""
        self.llm.prompt_begins(self.asked.tokens)
        waiting = list(enumerate(self._texts))
        running: list[tuple[int, Iterator[Delta]]] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.llm.n_parallel():
                    number, text = waiting.pop(0)
                    running.append((number, text.deltas()))
                    if number == 0:  # the others begin behind what is read of its prompt
                        text.stream.prefill()
                for number, deltas in list(running):
                    delta = next(deltas, None)
                    if delta is None:
                        running.remove((number, deltas))
                    else:
                        yield number, delta
        finally:  # also where nobody wants the rest
            self.cancel()
            self.llm.prompt_done([*self.asked.tokens, *self._texts[0].stream.request.produced])

    def cancel(self) -> None:
        """Ends all choices before the next step; from any thread."""
        for text in self._texts:
            text.stream.close()


class Reader:
    """Makes deltas of one choice's tokens, in the order in which they come."""

    def __init__(self, llm: Model, asked: Asked) -> None:
        self._llm, self._asked = llm, asked
        self._decoder = llm.tokenizer.stream(shown=asked.shown)
        self._stop = StopFilter(asked.stop) if asked.stopper is None else asked.stopper()
        self._parser = asked.parser() if asked.parser is not None else None
        self.drawn: list[int] = []  # the tokens that have come

    @property
    def hit(self) -> bool:
        """Whether a stop string has come: no more tokens are wanted."""
        return self._stop.hit

    def push(self, token: int, logits: NDArray[np.float32] | None) -> Delta:
        """The delta of a token (its text may be empty), which was drawn from `logits` (n_vocab,)."""
        if self._asked.max_tokens == 0:
            return Delta("")
        self.drawn.append(token)
        whole = self._decoder.push(token)
        text = self._stop.push(whole)
        logprob, top = self._logprobs(token, logits)
        pieces = tuple(self._parser.push(text)) if self._parser else ()
        return Delta(text, token, logprob, top, pieces=pieces, length=len(whole))

    def finish(self, reason: str | None) -> Delta:
        """The delta at the end; `reason` is why the tokens ended, where no stop string has come."""
        rest = self._stop.push(self._decoder.flush()) + self._stop.flush()
        pieces = (*self._parser.push(rest), *self._parser.finish()) if self._parser else ()
        finish = "stop" if self._stop.found is not None else "length" if self.hit else reason or "length"
        if self._asked.max_tokens == 0:
            finish = "length"
        return Delta(rest, finish=finish, pieces=pieces, stop=self._stop.found)

    def keep(self) -> None:
        """What was said is kept as the tokens that it is made of, for the chat's next turn."""
        asked = self._asked
        if asked.chat is not None:
            self._llm.turns.keep(self._llm.tokenizer, asked.chat, asked.tokens, self.drawn)

    def _logprobs(self, token: int, logits: NDArray[np.float32] | None) -> tuple[float, Top]:
        if self._asked.logprobs is None or logits is None:
            return 0.0, ()
        known = logits[: self._llm.n_known()]  # padding has no text to be listed by
        logprob, top = top_logprobs(known, token, self._asked.logprobs)
        return logprob, tuple(top)


def counts(asked: Asked, requests: Sequence[Request], drawn: Sequence[int]) -> tuple[int, int, int]:
    """Tokens of all prompts, how many of them were read before a prompt's first choice began, and those that came."""
    prompts = sum(len(prompt.tokens) for prompt in asked.prompts)
    return prompts, sum(request.reused for request in requests[:: asked.per_prompt]), sum(drawn)


def stream_of(llm: Model, asked: Asked, number: int) -> Stream:
    """The tokens of one choice."""
    stream = llm.generate(
        asked.prompt(number).tokens,
        asked.samplings[number],
        limit=1 if asked.max_tokens == 0 else asked.max_tokens,  # one that nobody sees: its logits are what is read
        guides=asked.guides(),
        scales=asked.scales,
        reuse=asked.reuse,
        stopping_criteria=asked.criteria or None,
    )
    stream.request.told = asked.logprobs is not None  # else nobody looks at logits once a token is drawn
    return stream


class _Text:
    """One choice, whose tokens are evaluated as they are asked for."""

    def __init__(self, llm: Model, asked: Asked, number: int) -> None:
        self._reader = Reader(llm, asked)
        self.stream = stream_of(llm, asked, number)

    @property
    def count(self) -> int:
        """How many tokens have come."""
        return len(self._reader.drawn)

    def deltas(self) -> Iterator[Delta]:
        """A delta for every token, then one with a `finish`."""
        reader, stream = self._reader, self.stream
        try:
            for token in stream:
                yield reader.push(token, stream.logits)
                if reader.hit:
                    break
        finally:
            stream.close()
            reader.keep()
        yield reader.finish(stream.finish)


def top_logprobs(logits: NDArray[np.float32], token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural-log probability of `token`, and the `count` likeliest (id, log probability), best first."""
    import numpy as np

    wide: NDArray[Any] = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    best = _largest(wide, count)
    return float(wide[token]), [(int(i), float(wide[i])) for i in best]


def _largest(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Places of the `count` largest, largest first, equals by place."""
    import numpy as np

    if not count:
        return np.empty(0, np.intp)
    if count < len(values) // 8:
        bound = np.partition(values, len(values) - count)[len(values) - count]
        places = np.flatnonzero(values >= bound)
        return places[np.argsort(-values[places], kind="stable")[:count]]
    return np.argsort(-values, kind="stable")[:count]
