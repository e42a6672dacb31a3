"""The engine: one step takes any mix of prompt chunks and single tokens of several sequences.

Rows of a step are *exact* or *bulk*, and stand in this order. Exact rows go through the products of decoding, bulk
rows through those that are fastest for many; both give the same bits whatever their company. Which a chunk's rows are
is said with the chunk, so that a text can be cut into steps anywhere. A level without bulk kernels for a model
(`backends/cpu/kernels/matmul_tiles.py`) has no bulk rows: there every row is exact.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.program import Loaded, Rows
from ggufpy.errors import GGUFError
from ggufpy.support import checks

from .holding import Pool
from .hooks import Hooks, on_the_cpu
from .pages import Pages
from .sequence import Sequence

if TYPE_CHECKING:  # what few steps want is imported by them: 10 ms of a start
    from ggufpy.backends.cpu.collect import Collector
    from ggufpy.backends.cpu.profile import Profile
    from ggufpy.backends.cpu.score import LogitRows
    from ggufpy.models.taps import Hook

LARGEST_SCALE = 1e6  # of an adapter: far beyond any of use, and float32 has room for what comes of it
BULK = 17  # tokens of a text from which it is read in bulk

Floats = NDArray[np.float32]
Wanted = Literal["none", "last", "all"]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """Tokens that a step appends to a sequence, and which of their logits are wanted.

    `logits` may be a range of the tokens' numbers, from 0 in this chunk. `bulk`: the rows go through bulk products
    where the model has them; otherwise they have the bits that tokens have when they are evaluated one by one.
    `Engine.reads_in_bulk` says it of a whole text. With `hidden`, what comes in place of logits is the final hidden
    state, which embeddings are made of (`Plan.hidden`).
    """

    sequence: Sequence
    tokens: Items[int]
    logits: Wanted | range = "last"
    bulk: bool = False
    hidden: bool = False


class _Placed(NamedTuple):
    """A chunk, the rows that its tokens have in the step, and those of them whose logits are wanted."""

    chunk: Chunk
    rows: Rows
    wanted: range


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


class Engine:
    """Steps of at most `rows` tokens on a model's program; sequences share its pages.

    Where tokens see what follows them, a step can have a whole context, whatever `n_batch` is.
    """

    def __init__(self, model: Loaded, n_batch: int) -> None:
        n_batch = max(n_batch, model.positions) if model.plan.whole_texts else n_batch
        self._model, self._n_batch = model, n_batch
        self._lock = threading.RLock()
        self.rows = max(min(n_batch, model.positions * model.sequences), model.sequences)
        self._program = model.program(self.rows)
        self._pools = tuple(
            Pool(group.cache, Pages(group.pages, partial(self._program.copy, i)), self.rows)
            for i, group in enumerate(self._program.groups)
        )
        self._hooks = Hooks(model.plan, self._program)

    @property
    def model(self) -> Loaded:
        return self._model

    @property
    def n_ctx(self) -> int:
        """Positions of a sequence."""
        return self._model.positions

    @property
    def parallel(self) -> int:
        """Sequences that a step can have, and that can be full at once."""
        return self._model.sequences

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary: the length of a row of logits."""
        return self._model.plan.vocabulary

    @property
    def kv_bytes(self) -> int:
        """Bytes of what all groups of layers keep when they are full."""
        return self._program.kv_bytes

    @property
    def n_embd(self) -> int:
        """The width of the model."""
        return self._model.plan.width

    @property
    def n_hidden(self) -> int:
        """The width of the final hidden state."""
        return self._model.plan.hidden[2]

    @property
    def whole_texts(self) -> bool:
        """Whether a text must be evaluated in one step, from its beginning."""
        return self._model.plan.whole_texts

    @property
    def n_threads(self) -> int:
        return self._model.threads

    @property
    def isa(self) -> str:
        """The SIMD level that the weights are packed for."""
        return self._model.isa

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed matrices, all of which are read for every token."""
        return self._model.weight_bytes

    @property
    def type_name(self) -> str:
        """The type that most of the matrices' bytes are in."""
        return self._model.type_name

    def prompt_flops(self, tokens: int) -> float:
        """Floating-point operations of the matrix products for a text, and for the logits of its last token."""
        return self._model.prompt_flops(tokens)

    @property
    def free_pages(self) -> int:
        """Pages of 128 positions that no sequence holds, in the group of layers that has fewest.

        A step has room if the `wants` of its sequences are no more together.
        """
        return min((pool.pages.free for pool in self._pools), default=0)

    def reads_in_bulk(self, count: int) -> bool:
        """Whether a text of so many tokens goes through bulk products, all of it, however it is cut into steps."""
        return self._model.bulk_rows and min(count, self._n_batch) >= BULK

    def sequence(self, scales: Items[float] = ()) -> Sequence:
        """A new, empty sequence; `scales` has one of each of the model's adapters, or nothing: then none counts.

        Raises GGUFError for other scales, or such as are no finite numbers.
        """
        made = Sequence(self._pools, self._model.positions, self._alone, self._move)
        made.scales = self._scales(scales)
        return made

    def _scales(self, scales: Items[float]) -> tuple[float, ...]:
        adapters = self._model.plan.adapters
        if len(scales) not in (0, adapters):
            raise GGUFError(f"{len(scales)} scales of adapters were given; the model has {adapters}")
        numbers = tuple(checks.number(f"the scale of adapter {i}", scale) for i, scale in enumerate(scales))
        if any(abs(scale) > LARGEST_SCALE for scale in numbers):
            raise GGUFError(f"scales of adapters are {list(numbers)}; they may be at most {LARGEST_SCALE:g}")
        return numbers

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuses a second thread, and a hook: buffers belong to one step at a time."""
        if not self._lock.acquire(blocking=False):
            raise GGUFError("the model is at work for another thread: use one at a time, or load it twice")
        try:
            if self._hooks.running:
                raise GGUFError("the model is in the middle of a step: a hook cannot have it do something else")
            yield
        finally:
            self._lock.release()

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
            if not 0 <= token < self.n_vocab:
                raise GGUFError(f"token {token:d} at {i} is not in the vocabulary of {self.n_vocab}")
        return np.array(items, np.int64)

    def _plain(self, items: list[int]) -> bool:
        """Whether they are Python's whole numbers, and tokens; quicker than to look at each."""
        return set(map(type, items)) == {int} and min(items) >= 0 and max(items) < self.n_vocab

    def _ids(self, chunks: Items[Chunk]) -> list[NDArray[np.int64]]:
        """The tokens of every chunk. Raises GGUFError for one that is not in the vocabulary."""
        if any(type(chunk.tokens) not in (list, tuple) for chunk in chunks):
            return [self.tokens(chunk.tokens) for chunk in chunks]
        items = list(chain.from_iterable(chunk.tokens for chunk in chunks))
        if not self._plain(items):
            return [self.tokens(chunk.tokens) for chunk in chunks]
        whole, ends = np.array(items, np.int64), list(accumulate(len(chunk.tokens) for chunk in chunks))
        return [whole[start:end] for start, end in zip((0, *ends), ends, strict=False)]

    def step(self, chunks: Items[Chunk], out: Items[Floats] | None = None) -> list[Floats]:
        """Evaluates every chunk's tokens behind its sequence; the wanted logits of each, (rows, n_vocab), or its hidden
        states (rows, n_hidden).

        `out` is where logits go, one array a chunk; without it they are new. Raises GGUFError, before anything is
        changed, for tokens that are none, for more than `rows` of them, if a sequence or the cache is full, or for
        logits of a model that makes none.
        """
        with self._alone():
            placed = self._place(chunks)
            shapes = [(len(p.wanted), self.n_hidden if p.chunk.hidden else self.n_vocab) for p in placed]
            arrays = [np.empty(shape, np.float32) for shape in shapes] if out is None else list(out)
            if [array.shape for array in arrays] != shapes:
                raise ValueError(f"logits of {shapes} are wanted in arrays of {[array.shape for array in arrays]}")
            self._evaluate(placed)
            for part, logits in self._heads(placed):
                for i, (n, at) in enumerate(part):
                    arrays[n][at] = logits[i]
            self._advance(placed)
            return arrays

    def read(
        self, sequence: Sequence, tokens: Items[int], logits: Wanted = "last", exact: bool = False, hidden: bool = False
    ) -> Floats:
        """Appends a text to a sequence, in as many steps as it takes; its wanted logits (rows, n_vocab).

        With `hidden` it is the final hidden states, (rows, n_hidden). `exact` gives rows the bits that they have when
        tokens are evaluated one by one, at the speed of small batches.
        """
        ids = self.tokens(tokens)
        bulk = not exact and self.reads_in_bulk(ids.size)
        count = {"none": 0, "last": min(ids.size, 1), "all": ids.size}[logits]
        out = np.empty((count, self.n_hidden if hidden else self.n_vocab), np.float32)
        sequence.reserve(ids.size)  # all or nothing
        for start in range(0, ids.size, self.rows):
            part = ids[start : start + self.rows]
            wanted: Wanted = "none" if logits == "last" and start + self.rows < ids.size else logits
            rows = {"none": out[:0], "last": out, "all": out[start : start + part.size]}[wanted]
            self.step([Chunk(sequence, part.tolist(), wanted, bulk, hidden)], [rows])
        return out

    def visit(self, chunk: Chunk, take: Callable[[int, LogitRows], None]) -> None:
        """Evaluates a chunk, and calls take(first, rows) with its wanted logits where they lie, a few rows at a time.

        `first` counts the wanted rows before these; `rows` is there during the call. Raises GGUFError as `step` does.
        """
        with self._alone():
            placed = self._place([chunk])
            self._evaluate(placed)
            for part, _ in self._heads(placed):
                take(part[0][1], on_the_cpu(self._program).logit_rows(len(part)))
            self._advance(placed)

    @contextmanager
    def collect(self, output: bool = False) -> Iterator[Collector]:
        """Steps within it add the squares of what matrices multiply to the collector's sums, `output`: the head's too.

        Logits keep their bits. Raises GGUFError if another thread is at work with the model, or collects already.
        """
        from ggufpy.backends.cpu.collect import Collector

        collector = Collector(output)
        with self._alone():
            self._hooks.collect(collector)
        try:
            yield collector
        finally:
            with self._lock:  # another thread's step ends before the sums that it adds to are dropped
                self._hooks.collect(None)

    @contextmanager
    def hooked(self, hooks: Mapping[str, Hook]) -> Iterator[None]:
        """Steps within it give activations (`models/taps.py`) to hooks: f(values, rows) → None, or other values.

        values are float32 (rows, width), there during the call, and may be changed in place; `rows` says whose they
        are. What a hook raises ends its step, whose sequences stay as they were. A hook has no use of the engine. What
        is added as it is computed (attn_out, ffn_out) is computed apart: in bulk its last bits may differ from those
        without a hook. Raises GGUFError for a name that the plan does not have, or that has a hook already.
        """
        new = dict(checks.mapping("hooks", hooks))
        with self._alone():
            self._hooks.begin(new)
        try:
            yield
        finally:
            with self._lock:
                self._hooks.end(new)

    @contextmanager
    def profile(self) -> Iterator[Profile]:
        """Steps within it are timed, call by call. Raises GGUFError if another thread is at work with the model."""
        from ggufpy.backends.cpu.profile import Profile

        with self._alone():
            program = on_the_cpu(self._program)
            profile = program.profile = Profile(program.model)
        try:
            yield profile
        finally:
            program.profile = None

    def _evaluate(self, placed: list[_Placed]) -> None:
        """The body of a step."""
        self._hooks.see(lambda: tuple(p.chunk.sequence for p in placed))
        self._program.run([p.rows for p in placed])

    def _advance(self, placed: list[_Placed]) -> None:
        """Sequences are longer by their chunks, once a step is through; one that fails leaves them as they are."""
        for p in placed:
            p.chunk.sequence.advance(len(p.rows.tokens))
        self._hooks.forget()

    def _place(self, chunks: Items[Chunk]) -> list[_Placed]:
        """Rows for every chunk. Raises GGUFError for what cannot be done."""
        ids = self._ids(chunks)
        counts = list(map(len, ids))
        if not chunks or not all(counts):
            raise GGUFError("a step needs at least one token of every sequence in it")
        if len(chunks) > self._model.sequences:
            raise GGUFError(f"{len(chunks)} sequences in a step: {self._model.sequences} are possible (n_parallel)")
        if (total := sum(counts)) > self.rows:
            raise GGUFError(f"{total} tokens in a step: {self.rows} are possible (n_batch)")
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
            placed.append(_Placed(chunk, rows, _wanted(chunk, count, row)))
        return placed

    def _first_rows(self, counts: Items[int], bulk: Items[bool]) -> Items[int]:
        """The first row of each chunk: exact ones, filled up once, and then the others, so that these stand close."""
        if not any(bulk):
            return list(accumulate(counts, initial=0))[:-1]
        rows, end = [0] * len(counts), 0
        for many in (False, True):
            for i in (i for i in range(len(counts)) if bulk[i] == many):
                rows[i], end = end, end + counts[i]
            end += -end % self._program.fill
        return rows

    def _heads(self, placed: list[_Placed]) -> Iterator[tuple[list[tuple[int, int]], Floats]]:
        """Computes logits or hidden states of the wanted rows, exact and bulk rows apart, some at a time.

        For each part: which chunk its rows are of and their numbers among those wanted of it; and what they have.
        """
        for bulk, hidden in sorted({(p.rows.bulk, p.chunk.hidden) for p in placed}):
            rows = [(row, n, i) for n, p in enumerate(placed) for i, row in enumerate(p.wanted)
                    if (p.rows.bulk, p.chunk.hidden) == (bulk, hidden)]  # fmt: skip
            compute = self._program.hidden if hidden else self._program.logits
            for start in range(0, len(rows), self._program.head_rows):
                part = rows[start : start + self._program.head_rows]
                found = compute([row for row, _, _ in part], bulk)
                yield [(n, i) for _, n, i in part], found

    def _move(self, group: int, tables: tuple[Ints, Ints], positions: range, drop: int) -> None:
        self._program.move(group, tables, positions, drop)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads. The engine cannot be used afterwards. Raises GGUFError while another thread's step runs."""
        with self._alone():
            self._program.close()

