"""Runs what a call asks for: the texts of its choices, token by token.

In: an `Asked`. Out: deltas, each of one choice: what may be shown, the token behind it, and at its end the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.model import Model, Record
from ggufpy.generate.stops import StopFilter
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.chat.syntax import Piece
    from ggufpy.generate.loop import Stream

Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Delta:
    """One step of a choice. `pieces` is what a parser made of the text; without one they are none.

    `length` is how many characters the token has added, of which some may be held back; `cut` whether a stop string
    has ended the choice, wherever it stood.
    """

    text: str
    token: int | None = None
    logprob: float = 0.0
    top: Top = ()
    finish: str | None = None
    pieces: tuple[Piece, ...] = ()
    length: int = 0
    cut: bool = False


class Job:
    """One call at work: its choices side by side, as many as the model has room for. One thread at a time takes its
    deltas; any may `cancel`."""

    def __init__(self, llm: Model, asked: Asked) -> None:
        self.llm, self.asked = llm, asked
        self._texts = [_Text(llm, asked, i) for i in range(len(asked.samplings))]

    @property
    def usage(self) -> Record:
        """OpenAI's counts, so far."""
        prompt, count = len(self.asked.tokens), sum(text.count for text in self._texts)
        cached = self._texts[0].cached
        return {
            "prompt_tokens": prompt,
            "completion_tokens": count,
            "total_tokens": prompt + count,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

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


class _Text:
    """One choice."""

    def __init__(self, llm: Model, asked: Asked, number: int) -> None:
        self._llm, self._asked = llm, asked
        self.count = 0  # tokens that have come
        self.stream: Stream = llm.generate(
            asked.tokens,
            asked.samplings[number],
            limit=asked.max_tokens,
            guides=asked.guides(),
            scales=asked.scales,
            stopping_criteria=asked.criteria or None,
        )

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were read before."""
        return self.stream.request.reused

    def deltas(self) -> Iterator[Delta]:
        """A delta for every token (its text may be empty), then one with a `finish`."""
        asked, stream = self._asked, self.stream
        decoder, stop = self._llm.tokenizer.stream(shown=asked.shown), StopFilter(asked.stop)
        parser = asked.parser() if asked.parser is not None else None
        try:
            for token in stream:
                self.count += 1
                whole = decoder.push(token)
                text = stop.push(whole)
                logprob, top = self._logprobs(token, stream)
                pieces = tuple(parser.push(text)) if parser else ()
                yield Delta(text, token, logprob, top, pieces=pieces, length=len(whole))
                if stop.hit:
                    break
        finally:
            stream.close()
            if asked.chat is not None:
                drawn = stream.request.produced[: self.count]
                self._llm.turns.keep(self._llm.tokenizer, asked.chat, asked.tokens, drawn)
        rest = stop.push(decoder.flush()) + stop.flush()
        pieces = (*parser.push(rest), *parser.finish()) if parser else ()
        finish = "stop" if stop.hit else stream.finish or "length"
        yield Delta(rest, finish=finish, pieces=pieces, cut=stop.hit)

    def _logprobs(self, token: int, stream: Stream) -> tuple[float, Top]:
        if self._asked.logprobs is None or stream.logits is None:
            return 0.0, ()
        logits = stream.logits[: self._llm.n_known()]  # padding has no text to be listed by
        logprob, top = top_logprobs(logits, token, self._asked.logprobs)
        return logprob, tuple(top)


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
