"""By how much attention weighs each position, for functions in Python: computed anew from queries and the cache.

In: what the fused kernel has left of a layer: queries, turned and scaled, the cache's pages and what came of them.
Out: probabilities for the functions; where these change them, other sums of values in place of the kernel's. A kernel
reads keys and values back into floats, the rest is NumPy's. Queries of bulk rows are not rounded to bf16 here, as those
of `kernels/attention_tiles.py` are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ggufpy.backends.program import Rows
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.models.ops import Attend, Heads, Tap
from ggufpy.models.taps import Hook
from ggufpy.support.records import dataclass

from .lowering import Call, Cut, Lowering
from .memory import Region
from .ops.attend import cache_constants
from .taps import Given, Run, ask
from .workspace import Workspace

CHUNK = 2048  # positions whose keys and values are floats at once
PIECE = 1 << 25  # bytes of probabilities that a function is given at once, if a row has no more

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Read = Callable[[int, int], tuple[Floats, Floats]]  # keys and values of positions from the first to before the last


@dataclass(frozen=True)
class CachedLayer:
    """Where a layer's keys and values are: arguments of `kv_read` by name, and its group's number."""

    heads: Heads
    code: Kernel
    arguments: Mapping[str, int | float]
    group: int

    def reader(self, part: Rows, run: Run) -> Read:
        """Reads what there is of a text; the positions that were read last are kept."""
        table = part.pages.address + self.group * 8 * part.pages.shape[1]

        @lru_cache(maxsize=1)
        def read(first: int, last: int) -> tuple[Floats, Floats]:
            return self._read(table, range(first, last), run)

        return read

    def _read(self, table: int, positions: range, run: Run) -> tuple[Floats, Floats]:
        """Keys and values (positions, heads, length) of some positions of a page table."""
        h, count = self.heads, len(positions)
        strides = {"k": 4 * h.shared * h.key_length, "v": 4 * h.shared * h.value_length}
        sizes = {"step": 8, "places": 16 * count, **{name: count * stride for name, stride in strides.items()}}
        room = Region(sum(sizes.values()) + 64 * len(sizes), "keys and values").parts(sizes)
        room["step"].view(np.int64, 1)[:] = count
        places = room["places"].view(np.int64, count, 2)
        places[:, 0], places[:, 1] = positions, table
        addresses = {f"{name}_ptr": room[name].at(0, size) for name, size in sizes.items()}
        values = {
            **self.arguments, **addresses, "k_stride": strides["k"], "v_stride": strides["v"], "n_kv": h.shared,
        }  # fmt: skip
        run(Call(self.code, values, frozenset(), frozenset()))
        keys = room["k"].view(np.float32, count, h.shared, h.key_length)
        return keys, room["v"].view(np.float32, count, h.shared, h.value_length)


def weights_cut(to: Lowering, op: Tap, attend: Attend, hooks: tuple[Hook, ...]) -> WeightsCut:
    """Where hooks are given the probabilities of an attention, which has just written the tap's buffer."""
    memory = to.parts.cache
    cache = memory.of(attend.layer)
    arguments = {
        "keys_ptr": cache.keys(attend.layer), "values_ptr": cache.values(attend.layer),
        "key_head_bytes": cache.key_head_bytes, "value_head_bytes": cache.value_head_bytes,
    }  # fmt: skip
    code = kernel("kv_read", **cache_constants(attend.heads, cache.shape))
    layer = CachedLayer(attend.heads, code, arguments, memory.group_of(attend.layer))
    sinks = None
    if attend.sinks is not None:
        sinks = to.parts.vectors[attend.sinks.name].view(np.float32, attend.heads.queries)
    return WeightsCut(op, attend, hooks, layer, (to.views.place(attend.q), to.views.place(op.x)), sinks)


