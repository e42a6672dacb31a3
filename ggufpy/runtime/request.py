"""What the scheduler is asked for and what it tells: a `Request` goes in, `Token`, `Finished` and `Failed` come out."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .snapshots import Snapshot

Floats = NDArray[np.float32]
Take = Callable[[int, Floats], None]
Reuse = Literal["alike", "any", "none"]


class Sampler(Protocol):
    """Draws the tokens of one text. What may not come (a grammar) it knows itself."""

    def accept(self, token: int) -> None:
        """A token of the text, from the prompt or drawn."""

    def sample(self, logits: Floats) -> int:
        """The next token for logits (n_vocab,), which it neither changes nor keeps: they are there during the call."""


class Drafts(Protocol):
    """Guesses how one text goes on; counts the tokens that it guessed, and those of them that came."""

    drafted: int
    accepted: int

    def begin(self, tokens: Items[int]) -> None:
        """The prompt."""

    def draft(self, room: int) -> list[int]:
        """Tokens that may come next, at most `room`; `check` then wants to hear what came."""

    def check(self, token: int) -> bool:
        """Whether a token that has come is what was guessed. If not, the draft is over."""


@dataclass(eq=False)
class Request:
    """A prompt and how the text goes on. Without a sampler the prompt is read, and that is all.

    `ends`: tokens that end it (and are not part of it). `limit`: how many tokens may come. With `keep`, a full context
    forgets half of what follows its first `keep` tokens, and the text goes on. `take(first, logits)` gets the logits
    (n, n_vocab) of the prompt's tokens from `first` on, as they are read, or with `hidden` their final hidden states
    (n, n_hidden).

    `scales` has one of each of the model's adapters, or nothing: then none counts.

    `reuse` says which of what others have read counts as read: "alike" what was read as this prompt is going to be (in
    bulk or not), so that its tokens do not depend on what ran before; "any" whatever is there, so that a chat's next
    turn costs its new tokens only; "none".

    `told` says whether its tokens come with their logits, each a copy of a row of the vocabulary's length.

    `origin` is what a sequence once held of a text: its tokens count as read too. With `saves`, what the request has
    read at its end is taken out into `saved`; it has no sampler then.
    """

    prompt: Items[int]
    sampler: Sampler | None = None
    _: KW_ONLY
    ends: frozenset[int] = frozenset()
    limit: int | None = None
    keep: int | None = None
    drafts: Drafts | None = None
    take: Take | None = None
    hidden: bool = False
    told: bool = True
    reuse: Reuse = "alike"
    scales: tuple[float, ...] = ()
    origin: Snapshot | None = None
    saves: bool = False
    paused: bool = field(default=False, init=False)  # whether nobody wants its tokens now: it has no part in steps
    produced: list[int] = field(default_factory=list, init=False)
    taken: int = field(default=0, init=False)  # how many of those whoever asked has had
    text: list[int] = field(init=False)  # the prompt and what was produced, but for what a full context forgot
    evaluated: int = field(default=0, init=False)  # tokens of the text, from the first, that are in the cache for sure
    # "stop" (an end), "length" (limit or context), "read", "cancelled" or "error"
    finish: str | None = field(default=None, init=False)
    error: Exception | None = field(default=None, init=False)
    reused: int = field(default=0, init=False)  # tokens of the prompt that were read before it began
    begun: bool = field(default=False, init=False)  # whether it has had a place
    saved: Snapshot | None = field(default=None, init=False)
    _told: int = field(default=0, init=False)  # tokens of the prompt that the sampler knows

    def __post_init__(self) -> None:
        self.prompt, self.scales, self.text = tuple(self.prompt), tuple(self.scales), list(self.prompt)

    def begin(self) -> None:
        """What draws and what guesses get to know the prompt, once; after an interrupt the rest of it."""
        if self.begun:
            return
        if self.sampler is not None:
            while self._told < len(self.prompt):
                self.sampler.accept(self.prompt[self._told])
                self._told += 1
        if self.drafts is not None:
            self.drafts.begin(self.prompt)
        self.begun = True

    @property
    def moves(self) -> bool:
        """Whether all that is wanted is that what was read of a text is taken out, or put back."""
        return (self.saves or self.origin is not None) and self.sampler is None and self.take is None

    @property
    def done(self) -> bool:
        return self.finish is not None

    def cancel(self) -> None:
        """Ends the request before the next step; what it has produced stays."""
        if not self.done:
            self.finish = "cancelled"


class Token(NamedTuple):
    """A token of a request's text, and the logits (n_vocab,) that it was drawn from, if they are to be told."""

    request: Request
    token: int
    logits: Floats | None


class Finished(NamedTuple):
    """A request has ended, as its `finish` says."""

    request: Request


class Failed(NamedTuple):
    """A request has ended with an error, which is its own: the others go on."""

    request: Request
    error: Exception


Event = Token | Finished | Failed
