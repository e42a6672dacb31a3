"""From tokens to tokens: what a session has evaluated, the loop that samples, and stop strings.

In: token ids and a sampler. Out: an iterator of token ids that evaluates one step at a time, only when asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.runtime import Session
    from ggufpy.sampling import Sampler

    Floats = NDArray[np.float32]


class Context:
    """A session and the tokens that its key-value cache holds, in step even when a call is interrupted."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._tokens: list[int] = []
        self._turn = 0

    @property
    def turn(self) -> int:
        """Changes whenever a new caller takes the context over."""
        return self._turn

    @property
    def room(self) -> int:
        """How many more tokens the context can hold."""
        return self.session.n_ctx - self.session.n_past

    def take(self) -> int:
        """Start a new turn, which ends any generation of an earlier one. Returns its number."""
        self._turn += 1
        return self._turn

    def extend(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens` after what is there; raises GGUFError when they do not fit."""
        if len(tokens) > self.room:
            raise GGUFError(
                f"{len(tokens)} tokens do not fit: {self.session.n_past} of the {self.session.n_ctx} "
                "in the context are taken; shorten the prompt, or load the model with a larger n_ctx (-c)"
            )
        start = self.session.n_past
        try:
            self.session.eval(tokens)
        finally:  # an error or Ctrl-C may come between batches
            self._tokens[start:] = tokens[: self.session.n_past - start]

    def rewind(self, tokens: Sequence[int]) -> None:
        """Make the context hold exactly `tokens`, evaluating only what follows the prefix it already holds.

        The last token is always evaluated, so that its logits are the session's newest.
        """
        held = self._tokens[: self.session.n_past]
        limit = min(len(held), len(tokens) - 1)
        same = next((i for i in range(limit) if held[i] != tokens[i]), limit)
        self.session.truncate(same)
        self.extend(tokens[same:])

    def reset(self) -> None:
        """Forget everything that was evaluated."""
        self.session.truncate(0)
        self._tokens.clear()

    def logits(self, tokens: Sequence[int]) -> Floats:
        """Logits after each of `tokens`, float32 (len(tokens), n_vocab), in a fresh context."""
        self.reset()
        if len(tokens) > self.room:
            raise GGUFError(
                f"{len(tokens)} tokens are more than the context's {self.session.n_ctx}: use a larger n_ctx"
            )
        try:
            return self.session.eval_logits(tokens)
        finally:
            self._tokens[:] = tokens[: self.session.n_past]


class Generation(Iterator[int]):
    """An iterator of generated token ids.

    `finish` says why it ended: "stop" (an end token) or "length" (context full). `logits` holds the float32
    (n_vocab,) that the newest token was drawn from.
    """

    def __init__(
        self, context: Context, tokens: Sequence[int], sampler: Sampler, ends: frozenset[int]
    ) -> None:
        if not tokens:
            raise GGUFError(
                "nothing to start from: the prompt is empty and the model adds no token of its own"
            )
        if len(tokens) > context.session.n_ctx:
            raise GGUFError(
                f"the prompt is {len(tokens)} tokens and the context holds {context.session.n_ctx}: "
                "shorten it, or load the model with a larger n_ctx (-c)"
            )
        self.finish: str | None = None
        self.logits: Floats | None = None
        self._context = context
        self._next = list(tokens)
        self._sampler = sampler
        self._ends = ends
        self._turn = 0

    def prefill(self) -> None:
        """Evaluate the prompt now rather than with the first token."""
        if self._turn:
            return
        self._turn = self._context.take()
        self._context.rewind(self._next)
        for token in self._next:
            self._sampler.accept(token)
        self._next = []

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> int:
        if self.finish is not None:
            raise StopIteration
        self.prefill()
        if self._context.turn != self._turn:
            raise GGUFError(
                "another call took over this model's context: finish one generation before the next, "
                "or open the model twice"
            )
        if self._next and not self._context.room:
            self.finish = "length"
            raise StopIteration
        if self._next:
            self._context.extend(self._next)
            self._next = []
        self.logits = self._context.session.last_logits()
        token = int(self._sampler.sample(self.logits))
        if token in self._ends:
            self.finish = "stop"
            raise StopIteration
        self._sampler.accept(token)
        self._next = [token]
        return token


class StopFilter:
    """Cuts a stream of text at the first of some strings, and never lets out the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Add text; returns what can be shown now. After `hit` nothing more comes out."""
        if self.hit or not self._stops:
            return "" if self.hit else text
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            out, self._held = self._held[: min(found)], ""
            return out
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        out = self._held[: len(self._held) - keep]
        self._held = self._held[len(out) :]
        return out

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def top_logprobs(logits: Floats, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural-log probability of `token`, and the `count` likeliest (id, log probability), best first."""
    import numpy as np

    wide: NDArray[Any] = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    best = np.argsort(-wide, kind="stable")[:count]
    return float(wide[token]), [(int(i), float(wide[i])) for i in best]
