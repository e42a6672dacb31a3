"""What a step is asked for: chunks of tokens, which are checked and given their rows before anything changes."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.program import Loaded, Rows
from ggufpy.errors import GGUFError

from .holding import Pool
from .sequence import Sequence

Wanted = Literal["none", "last", "all"]


@dataclass(frozen=True)
class Chunk:
    """Tokens that a step appends to a sequence, and which of their logits are wanted.

    `logits` may be a range of the tokens' numbers, from 0 in this chunk. `bulk`: the rows go through bulk products
    where the model has them; otherwise they have the bits that tokens have when they are evaluated one by one.
    `Engine.reads_in_bulk` says it of a whole text. With `hidden`, what comes in place of logits is the final hidden
    state, which embeddings are made of (`Plan.hidden`).

    `lent`: whoever asks looks at the logits before the engine's next step, so that a single row of them need not be
    copied out of its memory. A row of a large vocabulary takes longer to copy than to be looked at.
    """

    sequence: Sequence
    tokens: Items[int]
    logits: Wanted | range = "last"
    bulk: bool = False
    hidden: bool = False
    lent: bool = False


class Placed(NamedTuple):
    """A chunk, the rows that its tokens have in the step, and those of them whose logits are wanted."""

    chunk: Chunk
    rows: Rows
    wanted: range


class Wanting(NamedTuple):
    """A row of a step that something is wanted of: the number of its chunk, and its own among those wanted of that."""

    row: int
    chunk: int
    at: int


class Placing:
    """Finds the rows of chunks in steps of at most `rows`; exact ones are filled up to a multiple of `fill`."""

    def __init__(self, model: Loaded, pools: tuple[Pool, ...], rows: int, fill: int) -> None:
        self._model, self._pools, self._rows, self._fill = model, pools, rows, fill
        self._n_vocab = model.plan.vocabulary

    def place(self, chunks: Items[Chunk]) -> list[Placed]:
        """Rows for every chunk. Raises GGUFError for what cannot be done."""
        ids = self._ids(chunks)
        counts = list(map(len, ids))
        if not chunks or not all(counts):
            raise GGUFError("a step needs at least one token of every sequence in it")
        if len(chunks) > self._model.sequences:
            raise GGUFError(f"{len(chunks)} sequences in a step: {self._model.sequences} are possible (n_parallel)")
        if (total := sum(counts)) > self._rows:
            raise GGUFError(f"{total} tokens in a step: {self._rows} are possible (n_batch)")
        if len({id(chunk.sequence) for chunk in chunks}) < len(chunks):
            raise GGUFError("a sequence can have one chunk in a step")
        for chunk, count in zip(chunks, counts, strict=True):
            if not chunk.sequence.belongs_to(self._pools):
                raise GGUFError("the sequence has been closed, or belongs to another model")
            chunk.sequence.reserve(count)
            if not (chunk.hidden or chunk.logits == "none" or self._model.plan.makes_logits):
                raise GGUFError("the model has no output matrix: it makes embeddings, not text (ggufpy embed)")
        can = self._model.bulk_rows
        bulk = [can and chunk.bulk for chunk in chunks]
        placed, first = [], self._first_rows(counts, bulk)
        for chunk, part, count, row, many in zip(chunks, ids, counts, first, bulk, strict=True):
            s = chunk.sequence
            rows = Rows(part, row, s.n_past, s.table, many, s.scales)
            placed.append(Placed(chunk, rows, _wanted(chunk, count, row)))
        return placed

    def tokens(self, tokens: Items[int]) -> NDArray[np.int64]:
        """Tokens as an array. Raises GGUFError for one that is not in the vocabulary."""
        if not isinstance(tokens, Items | np.ndarray):
            raise GGUFError(f"tokens are a {type(tokens).__name__}; a sequence of whole numbers is wanted")
        items = tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)
        if self._plain(items):
            return np.array(items, np.int64)
        for i, token in enumerate(items):  # what is wrong, or a whole number of another kind
            if isinstance(token, bool) or not isinstance(token, int | np.integer):
                raise GGUFError(f"token {i} is a {type(token).__name__}; tokens are whole numbers")
            if not 0 <= token < self._n_vocab:
                raise GGUFError(f"token {token:d} at {i} is not in the vocabulary of {self._n_vocab}")
        return np.array(items, np.int64)

    def _plain(self, items: list[int]) -> bool:
        """Whether they are Python's whole numbers, and tokens; quicker than to look at each."""
        return set(map(type, items)) == {int} and min(items) >= 0 and max(items) < self._n_vocab

    def _ids(self, chunks: Items[Chunk]) -> list[NDArray[np.int64]]:
        """The tokens of every chunk. Raises GGUFError for one that is not in the vocabulary."""
        if any(type(chunk.tokens) not in (list, tuple) for chunk in chunks):
            return [self.tokens(chunk.tokens) for chunk in chunks]
        items = list(chain.from_iterable(chunk.tokens for chunk in chunks))
        if not self._plain(items):
            return [self.tokens(chunk.tokens) for chunk in chunks]
        whole, ends = np.array(items, np.int64), list(accumulate(len(chunk.tokens) for chunk in chunks))
        return [whole[start:end] for start, end in zip((0, *ends), ends, strict=False)]

    def _first_rows(self, counts: Items[int], bulk: Items[bool]) -> Items[int]:
        """The first row of each chunk: exact ones, filled up once, and then the others, so that these stand close."""
        if not any(bulk):
            return list(accumulate(counts, initial=0))[:-1]
        rows, end = [0] * len(counts), 0
        for many in (False, True):
            for i in (i for i in range(len(counts)) if bulk[i] == many):
                rows[i], end = end, end + counts[i]
            end += -end % self._fill
        return rows


def _wanted(chunk: Chunk, count: int, row: int) -> range:
    """The rows whose logits are wanted, of `count` from `row` on."""
    wanted = chunk.logits
    if wanted == "last":  # what most want
        return range(row + count - 1, row + count)
    if not isinstance(wanted, range):
        wanted = range(count if wanted == "none" else 0, count)
    elif wanted.step != 1 or not 0 <= wanted.start <= wanted.stop <= count:
        raise ValueError(f"logits of {wanted} are wanted, of {count} tokens")
    return range(row + wanted.start, row + wanted.stop)


def in_parts(placed: Items[Placed], most: int) -> list[list[Wanting]]:
    """The wanted rows as the head computes them, at most so many at a time: exact and bulk ones, logits and hidden
    states apart, and those last that are most."""
    alike: dict[tuple[bool, bool], list[Wanting]] = {}
    for n, p in enumerate(placed):
        rows = alike.setdefault((p.rows.bulk, p.chunk.hidden), [])
        rows += [Wanting(row, n, at) for at, row in enumerate(p.wanted)]
    ordered = sorted((alike[kind] for kind in sorted(alike)), key=len)
    return [rows[start : start + most] for rows in ordered for start in range(0, len(rows), most)]


def lendable(placed: Items[Placed], last: Items[Wanting]) -> frozenset[int]:
    """The chunks that need no copy of what the head computes last."""
    return frozenset(row.chunk for row in last if placed[row.chunk].chunk.lent and len(placed[row.chunk].wanted) == 1)
