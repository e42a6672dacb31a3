"""Plans: what ops say of themselves, and any plan on the CPU against the interpreter in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, Text, difference, reference, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggufpy import format as gguf
from ggufpy.backends.cpu.model import Model, load_kernels, read_plan
from ggufpy.backends.cpu.ops import attend
from ggufpy.backends.cpu.program import CpuProgram, _spans
from ggufpy.backends.cpu.step import Span, Spans, Step
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Rows, page_table
from ggufpy.backends.split import SplitModel, SplitProgram
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource
from ggufpy.jit.cache import library
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Add, Attend, Embed, Gate, Heads, MatMul, Norm, Rope, Rotate, StoreKv
from ggufpy.models.plan import Plan, widths
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.simd.isa import EMULATED, Level

WIDTH, VOCABULARY, CONTEXT = 72, 50, 160  # a width that fills no block
HEADS = Heads(4, 2, 20, 20)
OTHERS = Heads(3, 3, 24, 12)
TEXT = np.random.default_rng(5).integers(0, VOCABULARY, 150).tolist()
ROPES = [
    Rope(20, 10000.0),
    Rope(20, 500.0, neox=True),
    Rope(8, 10000.0, neox=True),
    Rope(20, 1e6, scaling="linear", factor=4.0),
]


def source_of(plan: Plan) -> ArraySource:
    """Random weights for a plan; those of norms lie about 1."""
    rng = np.random.default_rng(9)
    made = {}
    for name, weight in plan.weights.items():
        values = rng.standard_normal(weight.shape) / weight.shape[-1] ** 0.5
        if len(weight.shape) == 1 or "norm" in name:
            values = 1.0 + 0.3 * rng.standard_normal(weight.shape) if "norm" in name else values
        made[name] = (values * (4 if name == "embedding" else 1)).astype(np.float32)
    return ArraySource({}, made)


def on_the_cpu(plan: Plan, file: ArraySource, level: Level, tokens: list[int], n_batch: int = 64) -> Any:
    options = EngineOptions(n_threads=2, n_ctx=plan.context)
    kernels = library(level)
    load_kernels(file, plan, options, kernels)
    with Text(Engine(Model(file, plan, options, kernels), n_batch)) as session:
        first = session.eval_logits(tokens[:-3])
        return np.concatenate([first, *(session.eval_logits([token]) for token in tokens[-3:])])


class Maker:
    """Layers of random structure. Heads are of one geometry or another, each with its own buffers."""

    def __init__(self, draw: Any, windows: tuple[int, ...] = (0, 1, 5, 140)) -> None:
        self._draw, self._count, self._windows = draw, 0, windows

    def weight(self, kind: str, *shape: int) -> Weight:
        self._count += 1
        return Weight(f"{kind}.{self._count}", shape)

    def choose(self, *of: Any) -> Any:
        """One of some; the first where nothing is drawn."""
        return of[0] if self._draw is None else self._draw(st.sampled_from(of))

    def product(self, x: str, y: str, rows: int, columns: int, add: bool = False) -> MatMul:
        bias = self.weight("bias", rows) if self.choose(True, False) else None
        return MatMul(x, self.weight("matrix", rows, columns), y, bias, add)

    def added(self, x: str, columns: int) -> Iterator[Op]:
        """A product of x that is added to the stream, or normed before that."""
        if self.choose(True, False):
            yield self.product(x, "x", WIDTH, columns, add=True)
            return
        yield self.product(x, "out", WIDTH, columns)
        yield Norm("out", self.weight("norm", WIDTH), "out", 1e-5)
        yield Add("out", "x", WIDTH)

    def attention(self, layer: int) -> Iterator[Op]:
        h, rope = self.choose(HEADS, OTHERS), self.choose(None, *ROPES)
        q, k, v, attn = (f"{name}{h.queries}" for name in ("q", "k", "v", "attn"))
        yield Norm("x", self.weight("norm", WIDTH), "norm", self.choose(1e-6, 0.1))
        rows = {v: h.shared * h.value_length, q: h.queries * h.key_length, k: h.shared * h.key_length}
        for name, count in rows.items():
            yield self.product("norm", name, count, WIDTH)
        if self.choose(True, False):
            yield Norm(q, self.weight("norm", h.key_length), q, 1e-5, h.queries)
            yield Norm(k, self.weight("norm", h.key_length), k, 1e-5, h.shared)
        if rope is not None:
            yield Rotate(k, h.shared, h.key_length, rope)
            yield Rotate(q, h.queries, h.key_length, rope)
        yield StoreKv(layer, k, v, h)
        yield Attend(layer, q, attn, h, self.choose(0.1, 0.4), self.choose(*self._windows))
        yield from self.added(attn, h.queries * h.value_length)

    def feed_forward(self) -> Iterator[Op]:
        hidden = 100
        if self.choose(True, False):
            yield Norm("x", self.weight("norm", WIDTH), "norm", 1e-5)
        else:
            yield Norm("x", self.weight("norm", WIDTH), "x", 1e-5)  # in place
            yield Norm("x", self.weight("norm", WIDTH), "norm", 1e-5)
        yield self.product("norm", "gate", hidden, WIDTH)
        yield self.product("norm", "up", hidden, WIDTH)
        yield Gate("gate", "up", "ffn", hidden, self.choose("silu", "gelu"))
        yield from self.added("ffn", hidden)

    def plan(self) -> Plan:
        layers = []
        for i in range(self.choose(2, 1, 3)):
            parts = [tuple(self.attention(i)), tuple(self.feed_forward())]
            layers.append(sum(self.choose(parts, parts[::-1], [*parts, tuple(self.feed_forward())]), ()))
        embed = Embed(Weight("embedding", (VOCABULARY, WIDTH)), "x", self.choose(1.0, 2.5))
        output = self.choose(embed.weight, self.weight("matrix", VOCABULARY, WIDTH))
        head = (Norm("x", self.weight("norm", WIDTH), "norm", 1e-5), MatMul("norm", output, "logits"))
        return Plan(CONTEXT, VOCABULARY, embed, tuple(layers), head)


@st.composite
def plans(draw: Any) -> Plan:
    return Maker(draw).plan()


@pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=plans())
def test_any_plan_runs_as_the_interpreter_does(level: Level, plan: Plan) -> None:
    file = source_of(plan)
    exact = Interpreter(plan, {name: tensor.to_numpy() for name, tensor in file.tensors.items()}).logits(TEXT)
    found = on_the_cpu(plan, file, level, TEXT)
    tiled = level.lowering.startswith("amx")  # attention of prompts by tiles of bf16
    error = np.sqrt(((exact - found) ** 2).mean(axis=1)).max() / exact.std()
    assert error < (0.06 if tiled else 0.01)  # of a token; keys and values are kept as f16


@pytest.mark.parametrize("changes", [{}, {"attention.sliding_window": 5}, {"rope.dimension_count": 8}])
def test_the_interpreter_agrees_with_a_forward_pass_written_out(changes: dict[str, Any], tmp_path: Path) -> None:
    with gguf.open(write_model(tmp_path / "m", changes)) as file:
        plan = read_plan(file)
        interpreter = Interpreter(plan, {name: file.tensors[name].to_numpy() for name in plan.weights})
        tokens = [1, 5, 9, 60, 0, 3, 3, 2]
        # The other one rounds keys and values to f16, as the cache does.
        assert difference(reference(file, tokens), interpreter.logits(tokens)) < 3e-3


# -- what ops say --------------------------------------------------------------------------------------------


def test_buffers_are_as_wide_as_what_is_written() -> None:
    up = MatMul("x", Weight("a", (100, 72)), "up")
    ops = [Embed(Weight("e", (50, 72)), "x"), up, Gate("up", "up", "y", 100)]
    assert widths(ops) == {"x": 72, "up": 100, "y": 100}
    assert widths([up, MatMul("x", Weight("b", (64, 72)), "up")]) == {"up": 100}


def test_what_is_changed_in_place_is_read_too() -> None:
    weight, bias = Weight("w", (8, 4)), Weight("b", (8,))
    assert MatMul("x", weight, "y", bias).reads == ("x",)
    assert MatMul("x", weight, "y", add=True).reads == ("x", "y")
    assert MatMul("x", weight, "y", bias).weights == (weight, bias)
    rotate = Rotate("q", 4, 20, ROPES[0])
    assert (rotate.reads, dict(rotate.writes), rotate.weights) == (("q",), {"q": 80}, ())


def test_a_step_of_several_parts_has_the_rows_of_each_alone() -> None:
    pages = page_table(2, 2)  # of two groups of layers
    placed = [(1, 0, 7, False), (3, 4, 130, True), (2, 1, 9, False)]
    parts = [Rows(np.arange(count), row, position, pages, bulk) for count, row, position, bulk in placed]
    spans = _spans(parts, 2, tiles=True)
    rows, positions, tables = spans.each
    assert (np.arange(8)[rows].tolist(), positions.tolist()) == ([0, 4, 5, 6, 1, 2], [7, 130, 131, 132, 9, 10])
    assert tables.tolist() == [[pages.ctypes.data] * 6, [pages.ctypes.data + 16] * 6]
    order = spans.in_order()
    assert [(span.kind, span.row, span.rows) for span in order.all] == [(0, 0, 1), (1, 1, 2), (2, 4, 3)]
    assert order.tables.tolist() == [[pages.ctypes.data] * 3, [pages.ctypes.data + 16] * 3]
    assert (spans.end, order.end) == (7, 7)
    rows, positions, _ = _spans(parts[1:2], 2, tiles=False).each
    assert (np.arange(8)[rows].tolist(), positions.tolist()) == ([4, 5, 6], [130, 131, 132])


def test_rows_that_do_not_fit_are_refused_where_addresses_are_taken() -> None:
    with pytest.raises(ValueError, match="with pages for 256"):
        _spans([Rows(np.arange(3), 0, 254, page_table(1, 2), False)], 1, tiles=False)
    with pytest.raises(ValueError, match="of 2 groups"):
        _spans([Rows(np.arange(3), 0, 0, page_table(1, 2), False)], 2, tiles=False)
    with pytest.raises(ValueError, match="from position -1"):
        _spans([Rows(np.arange(3), 0, -1, page_table(1, 2), False)], 1, tiles=False)
    tables = np.ones((1, 2), np.int64)
    with pytest.raises(ValueError, match="kinds"):  # a run before a single row
        Step(8).set_spans(Spans([Span(0, 2, 1, 1), Span(2, 1, 1, 0)], tables), [1])
    with pytest.raises(ValueError, match="parts"):
        Step(8).set_spans(Spans([Span(1, 1, 1, 0)], tables[:, :1]), [1, 1])
    with pytest.raises(ValueError, match="of 8 rows"):
        Step(8).set_spans(Spans([Span(7, 2, 1, 1)], tables[:, :1]), [])
    with pytest.raises(ValueError, match="1 page tables, of 2 groups"):
        Step(8, groups=2).set_spans(Spans([Span(1, 1, 1, 1)], tables[:, :1]), [])


STORE, ATTEND = StoreKv(0, "k", "v", HEADS), Attend(0, "q", "y", HEADS, 1.0)


MISFITS: dict[str, list[Op]] = {
    "only queries turn": [Rotate("q", 4, 20, ROPES[0]), STORE, ATTEND],
    "by two ropes": [Rotate("q", 4, 20, ROPES[0]), Rotate("k", 2, 20, ROPES[1]), STORE, ATTEND],
    "something else turns": [Rotate("other", 4, 20, ROPES[0]), STORE, ATTEND],
    "of two layers": [STORE, Attend(1, "q", "y", HEADS, 1.0)],
    "stored twice": [STORE, STORE, ATTEND],
    "nothing attends": [STORE],
}


@pytest.mark.parametrize("name", MISFITS)
def test_attention_that_does_not_fit_together(name: str) -> None:
    with pytest.raises(ValueError, match="does not lead to an attention"):
        attend.block(MISFITS[name])


def test_what_begins_with_an_attention() -> None:
    norm = Norm("x", Weight("n", (4,)), "x", 1e-5)
    turned = [Rotate("q", 4, 20, ROPES[0]), Rotate("k", 2, 20, ROPES[0])]
    assert attend.begins([*turned, STORE, ATTEND])
    assert attend.begins([STORE, ATTEND])
    assert not attend.begins([*turned, norm, STORE, ATTEND])  # these turn where they are
    assert attend.ropes([norm, *turned, STORE, ATTEND, norm, STORE, ATTEND]) == [ROPES[0]]


# -- parts of a plan -----------------------------------------------------------------------------------------


def split_at(plan: Plan, *ends: int) -> list[Plan]:
    starts = (0, *ends)
    return [plan.part(start, stop) for start, stop in zip(starts, (*ends, len(plan.layers)), strict=True)]


def engine_of(file: ArraySource, plan: Plan, parts: list[Plan], level: Level) -> Engine:
    """An engine whose program is one for each part."""
    options, kernels = EngineOptions(n_threads=2, n_parallel=2), library(level)
    models = [Model(file, part, options, kernels) for part in [plan, *parts]]
    if not parts:
        return Engine(models[0], 64)
    return Engine(SplitModel(models[1:]), 64)


def everything(engine: Engine) -> list[Any]:
    """Logits in bulk, of a fork, one by one, after a shift and after pages are copied."""
    first = engine.sequence()
    found = engine.step([Chunk(first, TEXT[:40], "all", bulk=True)])
    found += engine.step([Chunk(first, TEXT[40:100], "last", bulk=True)])
    other = first.fork(90)
    found += engine.step([Chunk(first, [3]), Chunk(other, [4, 5], "all")])
    first.shift(2, 30)
    found += engine.step([Chunk(first, [7])])
    return found


@pytest.mark.parametrize("level", [BEST, EMULATED], ids=lambda level: level.name)
@pytest.mark.parametrize("ends", [(1,), (2,), (1, 2)], ids=str)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_a_plan_split_by_layers_gives_the_same_bits(ends: tuple[int, ...], level: Level, draw: Any) -> None:
    plan = draw.draw(plans().filter(lambda plan: len(plan.layers) == 3))
    file, options = source_of(plan), EngineOptions()
    load_kernels(file, plan, options, library(level))
    engines = [engine_of(file, plan, parts, level) for parts in ([], split_at(plan, *ends))]
    whole, split = (everything(engine) for engine in engines)
    assert engines[0].kv_bytes == engines[1].kv_bytes
    for engine in engines:
        engine.close()
    for a, b in zip(whole, split, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_part_cannot_do() -> None:
    def layer(i: int) -> tuple[Op, ...]:
        rows = {"q": 80, "k": 40, "v": 40}
        products = [MatMul("x", Weight(f"{i}{name}", (count, WIDTH)), name) for name, count in rows.items()]
        return (*products, StoreKv(i, "k", "v", HEADS), Attend(i, "q", "y", HEADS, 1.0))

    layers = (layer(0), layer(1))
    head = (MatMul("x", Weight("o", (VOCABULARY, WIDTH)), "logits"),)
    plan = Plan(CONTEXT, VOCABULARY, Embed(Weight("e", (VOCABULARY, WIDTH)), "x"), layers, head)
    file, first, last = source_of(plan), *split_at(plan, 1)
    assert (first.width, last.width, first.head, last.embed.reads) == (WIDTH, WIDTH, (), ())
    assert [set(part.weights) for part in (first, last)] == [{"e", "0q", "0k", "0v"}, {"1q", "1k", "1v", "o"}]
    load_kernels(file, plan, EngineOptions(), library(BEST))
    models = [Model(file, part, EngineOptions(), library(BEST)) for part in (first, last)]
    begin, end = (CpuProgram(model, 64) for model in models)
    rows = [Rows(np.array([1, 2]), 0, 0, page_table(1, 2), False)]
    with pytest.raises(ValueError, match="not the first: they have no embeddings"):
        end.run(rows)
    assert end.run(rows, begin.run(rows)).shape[1] == WIDTH
    with pytest.raises(ValueError, match="not the last: they make no logits"):
        begin.logits([0], False)
    assert end.logits([0, 1], False).shape == (2, VOCABULARY)
    other = CpuProgram(Model(file, last, EngineOptions(n_parallel=2), library(BEST)), 64)
    with pytest.raises(ValueError, match="cannot be one"):
        SplitProgram([begin, other])
    for program in (begin, end, other):
        program.close()


def test_what_needs_one_cpu_says_so() -> None:
    plan = Maker(None).plan()
    file = source_of(plan)
    load_kernels(file, plan, EngineOptions(), library(BEST))
    engine = engine_of(file, plan, split_at(plan, 1), BEST)
    with pytest.raises(GGUFError, match="all layers are on one CPU"), engine.profile():
        pass
    with pytest.raises(GGUFError, match="all layers are on one CPU"), engine.collect():
        pass
    with pytest.raises(GGUFError, match="all layers are on one CPU"), engine.collect():  # nothing is left of the first
        pass
    assert engine.step([Chunk(engine.sequence(), [1, 2])])[0].shape == (1, VOCABULARY)
    engine.close()
