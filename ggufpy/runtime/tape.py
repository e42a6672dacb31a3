"""From a plan to tapes: every op becomes kernel calls with arguments filled in, and barriers where results are awaited.

All addresses that kernels see are taken here, from regions of checked size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.kernels.cache import Library
from ggufpy.kernels.layout import BLOCK, quantised_row_bytes
from ggufpy.kernels.spec import Kernel, kernel, load_source
from ggufpy.kernels.tape import COUNTER, STAMP
from ggufpy.kernels.to_tiles import tiles_bytes
from ggufpy.plan import Attend, Heads, MatMul, Norm, Op, Plan, SwiGlu

from .cache import CacheShape, KvCache
from .collect import Collector
from .memory import Region
from .step import Step
from .threads import Team, clock_address, yield_address
from .weights import Matrix

GROUPS = (1, 2, 4)  # activations that share one reading of the weights: kernels are made for each
MOST = GROUPS[-1]
COUNTED = "next"  # the argument by which threads take turns


@dataclass(frozen=True)
class Forms:
    """Buffers that matrices read as 8-bit rows, their bulk rows too, and as bf16 tiles."""

    quantised: frozenset[str]
    quantised_in_bulk: frozenset[str]
    tiled: frozenset[str]


@dataclass(frozen=True)
class Call:
    """One kernel call: its arguments by field name, the buffers it reads and writes, and the op that it is part of."""

    kernel: Kernel
    arguments: Mapping[str, int | float]
    reads: frozenset[str]
    writes: frozenset[str]
    op: Op | None = None


class Workspace:
    """Buffers for steps of at most `rows` rows: floats, 8-bit rows or tiles where a matrix wants them, and the step."""

    def __init__(self, name: str, widths: Mapping[str, int], forms: Forms, rows: int) -> None:
        self.name, self.rows, self.step = name, rows, Step(rows)
        self.forms = forms
        self.columns = {name: -(-width // BLOCK) * BLOCK for name, width in widths.items()}
        whole = -(-rows // MOST) * MOST  # matrix kernels compute whole groups
        self.floats = {n: Region(whole * 4 * c, f"buffer {n}") for n, c in self.columns.items()}
        sizes = {n: quantised_row_bytes(self.columns[n]) for n in forms.quantised}
        self.codes = {n: Region(whole * size, f"buffer {n}") for n, size in sizes.items()}
        tiled = {n: tiles_bytes(rows, self.columns[n] // BLOCK) for n in forms.tiled}
        self.tiles = {n: Region(size, f"buffer {n}") for n, size in tiled.items()}

    def address(self, name: str) -> int:
        region = self.floats[name]
        return region.at(0, self.rows * self.stride(name))

    def stride(self, name: str) -> int:
        return 4 * self.columns[name]

    def codes_address(self, name: str) -> int:
        """The 8-bit rows of a buffer, or 0 if no matrix reads it that way."""
        return self.codes[name].at(0, self.rows * self.codes_stride(name)) if name in self.codes else 0

    def codes_stride(self, name: str) -> int:
        return quantised_row_bytes(self.columns[name]) if name in self.codes else 0

    def tiles_address(self, name: str) -> int:
        return self.tiles[name].at(0, self.tiles[name].nbytes)

    def rows_of(self, name: str) -> NDArray[np.float32]:
        """The buffer as (rows, padded columns)."""
        return self.floats[name].view(np.float32, self.rows, self.columns[name])


@dataclass(frozen=True)
class Parts:
    """What a plan's ops refer to: packed matrices, vectors padded to whole blocks, the cache, angles of the step."""

    plan: Plan
    matrices: Mapping[str, Matrix]
    vectors: Mapping[str, Region]
    cache: KvCache
    table: Region
    threads: int
    bulk: Mapping[str, Kernel]  # matrices whose bulk rows have a kernel of their own
    tiled_attention: bool  # of bulk rows
    scratch: Region


@dataclass(frozen=True)
class Kind:
    """Steps that share a tape: how many exact rows share a reading of the weights (0: there are none), and whether
    there are bulk rows."""

    group: int
    bulk: bool


