"""What sequences hold, and which of them begins as a new text does."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Literal

from .prefixes import Prefixes
from .sequence import Sequence

Kind = Literal["any", "bulk", "exact"]


@dataclass(eq=False)
class Held:
    """A sequence and the tokens that it holds, of which the first `bulk` were read in bulk.

    `whole`: so many of them were evaluated behind all that came before; after a shift these are not all.
    """

    sequence: Sequence
    tokens: list[int] = field(default_factory=list)
    bulk: int = 0
    whole: int | None = None
    cuts: int = 0  # how often it has lost tokens

    def read(self, tokens: list[int], in_bulk: bool) -> None:
        """These have been evaluated behind what there was."""
        if in_bulk and self.bulk == len(self.tokens):
            self.bulk += len(tokens)
        self.tokens += tokens

    def cut(self, count: int) -> None:
        """Keeps the first so many tokens, and nothing that was guessed behind them."""
        if self.sequence.n_past > count:
            self.sequence.truncate(count)
        if count < len(self.tokens):
            self.cuts += 1
            del self.tokens[count:]
        self.bulk = min(self.bulk, count)
        if self.whole is not None and count <= self.whole:
            self.whole = None

    def shift(self, keep: int, drop: int) -> None:
        """Forgets `drop` tokens behind the first `keep`."""
        self.cuts += 1
        self.sequence.shift(keep, drop)
        del self.tokens[keep : keep + drop]
        self.bulk = min(self.bulk, keep)
        self.whole = keep if self.whole is None else min(keep, self.whole)

    def hide(self) -> None:
        """No other text can begin with what it holds."""
        self.cuts += 1
        self.whole = 0

    def fork(self, count: int) -> Held:
        """Another that begins with the first so many tokens."""
        return Held(self.sequence.fork(count), self.tokens[:count], min(self.bulk, count))

    def readable(self, kind: Kind) -> int:
        """How many tokens, from the first, another text can begin with: read in any way, in bulk, or none in bulk."""
        whole = len(self.tokens) if self.whole is None else self.whole
        return {"any": whole, "bulk": min(self.bulk, whole), "exact": 0 if self.bulk else whole}[kind]


class Beginnings:
    """Finds the text that begins most as another does. What has been hashed of a text once is not hashed again."""

    def __init__(self) -> None:
        self._prefixes: dict[tuple[Kind, tuple[float, ...]], Prefixes[Held]] = {}  # by the scales of adapters too
        self._known: dict[Held, dict[Kind, tuple[int, int]]] = {}  # how much of each, after how many cuts

    def longest(
        self, some: Items[Held], text: list[int], kind: Kind, scales: tuple[float, ...] = ()
    ) -> tuple[Held, int] | None:
        """Of `some`, the one that shares most tokens of the text from the first on, and how many; None if none does.

        Adapters have these `scales`: what others have read is another text.
        """
        for gone in set(self._known).difference(some):
            self.forget(gone)
        prefixes = self._prefixes.setdefault((kind, scales), Prefixes())
        for held in some:
            if held.sequence.scales == scales:
                self._learn(prefixes, held, kind)
        return prefixes.longest(text)

    def _learn(self, prefixes: Prefixes[Held], held: Held, kind: Kind) -> None:
        known, now = self._known.setdefault(held, {}), (held.readable(kind), held.cuts)
        before = known.get(kind, (0, now[1]))
        if now == before:
            return
        if now[1] != before[1] or now[0] < before[0]:
            prefixes.remove(held)
        if now[0]:
            prefixes.grow(held, held.tokens[: now[0]])
        known[kind] = now

    def forget(self, held: Held) -> None:
        """It is not looked for any more."""
        for prefixes in self._prefixes.values():
            prefixes.remove(held)
        self._known.pop(held, None)