@dataclass(frozen=True)
class WeightsCut(Cut):
    """`places` are the buffers of queries and of what attention gives, and their first columns."""

    op: Tap
    attend: Attend
    hooks: tuple[Hook, ...]
    layer: CachedLayer
    places: tuple[tuple[str, int], tuple[str, int]]
    sinks: Floats | None

    def give(self, given: Given, work: Workspace) -> None:
        """Has the hooks look at every text's probabilities, some rows at a time, and sums anew what they change."""
        h = self.attend.heads
        (q, q_at), (y, y_at) = self.places
        queries = work.rows_of(q)[:, q_at : q_at + h.queries * h.key_length]
        outputs = work.rows_of(y)[:, y_at : y_at + self.op.width]
        before = 0
        for part in given.parts:
            read = self.layer.reader(part, given.run)
            size = max(1, PIECE // (4 * h.queries * (part.position + len(part.tokens))))
            for start in range(0, len(part.tokens), size):
                count = min(size, len(part.tokens) - start)
                rows = slice(part.row + start, part.row + start + count)
                of_text = slice(before + start, before + start + count)
                seen = _sight(self.attend, part, start, count)
                self._give(given, of_text, _Piece(self.attend, queries[rows], seen, read, self.sinks), outputs[rows])
            before += len(part.tokens)

    def _give(self, given: Given, of_text: slice, piece: _Piece, y: Floats) -> None:
        values = piece.probabilities()
        unchanged = values.copy()
        ask(self.hooks, values, given.named(self.op.name, of_text))
        changed = (values != unchanged).any(axis=2)
        if changed.any():
            self._check(values, piece, given.about.position[of_text])
            by_head = y.reshape(len(y), self.attend.heads.queries, -1)  # a view
            by_head[changed] = piece.weighed(values)[changed]

    def _check(self, values: Floats, piece: _Piece, positions: Ints) -> None:
        """Raises GGUFError for a weight of what is not seen."""
        wrong = np.argwhere((values != 0) & ~piece.seen[:, None, :])
        if len(wrong):
            row, head, column = wrong[0]
            sees = np.flatnonzero(piece.seen[row])
            raise GGUFError(
                f"the hook of {self.op.name} gives position {column} {values[row, head, column]:g} for the token at "
                f"{positions[row]}, which sees {sees[0]} to {sees[-1]}: what a token does not see must stay 0"
            )


def _sight(op: Attend, part: Rows, start: int, count: int) -> NDArray[np.bool_]:
    """(rows, positions): what some rows of a text see, up to the last that any does. See `kernels/attention.py`."""
    own = part.position + start + np.arange(count)[:, None]
    known = part.position + len(part.tokens)
    if op.causal:
        end, first = own + 1, own + 1 - op.window if op.window else 0 * own
    else:
        half = op.window // 2 if op.window else known
        end, first = np.minimum(own + half + 1, known), own - half
    columns = np.arange(end.max())
    seen: NDArray[np.bool_] = (columns >= first) & (columns < end)
    return seen


@dataclass(frozen=True)
class _Piece:
    """Some rows of one text: queries (rows, heads · length), what they see (rows, positions), and what is cached."""

    op: Attend
    queries: Floats
    seen: NDArray[np.bool_]
    read: Read
    sinks: Floats | None

    def probabilities(self) -> Floats:
        """(rows, heads, positions)."""
        h, (rows, columns) = self.op.heads, self.seen.shape
        q = _by_shared(self.queries.reshape(rows, h.queries, h.key_length), h)
        values = np.zeros((rows, h.queries, columns), np.float32)
        for first, last in self._chunks():
            keys, _ = self.read(first, last)
            values[:, :, first:last] = _by_row(q @ keys.transpose(1, 2, 0), h, rows)
        if self.op.softcap:
            np.multiply(np.tanh(values / np.float32(self.op.softcap)), np.float32(self.op.softcap), out=values)
        np.copyto(values, np.float32(-np.inf), where=~self.seen[:, None, :])
        top = values.max(axis=2, keepdims=True)
        if self.sinks is not None:
            top = np.maximum(top, self.sinks[:, None])
        np.exp(np.subtract(values, top, out=values), out=values)
        total = values.sum(axis=2, keepdims=True)
        if self.sinks is not None:
            total = total + np.exp(self.sinks[:, None] - top)
        values /= total
        return values

    def weighed(self, weights: Floats) -> Floats:
        """(rows, heads, length): sums of values by (rows, heads, positions)."""
        h, rows = self.op.heads, len(weights)
        total = np.zeros((h.shared, rows * h.group, h.value_length), np.float32)
        for first, last in self._chunks():
            _, values = self.read(first, last)
            total += _by_shared(weights[:, :, first:last], h) @ values.swapaxes(0, 1)
        return _by_row(total, h, rows)

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Positions that any of the rows sees, some at a time."""
        first, end = int(self.seen.any(axis=0).argmax()), self.seen.shape[1]
        for start in range(first, end, CHUNK):
            yield start, min(start + CHUNK, end)


def _by_shared(x: Floats, h: Heads) -> Floats:
    """(rows, heads, n) as (key/value heads, rows · group, n): the queries that share a head stand together."""
    rows, _, n = x.shape
    shared: Floats = x.reshape(rows, h.shared, h.group, n).swapaxes(0, 1).reshape(h.shared, rows * h.group, n)
    return shared


def _by_row(x: Floats, h: Heads, rows: int) -> Floats:
    """The inverse of `_by_shared`."""
    n = x.shape[2]
    by_row: Floats = x.reshape(h.shared, rows, h.group, n).swapaxes(0, 1).reshape(rows, h.queries, n)
    return by_row
