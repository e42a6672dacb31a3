"""The engine: one step takes any mix of prompt chunks and single tokens of several sequences.

Rows of a step are *exact* or *bulk*, and stand in this order. Exact rows go through the products of decoding, bulk
rows through those that are fastest for many; both give the same bits whatever their company. Which a chunk's rows are
is said with the chunk, so that a text can be cut into steps anywhere. A level without bulk kernels for a model
(`kernels/matmul_tiles.py`) has no bulk rows: there every row is exact.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.kernels.kv_types import CHUNK
from ggufpy.plan import Attend, buffers

from .cache import KvCache
from .collect import Collector
from .memory import Region
from .model import Model
from .rope import RopeTable
from .sequence import Sequence
from .step import Span, Step
from .tape import GROUPS, MOST, Call, Kind, Lowering, Parts, Tape, Workspace
from .threads import Team

if TYPE_CHECKING:  # what few steps want is imported by them: 10 ms of a start
    from .profile import Profile
    from .score import LogitRows

HEAD_ROWS = 64  # rows of logits computed at a time
BULK = 17  # tokens of a text from which it is read in bulk

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """Tokens that a step appends to a sequence, and which of their logits are wanted.

    `logits` may be a range of the tokens' numbers, from 0 in this chunk. `bulk`: the rows go through bulk products
    where the model has them; otherwise they have the bits that tokens have when they are evaluated one by one.
    `Engine.reads_in_bulk` says it of a whole text.
    """

    sequence: Sequence
    tokens: Items[int]
    logits: Literal["none", "last", "all"] | range = "last"
    bulk: bool = False


@dataclass(frozen=True)
class _Placed:
    """A chunk's tokens and the rows that they have in the step."""

    chunk: Chunk
    ids: NDArray[np.int64]
    row: int
    bulk: bool

    @property
    def wanted(self) -> range:
        """The rows whose logits are wanted."""
        count, wanted = len(self.ids), self.chunk.logits
        if not isinstance(wanted, range):
            wanted = range({"none": count, "last": count - 1, "all": 0}[wanted], count)
        elif wanted.step != 1 or not 0 <= wanted.start <= wanted.stop <= count:
            raise ValueError(f"logits of {wanted} are wanted, of {count} tokens")
        return range(self.row + wanted.start, self.row + wanted.stop)