class Lowering:
    """Turns ops into calls on one workspace, for one kind of step."""

    def __init__(self, parts: Parts, work: Workspace, kind: Kind, collector: Collector | None = None) -> None:
        self._parts, self._work, self._kind = parts, work, kind
        self._tiled: set[str] = set()  # buffers whose tiles are up to date
        self._collector = collector if collector is not None and collector.wants(work.name) else None
        self._collected: set[str] = set()  # buffers whose squares have been added up

    def calls(self, ops: Sequence[Op]) -> Iterator[Call]:
        for op in ops:
            for call in self._calls(op):
                yield replace(call, op=op)

    def _calls(self, op: Op) -> Iterator[Call]:
        if isinstance(op, Norm):
            yield self._norm(op)
        elif isinstance(op, MatMul):
            if self._collector is not None and op.x not in self._collected:
                yield self._collect(op, self._collector)
                self._collected.add(op.x)
            yield from self._matmul(op)
        elif isinstance(op, SwiGlu):
            yield self._swiglu(op)
        else:
            yield from self._attend(op)

    def _call(
        self, code: Kernel, arguments: Mapping[str, int | float], reads: Sequence[str], writes: Sequence[str]
    ) -> Call:
        name = self._work.name
        self._tiled.difference_update(writes)
        self._collected.difference_update(writes)
        read, written = (frozenset(f"{name}:{buffer}" for buffer in names) for names in (reads, writes))
        return Call(code, arguments, read, written)

    def _codes(self, buffer: str) -> int:
        """Where 8-bit rows of a buffer go; 0 if no matrix reads them in this kind of step."""
        wanted = self._kind.group or buffer in self._work.forms.quantised_in_bulk
        return self._work.codes_address(buffer) if wanted else 0

    def _norm(self, op: Norm) -> Call:
        w = self._work
        columns = w.columns[op.x]
        values = {
            "step": w.step.all_rows, "x": w.address(op.x),
            "weight": self._parts.vectors[op.weight.name].at(0, 4 * columns), "y": w.address(op.y),
            "q": self._codes(op.y), "blocks": columns // BLOCK, "columns": op.weight.shape[0],
            "x_stride": w.stride(op.x), "y_stride": w.stride(op.y),
            "q_stride": w.codes_stride(op.y), "eps": op.eps,
        }  # fmt: skip
        return self._call(kernel("norm"), values, [op.x], [op.y, "q:" + op.y])

    def _collect(self, op: MatMul, collector: Collector) -> Call:
        """Adds the squares of the matrix's input to its sums."""
        w = self._work
        sums, lows = collector.addresses(op.weight.name, w.columns[op.x])
        values = {
            "exact": w.step.exact_rows, "bulk": w.step.bulk_rows, "x": w.address(op.x), "stride": w.stride(op.x),
            "columns": w.columns[op.x], "sums": sums, "lows": lows,
        }  # fmt: skip
        return self._call(kernel("collect"), values, [op.x], [f"sums:{op.weight.name}"])

    def _matmul(self, op: MatMul) -> Iterator[Call]:
        w, matrix, lanes = self._work, self._parts.matrices[op.weight.name], self._parts.cache.lanes
        if w.columns[op.x] != matrix.blocks * BLOCK or w.columns[op.y] < matrix.panels * lanes:
            raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
        code = self._parts.bulk.get(op.weight.name) if self._kind.bulk else None
        if code is None or self._kind.group:
            many = self._kind.bulk and code is None  # all rows of the step
            rows = w.step.all_rows if code is None else w.step.exact_rows
            yield self._exact(op, matrix, rows, MOST if many else self._kind.group)
        if code is not None:
            yield from self._bulk(op, matrix, code)

    def _exact(self, op: MatMul, matrix: Matrix, rows: int, group: int) -> Call:
        """Rows in groups that share a reading of the weights, the same bits whatever their company."""
        w, code = self._work, matrix.kernel(group)
        quantised = code.source == "matmul_int"
        values = {
            "step": rows, "weights": matrix.memory.at(0, matrix.memory.nbytes),
            "x": w.codes_address(op.x) if quantised else w.address(op.x), "y": w.address(op.y),
            "bias": self._bias(op, matrix), "panels": matrix.panels, "blocks": matrix.blocks,
            "x_stride": w.codes_stride(op.x) if quantised else w.stride(op.x),
            "y_stride": w.stride(op.y), "add": int(op.add), "multiplier": matrix.multiplier,
        }  # fmt: skip
        return self._call(code, values, ["q:" + op.x if quantised else op.x], [op.y])

    def _bulk(self, op: MatMul, matrix: Matrix, code: Kernel) -> Iterator[Call]:
        """The step's bulk rows, in blocks."""
        w, span = self._work, self._work.step.bulk_rows
        if op.x not in self._tiled:
            given = {
                "span": span, "x": w.address(op.x), "x_stride": w.stride(op.x), "tiles": w.tiles_address(op.x),
                "blocks": matrix.blocks,
            }  # fmt: skip
            yield self._call(kernel("to_tiles"), given, [op.x], ["t:" + op.x])
            self._tiled.add(op.x)
        scratch = self._parts.scratch
        values = {
            "span": span, "weights": matrix.memory.at(0, matrix.memory.nbytes), "tiles": w.tiles_address(op.x),
            "y": w.address(op.y), "bias": self._bias(op, matrix), "panels": matrix.panels, "blocks": matrix.blocks,
            "y_stride": w.stride(op.y), "add": int(op.add), "multiplier": matrix.multiplier,
            "scratch": scratch.at(0, scratch.nbytes), "scratch_bytes": scratch.nbytes // self._parts.threads,
        }  # fmt: skip
        yield self._call(code, values, ["t:" + op.x], [op.y])

    def _bias(self, op: MatMul, matrix: Matrix) -> int:
        if op.bias is None:
            return 0
        return self._parts.vectors[op.bias.name].at(0, 4 * matrix.panels * self._parts.cache.lanes)

    def _swiglu(self, op: SwiGlu) -> Call:
        w = self._work
        values = {
            "step": w.step.all_rows, "gate": w.address(op.gate), "up": w.address(op.up), "y": w.address(op.y),
            "q": self._codes(op.y), "blocks": w.columns[op.y] // BLOCK, "stride": w.stride(op.y),
            "q_stride": w.codes_stride(op.y),
        }  # fmt: skip
        return self._call(kernel("swiglu"), values, [op.gate, op.up], [op.y, "q:" + op.y])

    def _attend(self, op: Attend) -> Iterator[Call]:
        yield self.rope_store(op, self._parts.plan.heads.queries)
        tiled = self._kind.bulk and self._parts.tiled_attention
        w, heads = self._work, self._parts.plan.heads
        if tiled:
            yield self._attention(op, "attention_tiles")
        if self._kind.group or not tiled:
            yield self._attention(op, "attention")
            values = {
                "spans": w.step.spans_address, "y": w.address(op.y), "y_stride": w.stride(op.y), "n_kv": heads.shared,
                "window": op.window,
            }  # fmt: skip
            code = kernel("attention_join", value_length=heads.value_length, group=heads.group)
            yield self._call(code, values, ["parts"], [op.y])
        if self._codes(op.y):
            values = {
                "step": w.step.all_rows, "x": w.address(op.y), "q": self._codes(op.y),
                "blocks": w.columns[op.y] // BLOCK, "x_stride": w.stride(op.y), "q_stride": w.codes_stride(op.y),
            }  # fmt: skip
            yield self._call(kernel("quantise"), values, [op.y], ["q:" + op.y])

    def rope_store(self, op: Attend, queries: int) -> Call:
        """Rotates `queries` heads of q (0: only keys) and k, and stores k and v."""
        w, plan, cache = self._work, self._parts.plan, self._parts.cache
        heads, rope = plan.heads, plan.rope
        values = {
            "step": w.step.all_rows, "places": w.step.places_address,
            "q": w.address(op.q), "k": w.address(op.k), "v": w.address(op.v), "q_stride": w.stride(op.q),
            "k_stride": w.stride(op.k), "v_stride": w.stride(op.v),
            "table": self._parts.table.at(0, w.rows * rope.dimensions * 4), "rotated": rope.dimensions,
            "neox": int(rope.neox), "n_head": queries, "n_kv": heads.shared, "keys": cache.keys(op.layer),
            "values": cache.values(op.layer), "key_head_bytes": cache.key_head_bytes,
            "value_head_bytes": cache.value_head_bytes, "scale": heads.scale,
        }  # fmt: skip
        code = kernel("rope_store", **cache_constants(heads, cache.shape))
        return self._call(code, values, [op.q, op.k, op.v], [op.q, op.k, op.v, f"kv{op.layer}"])

    def kv_read(self, op: Attend, source: Step) -> Call:
        """Reads what `source` points to back into the rows of k and v."""
        w, cache = self._work, self._parts.cache
        values = {
            "step": w.step.all_rows, "places": source.places_address, "k": w.address(op.k), "v": w.address(op.v),
            "k_stride": w.stride(op.k), "v_stride": w.stride(op.v), "n_kv": self._parts.plan.heads.shared,
            "keys": cache.keys(op.layer), "values": cache.values(op.layer), "key_head_bytes": cache.key_head_bytes,
            "value_head_bytes": cache.value_head_bytes,
        }  # fmt: skip
        code = kernel("kv_read", **cache_constants(self._parts.plan.heads, cache.shape))
        return self._call(code, values, [f"kv{op.layer}"], [op.k, op.v])

    def _attention(self, op: Attend, source: str) -> Call:
        """Of exact rows, or of bulk rows where these have tiles."""
        w, cache, heads = self._work, self._parts.cache, self._parts.plan.heads
        code = kernel(source, group=heads.group, **cache_constants(heads, cache.shape))
        values = {
            "spans": w.step.spans_address, "q": w.address(op.q), "keys": cache.keys(op.layer),
            "values": cache.values(op.layer),
            "scratch": cache.scratch.at(0, self._parts.threads * cache.scratch_bytes), "y": w.address(op.y),
            "q_stride": w.stride(op.q), "y_stride": w.stride(op.y), "n_kv": heads.shared,
            "key_head_bytes": cache.key_head_bytes, "value_head_bytes": cache.value_head_bytes,
            "window": op.window, "scratch_bytes": cache.scratch_bytes,
        }  # fmt: skip
        return self._call(code, values, [op.q, f"kv{op.layer}"], ["parts", op.y])

    def select(self, source: Workspace, name: str) -> Call:
        """Copies rows of another workspace's buffer into this one's."""
        w = self._work
        if source.columns[name] != w.columns[name]:
            raise ValueError(f"buffer {name} has {source.columns[name]} columns, {w.columns[name]} wanted")
        values = {
            "step": w.step.all_rows, "rows": w.step.sources_address, "x": source.address(name), "y": w.address(name),
            "stride": w.stride(name),
        }  # fmt: skip
        call = self._call(kernel("select_rows"), values, [], [name])
        return replace(call, reads=frozenset({f"{source.name}:{name}"}))


