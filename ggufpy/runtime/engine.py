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
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.program import Loaded
from ggufpy.errors import GGUFError
from ggufpy.models.plan import Plan
from ggufpy.support import checks

from .chunks import Chunk, Placed, Placing, Wanted, Wanting, in_parts, lendable
from .holding import Pool
from .hooks import Hooks, on_the_cpu
from .pages import Pages
from .sequence import Sequence

if TYPE_CHECKING:  # what few steps want is imported by them: 10 ms of a start
    from ggufpy.backends.cpu.collect import Collector
    from ggufpy.backends.cpu.profile import Profile
    from ggufpy.backends.cpu.score import LogitRows
    from ggufpy.models.taps import Hook

    from .snapshots import GroupRows

__all__ = ["Chunk", "Engine"]

LARGEST_SCALE = 1e6  # of an adapter: far beyond any of use, and float32 has room for what comes of it
BULK = 17  # tokens of a text from which it is read in bulk

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def step_rows(plan: Plan, positions: int, sequences: int, n_batch: int) -> int:
    """The most rows that a step has: a whole context where tokens see what follows them."""
    most = max(n_batch, positions) if plan.whole_texts else n_batch
    return max(min(most, positions * sequences), sequences)


class Engine:
    """Steps of at most `rows` tokens on a model's program; sequences share its pages.

    Where tokens see what follows them, a step can have a whole context, whatever `n_batch` is. `prompt_seconds` is for
    whoever plans steps: how long prompts may keep texts waiting that are being written, 0 for any time.
    """

    def __init__(self, model: Loaded, n_batch: int, prompt_seconds: float = 0.0) -> None:
        self.prompt_seconds = prompt_seconds
        self._model = model
        self._n_batch = max(n_batch, model.positions) if model.plan.whole_texts else n_batch
        self._lock = threading.RLock()
        self.rows = step_rows(model.plan, model.positions, model.sequences, n_batch)
        self._program = model.program(self.rows)
        self._pools = tuple(
            Pool(group.cache, Pages(group.pages, partial(self._program.copy, i)), self.rows)
            for i, group in enumerate(self._program.groups)
        )
        self._placing = Placing(model, self._pools, self.rows, self._program.fill)
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
    def makes_logits(self) -> bool:
        """Whether it makes logits, not embeddings alone."""
        return self._model.plan.makes_logits

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

    def snapshot(self, sequence: Sequence, n: int) -> tuple[GroupRows, ...]:
        """What a sequence holds of its first n positions, as bytes that any process can put back with `restored`.

        Raises GGUFError as `Sequence.truncate` does.
        """
        from . import snapshots

        with self._alone():
            return snapshots.taken(sequence, n, self._program, self.cache_forms)

    def restored(self, groups: tuple[GroupRows, ...], n: int, scales: Items[float] = ()) -> Sequence:
        """A new sequence of n positions that holds what another did, here or elsewhere.

        Raises GGUFError for what was saved of a cache of other types or is damaged, and for a text that is too long.
        """
        from . import snapshots

        self.check_saved(groups, n)
        sequence = self.sequence(scales)
        with self._alone():
            snapshots.put_back(sequence, groups, n, self._program, self._pools)
        return sequence

    def check_saved(self, groups: tuple[GroupRows, ...], n: int) -> None:
        """Raises GGUFError for what `restored` would not take, as far as can be seen without reading all of it."""
        from . import snapshots

        if n > self.n_ctx:
            raise GGUFError(f"what was saved has {n} tokens, and the context holds {self.n_ctx}: use a larger n_ctx")
        snapshots.check(groups, n, self._program, self._pools)

    @cached_property
    def cache_forms(self) -> tuple[str, ...]:
        """What is kept of each group of layers."""
        from . import snapshots

        return snapshots.forms(self._pools, self._program)

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
        return self._placing.tokens(tokens)

    def step(self, chunks: Items[Chunk], out: Items[Floats] | None = None) -> list[Floats]:
        """Evaluates every chunk's tokens behind its sequence; the wanted logits of each, (rows, n_vocab), or its hidden
        states (rows, n_hidden).

        `out` is where logits go, one array a chunk; without it they are new, or lent (`Chunk.lent`). Raises GGUFError,
        before anything is changed, for tokens that are none, for more than `rows` of them, if a sequence or the cache
        is full, or for logits of a model that makes none.
        """
        with self._alone():
            placed = self._placing.place(chunks)
            parts, shapes = self._parts(placed), [self._shape(p) for p in placed]
            if out is not None and [array.shape for array in out] != shapes:
                raise ValueError(f"logits of {shapes} are wanted in arrays of {[array.shape for array in out]}")
            stay = lendable(placed, parts[-1]) if parts and out is None else frozenset()
            arrays = [np.empty((0, 0) if n in stay else shape, np.float32) for n, shape in enumerate(shapes)]
            arrays = arrays if out is None else list(out)
            self._evaluate(placed)
            for part in parts:
                logits = self._head(placed, part)
                for i, (_, n, at) in enumerate(part):
                    if n in stay:
                        arrays[n] = logits[i : i + 1]
                    else:
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
            placed = self._placing.place([chunk])
            self._evaluate(placed)
            for part in self._parts(placed):
                self._head(placed, part)
                take(part[0].at, on_the_cpu(self._program).logit_rows(len(part)))
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

        Hooks are by name, or by pattern ("blk.*.l_out"). Of hooks of one activation each is given what those that were
        there before it leave. values are float32, a row each, there during the call, and may be changed in place;
        `rows` says whose they are. What a hook raises ends its step, whose sequences stay as they were. A hook has no
        use of the engine. What is added as it is computed (attn_out, ffn_out) is computed apart: in bulk its last bits
        may differ from those without a hook. Raises GGUFError for a name that the plan does not have.
        """
        new = dict(checks.mapping("hooks", hooks))
        with self._alone():
            installed = self._hooks.begin(new)
        try:
            yield
        finally:
            with self._lock:
                self._hooks.end(installed)

    def activations(self) -> dict[str, tuple[int | None, ...]]:
        """What hooks can have, in order: by name the shape of a row, None for as many as there are positions."""
        from ggufpy.models.taps import activations

        return {name: place.shape for name, place in activations(self._model.plan).items()}

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

    def _evaluate(self, placed: list[Placed]) -> None:
        """The body of a step."""
        self._hooks.see(lambda: tuple(p.chunk.sequence for p in placed))
        self._program.run([p.rows for p in placed])

    def _advance(self, placed: list[Placed]) -> None:
        """Sequences are longer by their chunks, once a step is through; one that fails leaves them as they are."""
        for p in placed:
            p.chunk.sequence.advance(len(p.rows.tokens))
        self._hooks.forget()

    def _shape(self, p: Placed) -> tuple[int, int]:
        """Of what is wanted of a chunk."""
        return len(p.wanted), self.n_hidden if p.chunk.hidden else self.n_vocab

    def _parts(self, placed: list[Placed]) -> list[list[Wanting]]:
        return in_parts(placed, self._program.head_rows)

    def _head(self, placed: list[Placed], part: list[Wanting]) -> Floats:
        """Logits or hidden states of some rows, in memory of the program until the next call."""
        of = placed[part[0].chunk]
        compute = self._program.hidden if of.chunk.hidden else self._program.logits
        return compute([row for row, _, _ in part], of.rows.bulk)

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
