"""Plans with experts of any type on the CPU against the interpreter, trials of them, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS
from experts_reference import KINDS, routed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggufpy.backends.cpu.model import Model, load_kernels
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import library
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Add, Attend, Embed, ExpertMatMul, Gate, Heads, MatMul, Norm, Rope, Rotate, Route, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.models.scaling import ScaleByGate
from ggufpy.runtime import trial
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.simd.isa import EMULATED, Level

WIDTH, HIDDEN, VOCABULARY, CONTEXT = 256, 256, 50, 160
HEADS = Heads(4, 2, 32, 32)
TEXT = np.random.default_rng(6).integers(0, VOCABULARY, 45).tolist()
PLAN_TYPES = ("F32", "Q4_0", "Q8_0", "F16", "Q4_K")


class Maker:
    """Layers with experts of random structure.

    Routers read "seen", a product of embeddings in float32: so no choice is so near that the rounding of what comes
    before decides it.
    """

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self.types: dict[str, str] = {}

    def choose(self, *of: Any) -> Any:
        """One of some; the first where nothing is drawn."""
        return of[0] if self._draw is None else self._draw(st.sampled_from(of))

    def weight(self, kind: str, *shape: int) -> Weight:
        made = Weight(f"{len(self.types)}", shape)
        self.types[made.name] = kind
        return made

    def attention(self, layer: int) -> Iterator[Op]:
        kind = self.choose("F16", "Q8_0")
        yield Norm("x", self.weight("F32", WIDTH), "norm", 1e-5)
        for name, rows in (("q", 128), ("k", 64), ("v", 64)):
            yield MatMul("norm", self.weight(kind, rows, WIDTH), name)
        yield Rotate("q", 4, 32, Rope(32, 10000.0))
        yield Rotate("k", 2, 32, Rope(32, 10000.0))
        yield StoreKv(layer, "k", "v", HEADS)
        yield Attend(layer, "q", "attn", HEADS, 0.2)
        yield MatMul("attn", self.weight("F32", WIDTH, 128), "x", add=True)

    def route(self, experts: int, count: int) -> Iterator[Op]:
        bias = self.weight("F32", experts) if self.choose(False, True) else None
        groups, used = self.choose((1, 1), (4, 2), (2, 1))
        yield MatMul("seen", self.weight("F32", experts, 64), "router")
        yield Route(
            "router", experts, "chosen", "shares", count, self.choose(*KINDS), bias, groups, used,
            self.choose(True, False), self.choose(1.0, 2.5),
        )  # fmt: skip

    def experts(self) -> Iterator[Op]:
        experts, count, kind = 8, self.count, self.choose(*PLAN_TYPES)
        yield from self.route(experts, count)

        def expert(rows: int, columns: int) -> tuple[Weight, Weight | None]:
            bias = self.weight("F32", experts, rows) if self.choose(False, True) else None
            return self.weight(kind, experts, rows, columns), bias

        def down(y: str, add: bool) -> ExpertMatMul:
            weight, bias = expert(WIDTH, HIDDEN)
            return ExpertMatMul("ffn", "chosen", weight, y, count, bias, True, "shares", add)

        yield Norm("x", self.weight("F32", WIDTH), "norm", 1e-5)
        gated = self.choose(True, False)
        for name in ("gate", "up") if gated else ("gate",):
            weight, bias = expert(HIDDEN, WIDTH)
            yield ExpertMatMul("norm", "chosen", weight, name, count, bias)
        shape = self.choose("silu", "gelu", "clamped")
        yield Gate("gate", "up" if gated else None, "ffn", count * HIDDEN, shape)
        if self.choose(False, True):
            yield from self.shared()
        if self.choose(True, False):
            yield down("x", True)
        else:
            yield down("out", False)
            yield Add("out", "x", WIDTH)

    def shared(self) -> Iterator[Op]:
        """An expert that every token uses, as much as a sigmoid says."""
        kind = self.choose("Q8_0", "F16")
        for name in ("gate", "up"):
            yield MatMul("norm", self.weight(kind, HIDDEN, WIDTH), f"shared {name}")
        yield Gate("shared gate", "shared up", "shared", HIDDEN)
        yield MatMul("shared", self.weight(kind, WIDTH, HIDDEN), "shared out")
        yield ScaleByGate("norm", self.weight("F32", WIDTH), "shared out", WIDTH)
        yield Add("shared out", "x", WIDTH)

    def plan(self) -> Plan:
        self.count = self.choose(3, 1, 2)
        layers = []
        for i in range(self.choose(2, 1)):
            first = [MatMul("x", self.weight("F32", 64, WIDTH), "seen")] if i == 0 else []
            layers.append((*first, *self.attention(i), *self.experts()))
        embed = Embed(Weight(trial.EMBEDDING, (VOCABULARY, WIDTH)), "x")
        head = (
            Norm("x", self.weight("F32", WIDTH), "norm", 1e-5),
            MatMul("norm", self.weight("F32", VOCABULARY, WIDTH), "logits"),
        )
        return Plan(CONTEXT, VOCABULARY, embed, tuple(layers), head)


@st.composite
def plans(draw: Any) -> tuple[Plan, dict[str, str]]:
    maker = Maker(draw)
    return maker.plan(), maker.types


def engine_of(of: tuple[Plan, dict[str, str]], level: Level, n_batch: int = 64, **options: Any) -> Engine:
    file = trial.source_of(trial.Trial(level.name, *of))
    chosen, kernels = EngineOptions(n_threads=2, n_ctx=CONTEXT, **options), library(level)
    load_kernels(file, of[0], chosen, kernels)
    return Engine(Model(file, of[0], chosen, kernels), n_batch)


def exact_logits(of: tuple[Plan, dict[str, str]], tokens: list[int]) -> Any:
    file = trial.source_of(trial.Trial(BEST.name, *of))
    return Interpreter(of[0], {name: tensor.to_numpy() for name, tensor in file.tensors.items()}).logits(tokens)


@pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(of=plans())
def test_plans_with_experts_run_as_the_interpreter_does(level: Level, of: tuple[Plan, dict[str, str]]) -> None:
    engine = engine_of(of, level)
    sequence = engine.sequence()
    found = engine.step([Chunk(sequence, TEXT[:-3], "all", bulk=True)])
    found += [engine.step([Chunk(sequence, [token], "all")])[0] for token in TEXT[-3:]]
    engine.close()
    exact, rows = exact_logits(of, TEXT), np.concatenate(found)
    assert np.sqrt(((exact - rows) ** 2).mean()) / exact.std() < 0.03  # one wrong row would make it 0.15


def beside_dense(gate: str, up: str) -> tuple[Plan, dict[str, str]]:
    """A dense layer, four times as wide as an expert, and one of experts, whose buffers are "gate" and "up"."""
    maker = Maker(None)
    maker.count = 2

    def dense(x: str, rows: int, y: str, columns: int = WIDTH) -> MatMul:
        return MatMul(x, maker.weight("Q8_0", rows, columns), y, None, y == "x")

    both = dense("x", 4 * HIDDEN, gate), dense("x", 4 * HIDDEN, up)
    wide = (*both, Gate(gate, up, "wide", 4 * HIDDEN), dense("wide", WIDTH, "x", 4 * HIDDEN))
    experts = (MatMul("x", maker.weight("F32", 64, WIDTH), "seen"), *maker.experts())
    embed = Embed(Weight(trial.EMBEDDING, (VOCABULARY, WIDTH)), "x")
    head = (MatMul("x", maker.weight("F32", VOCABULARY, WIDTH), "logits"),)
    plan = Plan(CONTEXT, VOCABULARY, embed, ((*maker.attention(0), *wide), (*maker.attention(1), *experts)), head)
    return plan, maker.types | {weight.name: "Q8_0" for weight in plan.weights.values() if len(weight.shape) == 3}


def test_buffers_of_experts_may_be_wider_for_a_dense_layer() -> None:
    """The parts of a row of the gate and up are then not a row's length apart."""
    found = []
    for names in (("gate", "up"), ("wide gate", "wide up")):
        engine = engine_of(beside_dense(*names), BEST)
        found.append(engine.step([Chunk(engine.sequence(), TEXT, "all", bulk=True)])[0])
        engine.close()
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("groups", [1, 2])
def test_parts_may_come_from_a_norm(groups: int) -> None:
    """Of a whole row or of its parts: 8-bit rows are those of each part."""
    maker = Maker(None)
    heads = [MatMul("x", maker.weight("F32", 128 if name == "q" else 64, WIDTH), name) for name in "qkv"]
    layer = (
        *heads, StoreKv(0, "k", "v", HEADS), Attend(0, "q", "attn", HEADS, 0.2),
        MatMul("x", maker.weight("F32", 8, WIDTH), "router"), Route("router", 8, "chosen", "shares", 2),
        MatMul("x", maker.weight("F32", 128, WIDTH), "wide"),
        Norm("wide", maker.weight("F32", 128 // groups), "wide", 1e-5, groups),
        ExpertMatMul(
            "wide", "chosen", maker.weight("Q8_0", 8, WIDTH, 64), "x", 2, own=True, shares="shares", add=True
        ),
        MatMul("attn", maker.weight("F32", WIDTH, 128), "x", add=True),
    )  # fmt: skip
    head = (MatMul("x", maker.weight("F32", VOCABULARY, WIDTH), "logits"),)
    embed = Embed(Weight(trial.EMBEDDING, (VOCABULARY, WIDTH)), "x")
    of = Plan(CONTEXT, VOCABULARY, embed, (layer,), head), maker.types
    engine = engine_of(of, BEST)
    found = engine.step([Chunk(engine.sequence(), TEXT, "all")])[0]
    engine.close()
    exact = exact_logits(of, TEXT)
    assert np.sqrt(((exact - found) ** 2).mean(axis=1)).max() / exact.std() < 0.02


@pytest.mark.parametrize("kinds", [("Q4_0", "Q8_0"), ("F32", "F16")], ids=str)
@pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)
def test_bits_do_not_depend_on_company_threads_or_steps(level: Level, kinds: tuple[str, str]) -> None:
    maker = Maker(None)
    plan = maker.plan()
    types = {name: kind if kind == "F32" else kinds[0] for name, kind in maker.types.items()}
    types |= {weight.name: kinds[1] for weight in plan.weights.values() if len(weight.shape) == 3}
    engine = engine_of((plan, types), level, n_parallel=3)
    other = [3, 9, 4, 4, 1, 30, 31]
    for bulk in (False, True):
        alone = engine.step([Chunk(engine.sequence(), TEXT[:24], "all", bulk)])[0]
        cut, found = engine.sequence(), []
        for start, stop in ((0, 1), (1, 6), (6, 22), (22, 24)):
            chunks = [Chunk(cut, TEXT[start:stop], "all", bulk)]
            chunks += [Chunk(engine.sequence(), other[: 2 + start % 5], "none")]
            chunks += [Chunk(engine.sequence(), TEXT[20:37], "none", bulk=True)]
            found.append(engine.step(chunks)[0])
        np.testing.assert_array_equal(np.concatenate(found), alone)
    engine.close()
    single = engine_of((plan, types), level, n_batch=7)
    one = single.sequence()
    parts = [single.step([Chunk(one, TEXT[i : i + 7], "all", bulk=True)])[0] for i in range(0, 21, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), alone[:21])
    single.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_interpreter_routes_as_written_out(kind: Any) -> None:
    rng = np.random.default_rng(9)
    for groups, used, with_bias in [(1, 1, False), (4, 2, True), (12, 3, False)]:
        embedding, bias = rng.standard_normal((20, 12)), rng.standard_normal(12)
        op = Route(
            "x", 12, "chosen", "shares", 3, kind, Weight("b", (12,)) if with_bias else None, groups, used, True, 0.5
        )
        plan = Plan(20, 20, Embed(Weight("e", (20, 12)), "x"), ((op,),), ())
        found = Interpreter(plan, {"e": embedding, "b": bias}).rows(range(20))
        chosen, shares = routed(embedding, op, bias if with_bias else None)
        np.testing.assert_array_equal(found["chosen"], chosen)
        np.testing.assert_allclose(found["shares"], shares, rtol=1e-12)


@pytest.mark.parametrize("level", [BEST, EMULATED], ids=lambda level: level.name)
def test_a_trial_of_experts_is_small_and_near(level: Level) -> None:
    """Groups, biases and shares stay what they are; experts are few, and not all of them are chosen."""
    rng = np.random.default_rng(10)
    for _ in range(3):
        maker = Maker(None)
        maker.choose = lambda *of: of[rng.integers(len(of))]  # type: ignore[method-assign]
        plan = maker.plan()
        small, types = trial.small(plan, maker.types)
        assert trial.error_of(trial.Trial(level.name, small, types)) < trial.LARGEST_ERROR / 4
        kinds = {(op.kind, op.bias is None, op.groups > 1) for op in plan.body if isinstance(op, Route)}
        assert {(op.kind, op.bias is None, op.groups > 1) for op in small.body if isinstance(op, Route)} == kinds
        assert {op.weight.shape for op in small.body if isinstance(op, ExpertMatMul)} == {(4, 256, 256)}
        assert all(op.count <= 2 for op in small.body if isinstance(op, ExpertMatMul))


# -- what does not fit -------------------------------------------------------------------------------------


ROUTE = Route("router", 8, "chosen", "shares", 2)


def lowered(*ops: Op) -> None:
    """Kernels of a plan of these ops behind a router of 8 experts and an attention."""
    types: dict[str, str] = {}
    heads = [MatMul("x", Weight(name, (128 if name == "q" else 64, 64)), name) for name in "qkv"]
    body = (*heads, StoreKv(0, "k", "v", HEADS), Attend(0, "q", "attn", HEADS, 0.2))
    body = (*body, MatMul("x", Weight("r", (8, 64)), "router"), *ops)
    plan = Plan(64, 50, Embed(Weight(trial.EMBEDDING, (50, 64)), "x"), (body,), ())
    file = trial.source_of(trial.Trial(BEST.name, plan, types))
    load_kernels(file, plan, EngineOptions(), library(BEST))


def test_experts_that_cannot_be_chosen_are_refused() -> None:
    wrong = [
        (replace(ROUTE, count=9), "9 experts cannot be chosen of 8"),
        (replace(ROUTE, groups=4, count=5, groups_used=2), "5 experts cannot be chosen of 4"),
        (replace(ROUTE, groups=3), "1 of 3 groups of 8 experts cannot be chosen"),
        (replace(ROUTE, groups=2, groups_used=3), "3 of 2 groups"),
        (replace(ROUTE, groups=65), "65 groups of experts; ggufpy runs up to 64"),
    ]
    for op, match in wrong:
        with pytest.raises(GGUFError, match=match):
            lowered(op)


UP = ExpertMatMul("x", "chosen", Weight("u", (8, 32, 64)), "up", 2)
DOWN = ExpertMatMul("up", "chosen", Weight("d", (8, 64, 32)), "x", 2, own=True, shares="shares", add=True)


def test_products_that_do_not_fit_are_refused() -> None:
    lowered(ROUTE, UP, DOWN)
    wrong = [
        ((replace(UP, weight=Weight("u", (4, 32, 64))),), "2 of 4 experts"),
        ((replace(UP, count=3),), "3 of 8 experts"),
        ((replace(UP, add=True),), "parts of up cannot be added to"),
        ((replace(UP, weight=Weight("u", (8, 32, 96))),), "does not fit"),
        ((UP, replace(ROUTE, experts=4)), "has experts of 8 and of 4"),
    ]
    for ops, match in wrong:
        with pytest.raises(ValueError, match=match):
            lowered(ROUTE, *ops)
    many = Route("router", 40, "chosen", "others", 33)
    product = ExpertMatMul("x", "chosen", Weight("u", (40, 64, 64)), "x", 33, shares="shares", add=True)
    router = MatMul("x", Weight("m", (40, 64)), "many")
    with pytest.raises(ValueError, match="shares has no 33 shares"):
        lowered(replace(ROUTE, chosen="few"), router, replace(many, x="many"), product)


def test_what_ops_of_experts_read_and_write() -> None:
    assert (ROUTE.reads, dict(ROUTE.writes)) == (("router",), {"chosen": 2, "shares": 2})
    assert (UP.reads, dict(UP.writes)) == (("x", "chosen"), {"up": 64})
    assert (DOWN.reads, dict(DOWN.writes)) == (("up", "chosen", "shares", "x"), {"x": 64})
    bias = Weight("b", (8, 32))
    assert replace(UP, bias=bias).weights == (UP.weight, bias)
