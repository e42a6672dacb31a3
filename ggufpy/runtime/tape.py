"""From a plan to tapes: every op becomes kernel calls with arguments filled in, and barriers where results are awaited.

All addresses that kernels see are taken here, from regions of checked size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.kernels.cache import Library
from ggufpy.kernels.layout import BLOCK, quantised_row_bytes
from ggufpy.kernels.spec import Kernel, kernel, load_source
from ggufpy.plan import Attend, MatMul, Norm, Op, Plan, SwiGlu

from .cache import KvCache
from .memory import Region
from .threads import Team, yield_address
from .weights import Matrix

PROMPT_TOKENS = 4  # activations that share one reading of the weights in prompts


@dataclass(frozen=True)
class Call:
    """One kernel call: its arguments by field name, and the buffers it reads and writes."""

    kernel: Kernel
    arguments: Mapping[str, int | float]
    reads: frozenset[str]
    writes: frozenset[str]


class Workspace:
    """Buffers for steps of at most `rows` tokens, within `positions`: float rows, 8-bit rows where a matrix wants them,
    and the step's own numbers."""

    def __init__(
        self, name: str, widths: Mapping[str, int], quantised: frozenset[str], rows: int, positions: int
    ) -> None:
        self.name, self.rows, self.positions = name, rows, positions
        rows = -(-rows // PROMPT_TOKENS) * PROMPT_TOKENS  # matrix kernels compute whole groups
        self.columns = {name: -(-width // BLOCK) * BLOCK for name, width in widths.items()}
        self.floats = {n: Region(rows * 4 * c, f"buffer {n}") for n, c in self.columns.items()}
        self.codes = {n: Region(rows * quantised_row_bytes(self.columns[n]), f"buffer {n}") for n in quantised}
        self.step = Region(64, "step")
        self._numbers = self.step.view(np.int64, 2)

    def set_step(self, count: int, position: int) -> None:
        """Tokens of the next step, and the position of the first. Raises ValueError for more than there is room for."""
        if not 0 < count <= self.rows or not 0 <= position <= self.positions - count:
            raise ValueError(f"a step of {count} tokens at {position}, of {self.rows} and {self.positions}")
        self._numbers[:] = (count, position)

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


class Lowering:
    """Turns ops into calls on one workspace, for steps of one token or of several."""

    def __init__(self, parts: Parts, work: Workspace, single: bool) -> None:
        self._parts, self._work, self._single = parts, work, single

    def calls(self, ops: Sequence[Op]) -> Iterator[Call]:
        for op in ops:
            if isinstance(op, Norm):
                yield self._norm(op)
            elif isinstance(op, MatMul):
                yield self._matmul(op)
            elif isinstance(op, SwiGlu):
                yield self._swiglu(op)
            else:
                yield from self._attend(op)

    def _call(
        self, code: Kernel, arguments: Mapping[str, int | float], reads: Sequence[str], writes: Sequence[str]
    ) -> Call:
        step, name = self._work.step.at(0, 16), self._work.name
        touched = [frozenset(f"{name}:{buffer}" for buffer in names) for names in (reads, writes)]
        return Call(code, {"step": step, **arguments}, *touched)

    def _norm(self, op: Norm) -> Call:
        w = self._work
        columns = w.columns[op.x]
        values = {
            "x": w.address(op.x), "weight": self._parts.vectors[op.weight.name].at(0, 4 * columns),
            "y": w.address(op.y), "q": w.codes_address(op.y), "blocks": columns // BLOCK,
            "columns": op.weight.shape[0], "x_stride": w.stride(op.x), "y_stride": w.stride(op.y),
            "q_stride": w.codes_stride(op.y), "eps": op.eps,
        }  # fmt: skip
        return self._call(kernel("norm"), values, [op.x], [op.y, "q:" + op.y])

    def _matmul(self, op: MatMul) -> Call:
        w, matrix = self._work, self._parts.matrices[op.weight.name]
        code = matrix.kernel(1 if self._single else PROMPT_TOKENS)
        quantised = code.source == "matmul_int"
        lanes = self._parts.cache.lanes
        if w.columns[op.x] != matrix.blocks * BLOCK or w.columns[op.y] < matrix.panels * lanes:
            raise ValueError(f"{op.weight.name} does not fit buffers {op.x} and {op.y}")
        bias = self._parts.vectors[op.bias.name].at(0, 4 * matrix.panels * lanes) if op.bias else 0
        values = {
            "weights": matrix.memory.at(0, matrix.memory.nbytes),
            "x": w.codes_address(op.x) if quantised else w.address(op.x), "y": w.address(op.y), "bias": bias,
            "panels": matrix.panels, "blocks": matrix.blocks,
            "x_stride": w.codes_stride(op.x) if quantised else w.stride(op.x),
            "y_stride": w.stride(op.y), "add": int(op.add), "multiplier": matrix.multiplier,
        }  # fmt: skip
        return self._call(code, values, ["q:" + op.x if quantised else op.x], [op.y])

    def _swiglu(self, op: SwiGlu) -> Call:
        w = self._work
        values = {
            "gate": w.address(op.gate), "up": w.address(op.up), "y": w.address(op.y), "q": w.codes_address(op.y),
            "blocks": w.columns[op.y] // BLOCK, "stride": w.stride(op.y), "q_stride": w.codes_stride(op.y),
        }  # fmt: skip
        return self._call(kernel("swiglu"), values, [op.gate, op.up], [op.y, "q:" + op.y])

    def _attend(self, op: Attend) -> Iterator[Call]:
        yield self._rope_store(op)
        yield self._attention(op)
        cache, w, heads = self._parts.cache, self._work, self._parts.plan.heads
        if self._single:
            values = {
                "parts": cache.parts.at(0, cache.parts.nbytes), "y": w.address(op.y), "n_kv": heads.shared,
                "window": op.window, "max_chunks": cache.chunks,
            }  # fmt: skip
            code = kernel("attention_join", value_length=heads.value_length, group=heads.group)
            yield self._call(code, values, ["parts"], [op.y])
        if op.y in w.codes:
            values = {
                "x": w.address(op.y), "q": w.codes_address(op.y), "blocks": w.columns[op.y] // BLOCK,
                "x_stride": w.stride(op.y), "q_stride": w.codes_stride(op.y),
            }  # fmt: skip
            yield self._call(kernel("quantise"), values, [op.y], ["q:" + op.y])

    def _rope_store(self, op: Attend) -> Call:
        w, plan, cache = self._work, self._parts.plan, self._parts.cache
        heads, rope = plan.heads, plan.rope
        values = {
            "q": w.address(op.q), "k": w.address(op.k), "v": w.address(op.v), "q_stride": w.stride(op.q),
            "k_stride": w.stride(op.k), "v_stride": w.stride(op.v),
            "table": self._parts.table.at(0, w.rows * rope.dimensions * 4), "rotated": rope.dimensions,
            "neox": int(rope.neox), "n_head": heads.queries, "n_kv": heads.shared, "key_length": heads.key_length,
            "value_length": heads.value_length, "keys": cache.keys(op.layer), "values": cache.values(op.layer),
            "key_head_bytes": cache.key_head_bytes, "value_head_bytes": cache.value_head_bytes, "scale": heads.scale,
        }  # fmt: skip
        return self._call(kernel("rope_store"), values, [op.q, op.k, op.v], [op.q, op.k, f"kv{op.layer}"])

    def _attention(self, op: Attend) -> Call:
        w, cache, heads = self._work, self._parts.cache, self._parts.plan.heads
        code = kernel(
            "attention", key_length=heads.key_length, value_length=heads.value_length, group=heads.group
        )
        values = {
            "q": w.address(op.q), "keys": cache.keys(op.layer), "values": cache.values(op.layer),
            "parts": cache.parts.at(0, cache.parts.nbytes),
            "scratch": cache.scratch.at(0, self._parts.threads * cache.scratch_bytes), "y": w.address(op.y),
            "q_stride": w.stride(op.q), "y_stride": w.stride(op.y), "n_kv": heads.shared,
            "key_head_bytes": cache.key_head_bytes, "value_head_bytes": cache.value_head_bytes,
            "window": op.window, "max_chunks": cache.chunks, "scratch_bytes": cache.scratch_bytes,
        }  # fmt: skip
        return self._call(code, values, [op.q, f"kv{op.layer}"], ["parts", op.y])

    def select(self, source: Workspace, name: str) -> Call:
        """Copies rows of another workspace's buffer into this one's; this step's position is the first row."""
        if source.columns[name] != self._work.columns[name]:
            raise ValueError(f"buffer {name} has {source.columns[name]} columns, {self._work.columns[name]} wanted")
        values = {"x": source.address(name), "y": self._work.address(name), "stride": self._work.stride(name)}
        call = self._call(kernel("select_rows"), values, [], [name])
        return replace(call, reads=frozenset({f"{source.name}:{name}"}))


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
        self.kernels = [call.kernel for call in calls]
        self._structs = [_filled(call) for call in calls]
        self._entries = np.zeros((len(calls), 3), np.int64)
        for i, (call, wait) in enumerate(zip(calls, barriers(calls), strict=True)):
            self._entries[i] = (library.address(call.kernel), self._structs[i].ctypes.data, wait)
        runner = kernel("tape")
        self._args = np.zeros((), load_source(runner).ARGS)
        self._args["entries"], self._args["count"] = self._entries.ctypes.data, len(calls)
        self._args["yield_"] = yield_address()
        self._runner = library.address(runner)

    def run(self, team: Team) -> None:
        """Runs every call on the team's threads; all of them have passed the last barrier when it returns."""
        self._args["barrier"] = team.barrier
        team.run(self._runner, self._args.ctypes.data)


def _filled(call: Call) -> NDArray[Any]:
    """The kernel's argument struct. Raises ValueError unless every field is given, and nothing else."""
    dtype = load_source(call.kernel).ARGS
    if set(dtype.names or ()) != set(call.arguments):
        raise ValueError(f"{call.kernel.symbol} takes {dtype.names}, given {sorted(call.arguments)}")
    struct = np.zeros((), dtype)
    for name, value in call.arguments.items():
        struct[name] = value
    return struct