def cache_constants(heads: Heads, shape: CacheShape) -> dict[str, int | str]:
    """Constants of the kernels that read or write the cache."""
    return {
        "key_length": heads.key_length, "value_length": heads.value_length, "key_type": shape.key_type.name,
        "value_type": shape.value_type.name,
    }  # fmt: skip


def barriers(calls: Sequence[Call]) -> list[bool]:
    """Whether threads wait after each call: where the next one meets what has been touched since the last wait."""
    waits = [False] * len(calls)
    read: set[str] = set()
    written: set[str] = set()
    for i, call in enumerate(calls):
        if call.reads & written or call.writes & (written | read):
            waits[i - 1] = True
            read, written = set(), set()
        read |= call.reads
        written |= call.writes
    waits[-1] = True  # nobody may still be at work when the tape returns
    return waits


class Tape:
    """Calls ready to run: addresses of kernels and of their argument structs, which it keeps alive."""

    def __init__(self, calls: Sequence[Call], library: Library) -> None:
        self.calls = calls
        counted = [call for call in calls if COUNTED in (load_source(call.kernel).ARGS.names or ())]
        self._counters = Region(max(len(counted), 1) * COUNTER, "the tape's counters")
        places = {id(call): self._counters.at(COUNTER * i, COUNTER) for i, call in enumerate(counted)}
        self._structs = [_filled(call, places.get(id(call))) for call in calls]
        self._entries = np.zeros((len(calls), 3), np.int64)
        for i, (call, wait) in enumerate(zip(calls, barriers(calls), strict=True)):
            self._entries[i] = (library.address(call.kernel), self._structs[i].ctypes.data, wait)
        runner = kernel("tape")
        self._args = np.zeros((), load_source(runner).ARGS)
        self._args["entries"], self._args["count"] = self._entries.ctypes.data, len(calls)
        self._args["yield_"] = yield_address()
        self._args["counters"], self._args["counted"] = self._counters.at(0, COUNTER), len(counted)
        self._runner = library.address(runner)

    def run(self, team: Team) -> None:
        """Runs every call on the team's threads; all of them have passed the last barrier when it returns."""
        self._args["barrier"] = team.barrier
        team.run(self._runner, self._args.ctypes.data)

    def timed(self, team: Team) -> NDArray[np.float64]:
        """As `run`; (calls, 2) seconds that thread 0 was at work on each, and that it waited behind it."""
        stamps = np.zeros((2 * len(self.calls) + 1, STAMP // 8), np.int64)
        self._args["clock"], self._args["clock_id"] = clock_address(), time.CLOCK_MONOTONIC
        self._args["stamps"] = stamps.ctypes.data
        try:
            self.run(team)
        finally:
            self._args["stamps"] = 0
        nanoseconds = (stamps[:, 0] - stamps[0, 0]) * 1_000_000_000 + stamps[:, 1]
        seconds: NDArray[np.float64] = np.diff(nanoseconds).reshape(-1, 2) / 1e9
        return seconds


def _filled(call: Call, counter: int | None = None) -> NDArray[Any]:
    """The kernel's argument struct. Raises ValueError unless every field is given, and nothing else."""
    dtype = load_source(call.kernel).ARGS
    if set(dtype.names or ()) - {COUNTED} != set(call.arguments):
        raise ValueError(f"{call.kernel.symbol} takes {dtype.names}, given {sorted(call.arguments)}")
    struct = np.zeros((), dtype)
    if counter is not None:
        struct[COUNTED] = counter
    for name, value in call.arguments.items():
        struct[name] = value
    return struct