class Engine:
    """Buffers, tapes and threads for steps of at most `rows` tokens; sequences share its pages."""

    def __init__(self, model: Model, n_batch: int) -> None:
        plan, shape = model.plan, model.shape
        self._model, self._shape = model, shape
        self._lock = threading.RLock()
        self._cache = KvCache(plan.heads, plan.layers, shape, model.library.level.lanes, model.threads)
        self._rope = RopeTable(plan.rope)
        self.rows = max(min(n_batch, shape.positions * shape.sequences), shape.sequences)
        self._n_batch = n_batch
        rows = self.rows + MOST  # exact rows are filled up to whole groups when others follow
        body = {n: w for n, w in plan.widths.items() if n != "logits"}
        head = {n: plan.widths[n] for op in plan.head for n in buffers(op)}
        self._work = Workspace("body", body, model.forms(plan.body), rows)
        self._head = Workspace("head", head, model.forms(plan.head), min(HEAD_ROWS, self.rows))
        self._table = Region(rows * max(plan.rope.dimensions, 1) * 4, "rotary angles")
        self._x, self._logits = self._work.rows_of("x"), self._head.rows_of("logits")
        self._angles = self._table.view(np.float32, rows, plan.rope.dimensions // 2, 2)
        scratch = Region(max(model.scratch_bytes, 1) * model.threads, "scratch of products")
        self._parts = Parts(
            plan, model.matrices, model.vectors, self._cache, self._table, model.threads, model.bulk,
            model.tiled_attention, scratch,
        )
        self._source = Step(rows)  # where a shift reads
        self._tapes: dict[object, Tape] = {}
        self._team = Team(model.threads, model.library)
        self._collector: Collector | None = None
        self._profile: Profile | None = None

    @property
    def model(self) -> Model:
        return self._model

    @property
    def n_ctx(self) -> int:
        """Positions of a sequence."""
        return self._shape.positions

    @property
    def parallel(self) -> int:
        """Sequences that a step can have, and that can be full at once."""
        return self._shape.sequences

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary: the length of a row of logits."""
        return self._model.plan.vocabulary

    @property
    def kv_bytes(self) -> int:
        """Bytes of the key/value cache when it is full."""
        return self._cache.nbytes

    @property
    def free_pages(self) -> int:
        """Pages of 128 positions that no sequence holds."""
        return self._cache.free

    def reads_in_bulk(self, count: int) -> bool:
        """Whether a text of so many tokens goes through bulk products, all of it, however it is cut into steps."""
        return bool(self._model.bulk) and min(count, self._n_batch) >= BULK

    def sequence(self) -> Sequence:
        """A new, empty sequence."""
        return Sequence(self._cache, self._alone, self._shift)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuses a second thread: buffers belong to one step at a time."""
        if not self._lock.acquire(blocking=False):
            raise GGUFError("the model is at work for another thread: use one at a time, or load it twice")
        try:
            yield
        finally:
            self._lock.release()

    def tokens(self, tokens: Items[int]) -> NDArray[np.int64]:
        """Tokens as an array. Raises GGUFError for one that is not in the vocabulary."""
        if not isinstance(tokens, Items | np.ndarray):
            raise GGUFError(f"tokens are a {type(tokens).__name__}; a sequence of whole numbers is wanted")
        items = tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)
        for i, token in enumerate(items):
            if isinstance(token, bool) or not isinstance(token, int | np.integer):
                raise GGUFError(f"token {i} is a {type(token).__name__}; tokens are whole numbers")
            if not 0 <= token < self.n_vocab:
                raise GGUFError(f"token {token:d} at {i} is not in the vocabulary of {self.n_vocab}")
        return np.array(items, np.int64)

    def step(self, chunks: Items[Chunk], out: Items[Floats] | None = None) -> list[Floats]:
        """Evaluates every chunk's tokens behind its sequence; the wanted logits of each, (rows, n_vocab).

        `out` is where logits go, one array a chunk; without it they are new. Raises GGUFError, before anything is
        changed, for tokens that are none, for more than `rows` of them, or if a sequence or the cache is full.
        """
        with self._alone():
            placed = self._place(chunks)
            shapes = [(len(p.wanted), self.n_vocab) for p in placed]
            found = [np.empty(shape, np.float32) for shape in shapes] if out is None else list(out)
            if [array.shape for array in found] != shapes:
                raise ValueError(f"logits of {shapes} are wanted in arrays of {[array.shape for array in found]}")
            self._evaluate(placed)
            for part in self._heads(placed):
                for i, (n, at) in enumerate(part):
                    found[n][at] = self._logits[i, : self.n_vocab]
            return found

    def visit(self, chunk: Chunk, take: Callable[[int, LogitRows], None]) -> None:
        """Evaluates a chunk, and calls take(first, rows) with its wanted logits where they lie, a few rows at a time.

        `first` counts the wanted rows before these; `rows` is there during the call. Raises GGUFError as `step` does.
        """
        from .score import LogitRows

        with self._alone():
            placed = self._place([chunk])
            self._evaluate(placed)
            for part in self._heads(placed):
                take(part[0][1], LogitRows(self._head, len(part), self.n_vocab, self._model.threads, self._spread))

    def _spread(self, call: Call) -> None:
        """Runs one kernel on every thread."""
        Tape([call], self._model.library).run(self._team)

    @contextmanager
    def collect(self, output: bool = False) -> Iterator[Collector]:
        """Steps within it add the squares of what matrices multiply to the collector's sums, `output`: the head's too.

        Logits keep their bits. Raises GGUFError if another thread is at work with the model, or collects already.
        """
        plan = self._model.plan
        collector = Collector({"body": plan.body, **({"head": plan.head} if output else {})})
        with self._alone():
            if self._collector is not None:
                raise GGUFError("what the model multiplies is being summed already: end that first")
            self._collect_with(collector)
        try:
            yield collector
        finally:
            with self._lock:  # another thread's step ends before the sums that it adds to are dropped
                self._collect_with(None)

    @contextmanager
    def profile(self) -> Iterator[Profile]:
        """Steps within it are timed, call by call. Raises GGUFError if another thread is at work with the model."""
        from .profile import Profile

        profile = Profile(self._model)
        with self._alone():
            self._profile = profile
        try:
            yield profile
        finally:
            self._profile = None

    def _collect_with(self, collector: Collector | None) -> None:
        """Tapes hold the addresses of a collector's sums: they are made anew."""
        self._collector = collector
        self._tapes.clear()

    def _evaluate(self, placed: list[_Placed]) -> None:
        """The body of a step; sequences are longer by their chunks then."""
        self._fill(placed)
        self._run_body(sorted(placed, key=lambda p: p.row))
        for p in placed:
            p.chunk.sequence.advance(len(p.ids))

    def _place(self, chunks: Items[Chunk]) -> list[_Placed]:
        """Rows for every chunk. Raises GGUFError for what cannot be done."""
        ids = [self.tokens(chunk.tokens) for chunk in chunks]
        total = sum(map(len, ids))
        if not chunks or any(not len(part) for part in ids):
            raise GGUFError("a step needs at least one token of every sequence in it")
        if len(chunks) > self._shape.sequences:
            raise GGUFError(f"{len(chunks)} sequences in a step: {self._shape.sequences} are possible (n_parallel)")
        if total > self.rows:
            raise GGUFError(f"{total} tokens in a step: {self.rows} are possible (n_batch)")
        if len({id(chunk.sequence) for chunk in chunks}) < len(chunks):
            raise GGUFError("a sequence can have one chunk in a step")
        for chunk, part in zip(chunks, ids, strict=True):
            if not chunk.sequence.belongs_to(self._cache):
                raise GGUFError("the sequence has been closed, or belongs to another model")
            chunk.sequence.reserve(len(part))
        bulk = [chunk.bulk and bool(self._model.bulk) for chunk in chunks]
        rows = [0] * len(chunks)
        end = 0
        for many in (False, True):
            for i in (i for i in range(len(chunks)) if bulk[i] == many):
                rows[i], end = end, end + len(ids[i])
            end += -end % MOST  # exact rows are filled up once: bulk rows stand close together
        return [_Placed(*item) for item in zip(chunks, ids, rows, bulk, strict=True)]

    def _fill(self, placed: list[_Placed]) -> None:
        """Embeddings, angles, places and spans of the step."""
        work, width = self._work, self._x.shape[1]
        spans = []
        for p in placed:
            rows, position = slice(p.row, p.row + len(p.ids)), p.chunk.sequence.n_past
            embedded = self._model.embeddings(p.ids)
            self._x[rows, : embedded.shape[1]] = embedded
            self._x[rows, embedded.shape[1] : width] = 0.0
            self._rope.fill(np.arange(position, position + len(p.ids)), self._angles[rows])
            tiled = p.bulk and self._model.tiled_attention
            spans.append(Span(p.row, len(p.ids), position, p.chunk.sequence.table, tiled))
        spans.sort(key=lambda span: (span.kind, span.row))
        parts, base = [], 0
        for span in spans:
            if span.kind == 0:
                pages = span.position // CHUNK + 1
                parts.append(self._cache.parts.at(base, pages * self._cache.part_bytes))
                base += pages * self._cache.part_bytes
        work.step.set_spans(spans, parts)

    def _run_body(self, order: list[_Placed]) -> None:
        bulk = [p for p in order if p.bulk]
        exact = [p for p in order if not p.bulk]
        first = bulk[0].row if bulk else 0
        many = bulk[-1].row + len(bulk[-1].ids) - first if bulk else 0
        few = exact[-1].row + len(exact[-1].ids) if exact else 0
        self._work.step.set_rows(few, first, many)
        kind = Kind(_group(few), bool(bulk))

        def calls() -> list[Call]:
            return list(self._lowering(self._work, kind).calls(self._model.plan.body))

        self._run(("body", kind), calls, self._work)
        if self._collector is not None:
            self._collector.add_rows("body", few + many)

    def _heads(self, placed: list[_Placed]) -> Iterator[list[tuple[int, int]]]:
        """Computes logits of the wanted rows, exact and bulk rows apart, HEAD_ROWS at a time.

        For each part: which chunk its rows are of, and their numbers among those wanted of it.
        """
        for bulk in (False, True):
            rows = [(row, n, i) for n, p in enumerate(placed) for i, row in enumerate(p.wanted)
                    if p.bulk == bulk]  # fmt: skip
            for start in range(0, len(rows), self._head.rows):
                part = rows[start : start + self._head.rows]
                self._head.step.sources[: len(part)] = [row for row, _, _ in part]
                self._head_step(len(part), bulk)
                yield [(n, i) for _, n, i in part]

    def _head_step(self, count: int, bulk: bool) -> None:
        self._head.step.set_rows(0 if bulk else count, 0, count if bulk else 0)
        kind = Kind(0 if bulk else _group(count), bulk)

        def calls() -> list[Call]:
            lowering = self._lowering(self._head, kind)
            return [lowering.select(self._work, "x"), *lowering.calls(self._model.plan.head)]

        self._run(("head", kind), calls, self._head)
        if self._collector is not None:
            self._collector.add_rows("head", count)

    def _lowering(self, work: Workspace, kind: Kind) -> Lowering:
        return Lowering(self._parts, work, kind, self._collector)

    def _run(self, name: object, calls: Callable[[], list[Call]], work: Workspace) -> None:
        """Runs the tape of this name on a workspace, made by `calls` when it is first wanted."""
        if name not in self._tapes:
            self._tapes[name] = Tape(calls(), self._model.library)
        if self._profile is None:
            self._tapes[name].run(self._team)
        else:
            self._profile.run(self._tapes[name], self._team, work)

    def _shift(self, sequence: Sequence, positions: range, drop: int) -> None:
        """Moves positions down by `drop`, and turns their keys back by as many."""
        for start in range(positions.start, positions.stop, self.rows):
            count = min(self.rows, positions.stop - start)
            for step, first in ((self._source, start), (self._work.step, start - drop)):
                step.set_rows(count, 0, 0)
                step.set_spans([Span(0, count, first, sequence.table, tiled=True)], [])  # nothing attends
            self._rope.turn(np.full(count, -drop), self._angles[:count])
            self._run("shift", self._shift_calls, self._work)

    def _shift_calls(self) -> list[Call]:
        lowering = Lowering(self._parts, self._work, Kind(MOST, bulk=False))
        layers = [op for op in self._model.plan.body if isinstance(op, Attend)]
        calls = [(lowering.kv_read(op, self._source), lowering.rope_store(op, 0)) for op in layers]
        return [call for pair in calls for call in pair]

    def close(self) -> None:
        """Ends the threads. The engine cannot be used afterwards. Raises GGUFError while another thread's step runs."""
        with self._alone():
            self._team.close()


def _group(rows: int) -> int:
    """How many of so many exact rows share a reading of the weights."""
    return 0 if not rows else min(group for group in GROUPS if group >= min(rows, MOST))
