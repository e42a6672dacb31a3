"""Attention over the cache against a softmax in float64, and the tape that runs kernels in order."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, Room, attend, compile_ahead, run, some_fast, step, up
from kv_reference import Pages, rounded

from ggufpy.backends.cpu.kernels.attention import part_bytes, scratch_bytes
from ggufpy.backends.cpu.kernels.attention_tiles import scratch_bytes as tiled_scratch_bytes
from ggufpy.backends.cpu.kernels.kv_types import PAGE
from ggufpy.backends.cpu.lowering import Call
from ggufpy.backends.cpu.tape import Tape, barriers
from ggufpy.backends.cpu.threads import Team
from ggufpy.errors import GGUFError
from ggufpy.format.walking import walk_strings
from ggufpy.jit.cache import library
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.simd.isa import EMULATED, Level, has_tiles


@dataclass(frozen=True)
class Shape:
    key: int
    value: int
    group: int
    shared: int = 2
    key_type: str = "f16"
    value_type: str = "f16"
    source: str = "attention"
    special: tuple[str, ...] = ()

    def __str__(self) -> str:
        types = "" if self.key_type == self.value_type == "f16" else f"-{self.key_type}-{self.value_type}"
        return f"{self.key}-{self.value}-{self.group}{types}{'-tiles' if self.tiled else ''}{''.join(self.special)}"

    @property
    def tiled(self) -> bool:
        return self.source == "attention_tiles"

    @property
    def kernel(self) -> Kernel:
        return kernel(
            self.source, key_length=self.key, value_length=self.value, group=self.group, key_type=self.key_type,
            value_type=self.value_type, **dict.fromkeys(self.special, 1),
        )  # fmt: skip

    @property
    def options(self) -> dict[str, Any]:
        """What `attend` takes beside the window."""
        sinks = np.linspace(-3, 4, self.shared * self.group, dtype=np.float32) if "sinks" in self.special else None
        return {
            "softcap": 1.5 if "softcap" in self.special else 0.0, "sinks": sinks,
            "all_seen": "everything" in self.special,
        }  # fmt: skip

    def check(self, found: Any, q: Any, cache: Cache, window: int = 0) -> None:
        """Rows against softmax in float64, of numbers rounded as tiles want them."""
        if not self.tiled:
            np.testing.assert_allclose(found, attend(q, cache.k, cache.v, window, **self.options), rtol=1e-5, atol=1e-5)
            return
        log2e = np.float32(1.4426950408889634)
        q = rounded(q * log2e, "bf16") / log2e
        difference = found - attend(q, rounded(cache.k, "bf16"), rounded(cache.v, "bf16"), window, **self.options)
        assert np.abs(difference).max() < 0.012  # weights are rounded to 2^-9 too
        assert np.sqrt(np.mean(difference**2)) < 0.0015


class Cache:
    """Random keys and values of a sequence; what no row may see is not a number."""

    def __init__(self, shape: Shape, level: Level, positions: int, kept: int | None = None) -> None:
        rng = np.random.default_rng(positions)
        k = rng.standard_normal((positions, shape.shared, shape.key)).astype(np.float32)[:kept]
        v = rng.standard_normal((positions, shape.shared, shape.value)).astype(np.float32)[:kept]
        self.k, self.v = rounded(k, shape.key_type), rounded(v, shape.value_type)
        self.pages = Pages(k, v, shape.key_type, shape.value_type, level.lanes)


def attention(shape: Shape, level: Level, caches: list[tuple[Cache, Any]], window: int = 0, nth: int = 1) -> list[Any]:
    """Rows of output (rows, heads, value) for the last positions of each cache, all in one step."""
    caches = sorted(caches, key=lambda pair: len(pair[1]) > 1)
    heads, lanes = shape.shared * shape.group, level.lanes
    total = sum(len(q) for _, q in caches)
    q_stride, y_stride = 4 * up(heads * shape.key, 32), 4 * up(heads * shape.value, 32)
    queries = np.full((total, q_stride // 4), np.nan, np.float32)
    y = Room(np.full((total, y_stride // 4), np.nan, np.float32))
    size = shape.shared * part_bytes(shape.value, shape.group, lanes)
    # All sequences' pages as one cache, each table moved on by what is before it.
    keys = Room(np.concatenate([c.pages.keys.array for c, _ in caches]))
    values = Room(np.concatenate([c.pages.values.array for c, _ in caches]))
    tables, parts, records, row, base = [], [], [], 0, 0
    for c, q in caches:
        n, position = len(q), len(c.k) - len(q)
        queries[row : row + n, : heads * shape.key] = q.reshape(n, -1)
        tables.append(Room(c.pages.table.array + base))
        parts.append(Room(np.full((position // PAGE + 1) * size, 0xFF, np.uint8)))
        records.append([row, n, position, tables[-1].address, parts[-1].address])
        row, base = row + n, base + len(c.pages.keys.array)
    single = 0 if shape.tiled else sum(len(q) == 1 for _, q in caches)
    several = len(caches) - single
    kinds = (0, 0, several) if shape.tiled else (single, several, 0)
    spans = Room(np.array([*kinds, *np.ravel(records)], np.int64))
    lengths = shape.key, shape.value, shape.group
    sinks = Room(shape.options["sinks"]) if "sinks" in shape.special else 0
    scratch = tiled_scratch_bytes(*lengths) if shape.tiled else scratch_bytes(*lengths, lanes)
    run(
        shape.kernel, level, nth, spans_ptr=spans, q_ptr=Room(queries), keys_ptr=keys, values_ptr=values,
        scratch_ptr=Room(np.full(nth * scratch, 0xFF, np.uint8)), y_ptr=y, q_stride=q_stride, y_stride=y_stride,
        n_kv=shape.shared, key_head_bytes=keys.array.strides[1], value_head_bytes=values.array.strides[1],
        window=window, scratch_bytes=scratch, sinks_ptr=sinks, cap=shape.options["softcap"],
    )  # fmt: skip
    if not shape.tiled:
        joins = {"sinks": 1} if "sinks" in shape.special else {}
        code = kernel("attention_join", value_length=shape.value, group=shape.group, **joins)
        run(
            code, level, nth, spans_ptr=spans, y_ptr=y, y_stride=y_stride, n_kv=shape.shared, window=window,
            sinks_ptr=sinks,
        )  # fmt: skip
    for part in parts:
        part.check()
    assert np.isnan(y.array[:, heads * shape.value :]).all(), "written past the heads"
    rows = y.array[:, : heads * shape.value].reshape(total, heads, shape.value)
    return np.split(rows, np.cumsum([len(q) for _, q in caches])[:-1])


def queries(n: int, shape: Shape, seed: int = 0) -> Any:
    rng = np.random.default_rng([n, seed])
    x = rng.standard_normal((n, shape.shared * shape.group, shape.key)) * 2 / shape.key**0.5
    return x.astype(np.float32)


SPECIAL = Shape(20, 20, 2, 2, special=("softcap", "sinks"))
TILED = [level for level in (*LEVELS, EMULATED) if has_tiles(level)]
SHAPES = [
    *((BEST, shape) for shape in (Shape(64, 64, 2), Shape(20, 20, 2, 1), Shape(80, 48, 1), Shape(128, 128, 8, 1))),
    (BEST, Shape(64, 64, 3)),
    (BEST, Shape(64, 64, 2, 2, "bf16", "bf16")),
    (BEST, Shape(64, 96, 4, 2, "q8_0", "q4_0")),
    (BEST, Shape(64, 64, 5, 1, "q4_0", "q8_0")),
    *((level, Shape(80, 20, 3)) for level in LEVELS[1:]),
    *((level, Shape(64, 64, 2, 1, "q4_0", "q8_0")) for level in LEVELS[1:]),
    *((level, replace(Shape(20, 20, 2, 1), source="attention_tiles")) for level in TILED),
    *((level, SPECIAL) for level in LEVELS),
    *((level, replace(SPECIAL, source="attention_tiles")) for level in TILED),
    *((TILED[0], replace(shape, source="attention_tiles")) for shape in (
        Shape(64, 64, 3), Shape(81, 49, 1), Shape(128, 128, 8, 1), Shape(96, 64, 70, 1),
        Shape(64, 96, 4, 2, "q8_0", "q4_0"), Shape(64, 64, 5, 1, "bf16", "q8_0"),
    )),
]  # fmt: skip
# What the short run leaves out has no part of its own.
FAST = [Shape(64, 64, 2), Shape(20, 20, 2, 1), Shape(80, 48, 1), Shape(64, 96, 4, 2, "q8_0", "q4_0")]
FAST += [replace(shape, source="attention_tiles") for shape in (FAST[1], FAST[3])]
FAST += [SPECIAL, replace(SPECIAL, source="attention_tiles")]
of_every_shape = pytest.mark.parametrize(
    ("level", "shape"), some_fast(SHAPES, [case for case in SHAPES if case[1] in FAST]),
    ids=lambda x: getattr(x, "name", None) or str(x),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    compile_ahead([(shape.kernel, level) for level, shape in SHAPES if shape in FAST])


@of_every_shape
def test_one_token(level: Level, shape: Shape) -> None:
    for positions in (1, 2, 15, 16, 17, 127, 128, 129, 200, 255, 256, 257, 384):
        cache, q = Cache(shape, level, positions), queries(1, shape)
        (found,) = attention(shape, level, [(cache, q)])
        shape.check(found, q, cache)
        for nth in (2, 3, 5):
            np.testing.assert_array_equal(attention(shape, level, [(cache, q)], nth=nth)[0], found)


@of_every_shape
def test_several_tokens_are_each_as_if_alone(level: Level, shape: Shape) -> None:
    for positions, n in [(2, 2), (5, 5), (130, 5), (258, 3), (131, 131), (300, 29)]:
        cache, q = Cache(shape, level, positions), queries(n, shape)
        (found,) = attention(shape, level, [(cache, q)])
        shape.check(found, q, cache)
        np.testing.assert_array_equal(attention(shape, level, [(cache, q)], nth=3)[0], found)
        for i in (0, n // 2, n - 1):
            alone = Cache(shape, level, positions, positions - n + i + 1)
            np.testing.assert_array_equal(attention(shape, level, [(alone, q[i : i + 1])])[0][0], found[i])


@of_every_shape
def test_sequences_are_each_as_if_alone(level: Level, shape: Shape) -> None:
    mixed = [(130, 1), (3, 1), (384, 1), (50, 50), (200, 7), (129, 2)]
    given = [(Cache(shape, level, positions), queries(n, shape, positions)) for positions, n in mixed]
    for window in (0, 20):
        alone = [attention(shape, level, [pair], window)[0] for pair in given]
        for nth in (1, 2, 5):
            for found, wanted in zip(attention(shape, level, given, window, nth), alone, strict=True):
                np.testing.assert_array_equal(found, wanted)


@of_every_shape
def test_windows(level: Level, shape: Shape) -> None:
    for window in (1, 5, 16, 100, 127, 128, 129, 300, 2**31 - 1):
        for positions, n in [(1, 1), (129, 1), (300, 1), (130, 4), (300, 40)]:
            cache, q = Cache(shape, level, positions), queries(n, shape)
            (found,) = attention(shape, level, [(cache, q)], window)
            shape.check(found, q, cache, window)
            np.testing.assert_array_equal(attention(shape, level, [(cache, q)], window, nth=2)[0], found)
            alone = Cache(shape, level, positions, positions - n + 1)
            np.testing.assert_array_equal(attention(shape, level, [(alone, q[:1])], window)[0][0], found[0])


@pytest.mark.parametrize(
    ("level", "source"), [(level, "attention") for level in LEVELS] + [(level, "attention_tiles") for level in TILED],
    ids=lambda x: getattr(x, "name", x),
)  # fmt: skip
def test_rows_that_see_everything(level: Level, source: str) -> None:
    shape = Shape(20, 20, 2, 2, source=source, special=("everything", "sinks"))
    for positions, n in [(1, 1), (20, 20), (129, 129), (150, 40), (300, 300)]:
        cache, q = Cache(shape, level, positions), queries(n, shape)
        for window in (0, 1, 7, 100, 256, 300, 2**31 - 1):  # so many positions, half of them behind
            (found,) = attention(shape, level, [(cache, q)], window)
            shape.check(found, q, cache, window)
            np.testing.assert_array_equal(attention(shape, level, [(cache, q)], window, nth=3)[0], found)
    given = [(Cache(shape, level, positions), queries(n, shape, positions)) for positions, n in [(9, 9), (140, 140)]]
    for window in (0, 10, 200):
        together = attention(shape, level, given, window, nth=2)
        for found, pair in zip(together, given, strict=True):
            np.testing.assert_array_equal(found, attention(shape, level, [pair], window)[0])


def test_large_scores_do_not_overflow() -> None:
    shape = Shape(64, 64, 2)
    cache, q = Cache(shape, BEST, 140), queries(2, shape) * np.float32(2000)
    for n in (1, 2):
        (found,) = attention(shape, BEST, [(cache, q[-n:])])
        np.testing.assert_allclose(found, attend(q[-n:], cache.k, cache.v), rtol=1e-4, atol=1e-4)


# -- strings -----------------------------------------------------------------------------------------------


def _strings(lengths: list[int], order: str) -> Any:
    return np.frombuffer(b"".join(n.to_bytes(8, order) + b"x" * n for n in lengths), np.uint8)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["little", "big"])
def test_strings_are_found(order: str) -> None:
    lengths = [0, 1, 7, 300, 0, 65537, 3]
    data = np.concatenate([np.zeros(5, np.uint8), _strings(lengths, order)])
    starts, sizes = np.zeros((2, len(lengths)), np.int64)
    end = walk_strings(data, 5, len(data), len(lengths), order == "big", starts, sizes)
    assert end == len(data)
    assert sizes.tolist() == lengths
    assert starts.tolist() == [5 + 8 * (i + 1) + sum(lengths[:i]) for i in range(len(lengths))]
    assert walk_strings(data, 5, 5, 0, False, starts[:0], sizes[:0]) == 5


@pytest.mark.parametrize("length", [4, 2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8])
def test_a_string_past_the_end_is_named(length: int) -> None:
    data = np.frombuffer(_strings([2], "little").tobytes() + length.to_bytes(8, "little") + b"abc", np.uint8)
    starts, sizes = np.zeros((2, 3), np.int64)
    assert walk_strings(data, 0, len(data), 3, False, starts, sizes) == -2
    assert walk_strings(data, 0, 12, 3, False, starts, sizes) == -2
    assert walk_strings(data, 0, 9, 3, False, starts, sizes) == -1
    assert walk_strings(data, 0, 7, 3, False, starts, sizes) == -1


def test_strings_refuse_arrays_that_do_not_fit() -> None:
    data, out = np.zeros(64, np.uint8), np.zeros(2, np.int64)
    wrong: list[tuple[Any, ...]] = [
        (data.astype(np.int8), 0, 64, 2, False, out, out),
        (data[::2], 0, 32, 2, False, out, out),
        (data, -1, 64, 2, False, out, out),
        (data, 0, 65, 2, False, out, out),
        (data, 9, 8, 2, False, out, out),
        (data, 0, 64, 3, False, out, out),
        (data, 0, 64, -1, False, out, out),
        (data, 0, 64, 2, False, out.astype(np.int32), out),
        (data, 0, 64, 1, False, out[::2], out[:1].astype(float)),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match=r"must be|is not within"):
            walk_strings(*arguments)
    frozen = out.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="must be"):
        walk_strings(data, 0, 64, 2, False, frozen, out)


# -- the tape ----------------------------------------------------------------------------------------------


def _call(reads: str, writes: str) -> Call:
    return Call(kernel("norm"), {}, frozenset(reads.split()), frozenset(writes.split()))


@pytest.mark.parametrize(
    ("calls", "waits"),
    [
        ([("", "a"), ("a", "b")], [True, True]),  # read after write
        ([("a", "b"), ("", "a")], [True, True]),  # write after read
        ([("", "a"), ("", "a")], [True, True]),  # write after write
        ([("a", "b"), ("a", "c"), ("a", "d")], [False, False, True]),
        ([("", "a"), ("", "b"), ("b", "c")], [False, True, True]),
        ([("", "a"), ("", "b"), ("b", "c"), ("a", "d")], [False, True, False, True]),  # one wait serves both
        ([("a", "b"), ("b", "c"), ("", "a")], [True, False, True]),
        ([("", "a")], [True]),
    ],
)
def test_threads_wait_where_one_needs_anothers_result(calls: list[tuple[str, str]], waits: list[bool]) -> None:
    assert barriers([_call(*call) for call in calls]) == waits


def _chain(length: int, level: Level) -> tuple[Tape, Any, list[Any]]:
    """norm from a to b and back again: every thread reads whole rows, so that a missing wait changes the result."""
    x, weight = Room(np.ones((3, 256), np.float32)), Room(np.linspace(0.9, 1.1, 256, dtype=np.float32))
    y, now = Room(np.zeros((3, 256), np.float32)), step(3)
    calls = []
    for i in range(length):
        a, b, names = (x, y, "ab") if i % 2 == 0 else (y, x, "ba")
        fields = {"x_ptr": a.address, "y_ptr": b.address, "weight_ptr": weight.address, "step_ptr": now.address}
        fields |= {"q_ptr": 0, "n_blocks": 8, "n_columns": 256, "x_stride": 1024, "y_stride": 1024, "q_stride": 0}
        calls.append(Call(kernel("norm"), {**fields, "eps": 1e-5}, frozenset(names[0]), frozenset(names[1])))
    return Tape(calls, library(level)), x, [weight, y, now]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("threads", [2, 4])
def test_a_tape_gives_the_same_whatever_the_threads(threads: int, level: Level) -> None:
    results = []
    for size in (1, threads):
        tape, x, _others = _chain(40, level)
        team = Team(size, library(level))
        try:
            for _ in range(25):
                tape.run(team)
        finally:
            team.close()
        results.append(x.array.copy())
    assert not np.array_equal(results[0], np.ones_like(results[0]))
    np.testing.assert_array_equal(results[0], results[1])


def test_a_team_runs_tapes_in_turn_and_closes_twice() -> None:
    before = threading.active_count()
    team = Team(3, library(BEST))
    assert threading.active_count() == before + 2
    tapes = [_chain(2, BEST), _chain(3, BEST)]
    for i in range(100):
        tapes[i % 2][0].run(team)
    team.close()
    team.close()
    assert threading.active_count() == before


def test_a_closed_team_refuses_to_run() -> None:
    tape, _x, _others = _chain(2, BEST)
    team = Team(2, library(BEST))
    team.close()
    with pytest.raises((GGUFError, RuntimeError)):
        tape.run(team)


def test_a_tape_wants_every_argument() -> None:
    with pytest.raises(ValueError, match="norm takes"):
        Tape([Call(kernel("norm"), {"step_ptr": 0}, frozenset(), frozenset())], library(BEST))
