"""From tokens to tokens: what a session has evaluated, the loop that samples, and stop strings.

In: token ids, a sampler, and possibly a drafter. Out: an iterator of token ids that evaluates one step at a time, only
when asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.generate.ownership import Owner
from ggufpy.generate.speculation import Drafter, Speculation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.sampling import Sampler
    from ggufpy.runtime import Session

    Floats = NDArray[np.float32]


class Context:
    """A session and the tokens that its key-value cache holds, in step even when a call is interrupted.

    The newest of them may be guesses (`guess`), which are no part of the text until they are confirmed. Whoever uses it
    holds `owner` meanwhile.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.owner = Owner()
        self._tokens: list[int] = []
        self._sure: int | None = None  # how many tokens are no guesses; None: all
        self._turn = 0
        self._whole: int | None = None  # after a shift: how many tokens were evaluated behind all that came before

    @property
    def turn(self) -> int:
        """Changes whenever a new caller takes the context over."""
        return self._turn

    @property
    def n_tokens(self) -> int:
        """How many tokens of the text are evaluated."""
        return self.session.n_past if self._sure is None else self._sure

    @property
    def room(self) -> int:
        """How many more tokens the context can hold."""
        return self.session.n_ctx - self.session.n_past

    def take(self) -> int:
        """Start a new turn, which ends any generation of an earlier one. Returns its number."""
        self.drop_guesses()
        self.owner.leave()
        self._turn += 1
        return self._turn

    def check_room(self, count: int) -> None:
        """Raise GGUFError, with nothing changed, unless `count` tokens fit behind the text."""
        if count > self.session.n_ctx - self.n_tokens:
            raise GGUFError(
                f"{count} tokens do not fit: {self.n_tokens} of the {self.session.n_ctx} "
                "in the context are taken; shorten the prompt, or load the model with a larger n_ctx (-c)"
            )

    def check_prompt(self, count: int) -> None:
        """Raise GGUFError unless a text may begin with `count` tokens."""
        if not count:
            raise GGUFError(
                "nothing to start from: the prompt is empty and the model adds no token of its own"
            )
        if count > self.session.n_ctx:
            raise GGUFError(
                f"the prompt is {count} tokens and the context holds {self.session.n_ctx}: "
                "shorten it, or load the model with a larger n_ctx (-c)"
            )

    def extend(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens` after what is there; raises GGUFError when they do not fit."""
        self.check_room(len(tokens))
        start = self.session.n_past
        try:
            self.session.eval(tokens)
        finally:  # an error or Ctrl-C may come between batches
            self._tokens[start:] = tokens[: self.session.n_past - start]

    def guess(self, newest: int, draft: Sequence[int]) -> Floats:
        """Evaluate `newest` and a draft of what follows: the logits after each, as if they had come one by one."""
        start, tokens = self.session.n_past, [newest, *draft]
        try:
            logits = self.session.eval_logits(tokens, exact=True)
        except BaseException:  # Ctrl-C too: between batches part of a draft may be in the cache
            self.session.truncate(start)
            raise
        self._tokens[start:] = tokens
        self._sure = start + 1
        return logits

    def confirm(self) -> None:
        """The first of the guesses is right, and part of the text."""
        self._sure = self.n_tokens + 1

    def drop_guesses(self) -> None:
        """Forget what was guessed and not confirmed."""
        if self._sure is not None:
            self.session.truncate(self._sure)
            self._sure = None

    def shift(self, keep: int, drop: int) -> None:
        """Forget `drop` tokens behind the first `keep`; the others move down."""
        try:
            self.session.shift(keep, drop)
            del self._tokens[keep : keep + drop]
        except BaseException:  # nobody knows what the cache holds now
            self.take()
            self.reset()
            raise
        self._whole = keep if self._whole is None else min(keep, self._whole)

    def rewind(self, tokens: Sequence[int]) -> None:
        """Make the context hold exactly `tokens`, evaluating only what follows the prefix it already holds.

        The last token is always evaluated, so that its logits are the session's newest. Nothing is taken over that
        was evaluated behind tokens forgotten since, so that the text alone decides (bulk rows aside: spec/flow.md).
        """
        self._resume(tokens, 0, self.session.n_past if self._whole is None else self._whole)

    def follow(self, tokens: Sequence[int], same: int) -> None:
        """As `rewind`, for a text that goes on and whose first `same` tokens are there; shifts do not matter."""
        self._resume(tokens, same, self.session.n_past)

    def _resume(self, tokens: Sequence[int], same: int, most: int) -> None:
        """Keep the common prefix of `tokens` and the context, `same` at least, `most` at most; evaluate the rest."""
        held = self._tokens
        limit = min(len(held), self.session.n_past, most, len(tokens) - 1)
        same = min(same, limit)
        while same < limit and held[same] == tokens[same]:
            same += 1
        self.session.truncate(same)
        if self._whole is not None and same <= self._whole:
            self._whole = None
        self.extend(tokens[same:])

    def reset(self) -> None:
        """Forget everything that was evaluated."""
        self.session.truncate(0)
        self._tokens.clear()
        self._sure = self._whole = None

    def logits(self, tokens: Sequence[int]) -> Floats:
        """Logits after each of `tokens`, float32 (len(tokens), n_vocab), in a fresh context and a new turn."""
        if len(tokens) > self.session.n_ctx:
            raise GGUFError(
                f"{len(tokens)} tokens are more than the context's {self.session.n_ctx}: use a larger n_ctx"
            )
        self.take()
        self.reset()
        try:
            return self.session.eval_logits(tokens)
        finally:
            self._tokens[:] = tokens[: self.session.n_past]


class Generation(Iterator[int]):
    """An iterator of generated token ids.

    `finish` says why it ended: "stop" (an end token) or "length" (context full). `logits` holds the float32
    (n_vocab,) that the newest token was drawn from. `drafter` guesses tokens, which changes nothing but the time it
    takes. With `keep`, a full context forgets half of what follows its first `keep` tokens, and goes on.
    """

    def __init__(
        self,
        context: Context,
        tokens: Sequence[int],
        sampler: Sampler,
        ends: frozenset[int],
        drafter: Drafter | None = None,
        keep: int | None = None,
    ) -> None:
        context.check_prompt(len(tokens))
        self.finish: str | None = None
        self.logits: Floats | None = None
        self._context = context
        self._prompt = list(tokens)
        self._sampler = sampler
        self._ends = ends
        self._keep = keep
        self._speculation = Speculation(drafter, ends)
        self._newest = self._prompt[-1]
        self._rows: deque[Floats] = deque()  # logits that tokens are still to be drawn from
        self._turn = 0

    @property
    def drafted(self) -> int:
        """How many tokens were guessed."""
        return self._speculation.drafted

    @property
    def accepted(self) -> int:
        """How many of the guessed tokens came."""
        return self._speculation.accepted

    def prefill(self) -> None:
        """Evaluate the prompt now rather than with the first token. GGUFError if another thread has the context."""
        with self._context.owner.held(self):
            self._begin()
            self._context.owner.keep(self)

    def close(self) -> None:
        """End here; it need not be called, but other threads can have the context then."""
        self.finish = self.finish or "length"
        self._context.owner.leave(self)

    def _begin(self) -> None:
        if self._turn:
            return
        turn = self._context.take()
        self._context.rewind(self._prompt)
        self._speculation.begin(self._prompt)
        for token in self._prompt:
            self._sampler.accept(token)
        self._rows.append(self._context.session.last_logits())
        self._turn = turn

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> int:
        if self.finish is not None:
            raise StopIteration
        owner = self._context.owner
        with owner.held(self):
            self._begin()
            if self._context.turn != self._turn:
                raise GGUFError(
                    "another call took over this model's context: finish one generation before the next, "
                    "or open the model twice"
                )
            owner.keep(self)
            token = self._advance()
            if token is None:
                owner.leave(self)
                raise StopIteration
            return token

    def _advance(self) -> int | None:
        """The next token, or None where the text ends."""
        if not self._rows and not self._step():
            self.finish = "length"
            return None
        self.logits = self._rows[0]
        token = int(self._sampler.sample(self.logits))
        if token in self._ends:
            self._context.drop_guesses()
            self.finish = "stop"
            return None
        self._sampler.accept(token)
        self._rows.popleft()
        if self._speculation.check(token):
            self._context.confirm()
        else:
            self._context.drop_guesses()
            self._rows.clear()
        self._newest = token
        return token

    def _step(self) -> bool:
        """Evaluate the newest token, with a draft behind it if there is one; False where the context is full."""
        context = self._context
        if not context.room and not self._make_room():
            return False
        draft = self._speculation.draft(context.room - 1)
        if draft:
            self._rows.extend(context.guess(self._newest, draft))
        else:
            context.extend([self._newest])
            self._rows.append(context.session.last_logits())
        return True

    def _make_room(self) -> bool:
        """Forget half of what follows the kept tokens; False if nothing may be forgotten."""
        held = self._context.session.n_past
        if self._keep is None or self._keep >= held:
            return False
        self._context.shift(self._keep, (held - self._keep + 1) // 2)
        return True


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
