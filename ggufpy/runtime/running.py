"""A request that has a place: what of its text is evaluated, and its part of a step."""

from __future__ import annotations

from dataclasses import dataclass

from ggufpy.errors import GGUFError

from .chunks import Chunk, Wanted
from .held import Held
from .prefixes import common
from .request import Request


@dataclass(eq=False)
class Running:
    """A request with a place, and how many of its text's tokens, from the first, are to be read in bulk."""

    request: Request
    held: Held
    bulk: int

    @property
    def at(self) -> int:
        """How many tokens of the text are evaluated."""
        return len(self.held.tokens)

    @property
    def left(self) -> int:
        """How many are not."""
        return len(self.request.text) - self.at

    @property
    def in_bulk(self) -> bool:
        return self.at < self.bulk

    def readable(self, n_ctx: int) -> int:
        """How many of the text's next tokens one chunk can have."""
        here = n_ctx - self.at or 1  # at the end, the newest, for which there will be room
        return min(self.left, here, self.bulk - self.at if self.in_bulk else self.left)

    def shift(self, n_ctx: int) -> None:
        """Forgets half of what follows the tokens that are kept, if there is no room for the newest."""
        request, keep, at = self.request, self.request.keep, self.at
        if at < n_ctx or keep is None:
            return
        text, drop = list(request.text), (at - keep + 1) // 2
        del request.text[keep : keep + drop]
        try:
            self.held.shift(keep, drop)
            self.bulk = min(self.bulk, self.held.bulk)
        except GGUFError:  # windows no longer have what would be left: nothing has changed
            request.text[:], request.finish = text, "length"

    def draft(self, room: int, n_ctx: int) -> list[int]:
        """What may follow the newest token."""
        request = self.request
        if request.drafts is None or self.left != 1 or not request.produced:
            return []
        room = min(room, n_ctx - self.at - 1)
        if request.limit is not None:
            room = min(room, request.limit - len(request.produced) - 1)
        return request.drafts.draft(room)

    def agree(self) -> None:
        """Makes what is noted of the text what its sequence holds, after a step that was not made to its end.

        The newest token is evaluated again if nothing has been drawn behind it.
        """
        held, text = self.held, self.request.text
        held.cut(min(held.sequence.n_past, common(held.tokens, text), len(text) - 1))
        self.request.evaluated = self.at

    def fail(self, error: Exception) -> None:
        """Ends the request with an error."""
        self.request.finish, self.request.error = "error", error
        self.agree()


@dataclass(eq=False)
class Planned:
    """A running request's part of a step: a chunk of its text, and what may follow."""

    running: Running
    tokens: list[int]
    draft: list[int]

    @property
    def chunk(self) -> Chunk:
        r = self.running
        logits: Wanted = "last" if len(self.tokens) == r.left and r.request.sampler else "none"
        if self.draft or (r.request.take is not None and r.at < len(r.request.prompt)):
            logits = "all"
        return Chunk(r.held.sequence, self.tokens + self.draft, logits, r.in_bulk, r.request.hidden, logits == "last")
