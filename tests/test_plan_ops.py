"""What ops can do beyond llama's: random plans, attention and widths of all kinds, and ops with a state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, Text, difference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_plan import CONTEXT, TEXT, VOCABULARY, WIDTH, Maker, on_the_cpu, source_of

from ggufpy.backends.cpu.model import Model, load_kernels
from ggufpy.backends.cpu.ops.attend import block
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource
from ggufpy.jit.cache import library
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Attend, Embed, Gate, Heads, MatMul, Norm, Rope, Rotate, Scale, SoftCap, StoreKv, View
from ggufpy.models.plan import Plan, widths
from ggufpy.models.recurrent import Conv, Scan
from ggufpy.models.rope import frequencies
from ggufpy.models.scaling import Clamp, PositionScale, ScaleByGate, ScaleByPosition
from ggufpy.runtime import trial
from ggufpy.runtime.engine import Engine
from ggufpy.runtime.trial import Trial, error_of
from ggufpy.simd.isa import EMULATED, Level

HEADS = Heads(4, 2, 32, 32)
SIZES = {"q": 128, "k": 64, "v": 64}
ROPES = [Rope(32, 10000.0, neox=True), Rope(16, 500.0), Rope(32, 1e6, neox=True, sections=(8, 4, 4))]
KINDS = ["silu", "gelu", "gelu_erf", "relu", "relu2", "clamped"]
at_every_level = pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)
drawn = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


class OpMaker(Maker):
    """Layers of everything that ops can do. Layers may be of different widths; some attend to another's keys."""

    def __init__(self, draw: Any, causal: bool = True) -> None:
        super().__init__(draw)
        self._causal, self._stored = causal, list[int]()

    def norm(self, x: str, y: str, groups: int, length: int) -> Iterator[Op]:
        kind = self.choose("rms", "layer", "l2")
        shape = (groups, length) if groups > 1 and self.choose(False, True) else (length,)
        weight = self.weight("norm", *shape) if self.choose(True, False) else None
        bias = self.weight("bias", *shape) if self.choose(False, True) else None
        yield Norm(x, weight, y, 1e-5, groups, kind, bias, length)
        if kind == "l2":
            yield Scale(y, groups * length, length**0.5)

    def projected(self, x: str, sizes: dict[str, int]) -> Iterator[Op]:
        """Products one by one, or as views of one."""
        if self.choose(True, False):
            yield self.product(x, "both", sum(sizes.values()), WIDTH)
            for i, (name, size) in enumerate(sizes.items()):
                yield View("both", sum(list(sizes.values())[:i]), size, name)
        else:
            for name, size in sizes.items():
                yield self.product(x, name, size, WIDTH)

    def attention(self, layer: int) -> Iterator[Op]:
        h, rope = HEADS, self.choose(*ROPES, None)
        shares = self._stored and self.choose(False, True)
        yield from self.norm("x", "norm", 1, WIDTH)
        yield from self.projected("norm", {"q": SIZES["q"]} if shares else SIZES)
        if self.choose(True, False):
            yield from self.norm("q", "q", h.queries, h.key_length)
        if self.choose(False, True):
            yield Clamp("q", SIZES["q"], -1.5, 2.0)
        if self.choose(False, True):
            yield ScaleByPosition("q", SIZES["q"], PositionScale(0.4, 20, self.choose(0, 1)))
        if rope is not None:
            yield Rotate("q", h.queries, h.key_length, rope)
        later = rope is not None and self.choose(False, True)  # norms of what has been turned
        if later:
            yield from self.norm("q", "q", h.queries, h.key_length)
        if not shares:
            if rope is not None:
                yield Rotate("k", h.shared, h.key_length, rope)
            if later:
                yield from self.norm("k", "k", h.shared, h.key_length)
            yield StoreKv(layer, "k", "v", h)
            self._stored.append(layer)
        sinks = self.weight("sinks", h.queries) if self.choose(True, False) else None
        window = self.choose(0, 5, 140)
        at = self._stored[-1] if shares else layer
        yield Attend(at, "q", "attn", h, self.choose(0.1, 0.3), window, self.choose(0.0, 1.5), sinks, self._causal)
        yield from self.added("attn", h.queries * h.value_length)

    def feed_forward(self) -> Iterator[Op]:
        kind, hidden = self.choose(*KINDS), self.choose(96, 100, 70, 33)
        yield from self.norm("x", "norm", 1, WIDTH)
        if self.choose(True, False):
            yield self.product("norm", "gate", hidden, WIDTH)
            yield Gate("gate", None, "ffn", hidden, kind)
        elif hidden % 32:
            yield self.product("norm", "gate", hidden, WIDTH)
            yield self.product("norm", "up", hidden, WIDTH)
            yield Gate("gate", "up", "ffn", hidden, kind)
        else:
            yield from self.projected("norm", {"gate": hidden, "up": hidden})
            yield Gate("gate", "up", self.choose("ffn", "up"), hidden, kind)
            yield Gate("gate", "up", "ffn", hidden, kind)
        yield Scale("ffn", hidden, 0.7)
        if self.choose(False, True):
            yield ScaleByGate("norm", self.weight("gate", WIDTH), "ffn", hidden)
        yield from self.added("ffn", hidden)

    def plan(self) -> Plan:
        made = super().plan()
        assert isinstance(made.embed, Embed)
        embed = made.embed
        if self.choose(False, True):
            embed = replace(embed, positions=self.weight("positions", CONTEXT + self.choose(0, 3), WIDTH))
        if self.choose(False, True):
            embed = replace(embed, constant=self.weight("types", self.choose(2, 1), WIDTH))
        return replace(made, embed=embed, head=(*made.head, SoftCap("logits", VOCABULARY, self.choose(2.0, 30.0))))


@st.composite
def plans(draw: Any, causal: bool = True) -> Plan:
    return OpMaker(draw, causal).plan()


def exact_logits(plan: Plan, file: ArraySource, text: list[int]) -> Any:
    return Interpreter(plan, {name: tensor.to_numpy() for name, tensor in file.tensors.items()}).logits(text)


def check(exact: Any, found: Any, level: Level) -> None:
    tiled = level.lowering.startswith("amx")  # attention of prompts by tiles of bf16
    assert np.sqrt(((exact - found) ** 2).mean(axis=1)).max() / exact.std() < (0.06 if tiled else 0.01)


@at_every_level
@drawn
@given(plan=plans())
def test_any_plan_runs_as_the_interpreter_does(level: Level, plan: Plan) -> None:
    file = source_of(plan)
    check(exact_logits(plan, file, TEXT), on_the_cpu(plan, file, level, TEXT), level)


@at_every_level
@settings(parent=drawn, max_examples=6)
@given(plan=plans(causal=False))
def test_any_plan_whose_tokens_see_the_whole_text(level: Level, plan: Plan) -> None:
    file, options, kernels = source_of(plan), EngineOptions(n_threads=2), library(level)
    load_kernels(file, plan, options, kernels)
    with Text(Engine(Model(file, plan, options, kernels), 150)) as session:
        for text in (TEXT, TEXT[:1], TEXT[:7], TEXT[:130]):
            session.truncate(0)
            check(exact_logits(plan, file, text), session.eval_logits(text), level)
        with pytest.raises(GGUFError, match="see the whole text, so it must be evaluated in one step"):
            session.eval_logits([1])


@pytest.mark.parametrize("causal", [True, False])
@settings(parent=drawn, max_examples=5)
@given(draw=st.data())
def test_a_trial_of_any_plan_runs_its_kernels(causal: bool, draw: Any) -> None:
    plan = draw.draw(plans(causal))
    options, kernels = EngineOptions(), library(BEST)
    wanted = load_kernels(source_of(plan), plan, options, kernels)
    tried = Trial(BEST.name, *trial.small(plan, dict.fromkeys(plan.weights, "F32")))
    found = load_kernels(trial.source_of(tried), tried.plan, options, kernels)
    # Layers of several widths, of which some fill no block, leave something to clear; those of a trial are alike.
    assert set(found) == {code for code in wanted if code.source != "clear"}
    assert error_of(tried) < trial.LARGEST_ERROR / 2


def lowered(ops: list[Op]) -> None:
    """What the CPU says to some ops, before anything is packed."""
    head = (MatMul("x", Weight("o", (VOCABULARY, 64)), "logits"),)
    kept = [StoreKv(0, "x", "x", Heads(2, 2, 32, 32)), Attend(0, "x", "x", Heads(2, 2, 32, 32), 1.0)]
    plan = Plan(CONTEXT, VOCABULARY, Embed(Weight("e", (VOCABULARY, 64)), "x"), ((*kept, *ops),), head)
    load_kernels(source_of(plan), plan, EngineOptions(), library(BEST))


# -- attention -------------------------------------------------------------------------------------------------------


def test_attention_without_a_store_is_that_of_another_layer() -> None:
    h = Heads(2, 2, 32, 32)
    rope = Rope(32, 10000.0)
    attend = Attend(3, "q", "y", h, 1.0)
    assert block([attend])[1].store is None
    assert block([Rotate("q", 2, 32, rope), attend])[1].rope == rope
    with pytest.raises(ValueError, match="does not lead to an attention"):
        block([Rotate("k", 2, 32, rope), attend])
    with pytest.raises(GGUFError, match="attends to the keys of layer 3, which nobody stores here"):
        lowered([Attend(3, "x", "y", h, 1.0)])
    with pytest.raises(GGUFError, match="whose heads are others"):
        lowered([Attend(0, "x", "y", Heads(2, 1, 32, 32), 1.0)])


def test_sections_change_nothing_for_a_text() -> None:
    rope = Rope(32, 10000.0, neox=True)
    np.testing.assert_array_equal(frequencies(rope), frequencies(replace(rope, sections=(8, 4, 4))))
    with pytest.raises(ValueError, match="sections of 17 pairs, of 16"):
        frequencies(replace(rope, sections=(9, 8)))


# -- ops with a state: the interpreter -------------------------------------------------------------------------------


def run(ops: list[Op], weights: dict[str, Any], x: Any) -> dict[str, Any]:
    """Every buffer, of rows of "x" as given."""
    embed = Embed(Weight("e", x.shape), "x")
    return Interpreter(Plan(9, len(x), embed, (tuple(ops),), ()), {"e": x, **weights}).rows(range(len(x)))


def test_a_convolution_reaches_back() -> None:
    rng = np.random.default_rng(1)
    x, weight, bias = rng.standard_normal((6, 5)), rng.standard_normal((5, 3)), rng.standard_normal(5)
    found = run([Conv(0, "x", Weight("w", (5, 3)), "y", Weight("b", (5,)))], {"w": weight, "b": bias}, x)["y"]
    for t in range(6):
        for c in range(5):
            exact = bias[c] + sum(weight[c, 2 - j] * x[t - j, c] for j in range(3) if t >= j)
            assert found[t, c] == pytest.approx(exact)
    again = run([Conv(0, "x", Weight("w", (5, 3)), "y", Weight("b", (5,)))], {"w": weight, "b": bias}, x[:4])["y"]
    np.testing.assert_array_equal(found[:4], again)


@pytest.mark.parametrize(("delta", "rated", "columns"), [(False, False, 1), (False, False, 3), (True, True, 1)])
def test_a_scan_fades_writes_and_reads(delta: bool, rated: bool, columns: int) -> None:
    """Mamba 2, Mamba 1's decay by dimension, and the gated delta rule, written out head by head."""
    heads, rng = Heads(4, 2, 3, 2), np.random.default_rng(2)
    sizes = {"q": 6, "k": 6, "v": 8, "step": 4, "rate": 4}
    x = rng.standard_normal((7, sum(sizes.values())))
    weights = {"decay": -rng.uniform(0.1, 2, (4, columns))}
    weights |= {name: rng.standard_normal(4) for name in ("bias", "skip")}
    ends = np.cumsum(list(sizes.values()))
    ops: list[Op] = [View("x", int(end - n), n, name) for end, (name, n) in zip(ends, sizes.items(), strict=True)]
    scan = Scan(
        0, "q", "k", "v", "step", "y", heads, Weight("decay", (4, columns)), Weight("bias", (4,)),
        "rate" if rated else None, None if delta else Weight("skip", (4,)), delta,
    )  # fmt: skip
    assert scan.reads == ("q", "k", "v", "step", *(["rate"] if rated else []))
    assert [weight.name for weight in scan.weights] == ["decay", "bias", *([] if delta else ["skip"])]
    used = {w.name: weights[w.name] for w in scan.weights}
    found = run([*ops, scan], used, x)["y"].reshape(7, 4, 2)
    q, k, v, step, rate = np.split(x, ends[:-1], axis=1)
    for h in range(4):
        state = np.zeros((2, 3))
        for t in range(7):
            d = np.log1p(np.exp(step[t, h] + weights["bias"][h]))
            r = 1 / (1 + np.exp(-rate[t, h])) if rated else d
            key, query, value = (a[t].reshape(-1, n)[i] for a, n, i in ((k, 3, h // 2), (q, 3, h // 2), (v, 2, h)))
            state = state * np.exp(weights["decay"][h] * d)
            state = state + r * np.outer(value - (state @ key if delta else 0), key)
            exact = state @ query + (0 if delta else weights["skip"][h] * value)
            np.testing.assert_allclose(found[t, h], exact, rtol=1e-9)


def test_ops_with_a_state_are_refused_in_one_line() -> None:
    with pytest.raises(GGUFError, match="the model has short convolutions, which ggufpy does not run yet"):
        lowered([Conv(0, "x", Weight("w", (64, 3)), "y")])
    scan = Scan(0, "x", "x", "x", "x", "y", Heads(2, 2, 32, 32), Weight("decay", (2, 1)))
    with pytest.raises(GGUFError, match="the model has scans with a state, which ggufpy does not run yet"):
        lowered([scan])


def test_a_small_plan_has_the_same_ops_with_a_state() -> None:
    heads = Heads(4, 2, 16, 24)
    sizes = {"v": 96, "k": 32, "q": 32, "step": 4, "rate": 4}
    fused = MatMul("x", Weight("w", (sum(sizes.values()), 64)), "both")
    ends = np.cumsum(list(sizes.values())).tolist()
    views = [View("both", end - n, n, name) for end, (name, n) in zip(ends, sizes.items(), strict=True)]
    ops = (
        Conv(5, "x", Weight("c", (64, 3)), "x", Weight("cb", (64,))), fused, *views,
        Scan(5, "q", "k", "v", "step", "y", heads, Weight("d", (4, 1)), Weight("b", (4,)), "rate", delta=True),
        MatMul("y", Weight("o", (64, 96)), "x", add=True),
    )  # fmt: skip
    head = (MatMul("x", Weight("l", (VOCABULARY, 64)), "logits"),)
    plan = Plan(CONTEXT, VOCABULARY, Embed(Weight("e", (VOCABULARY, 64)), "x"), (ops,), head)
    tried = Trial(BEST.name, *trial.small(plan, {}))
    assert [type(op) for op in tried.plan.body] == [type(op) for op in ops]
    assert [op.writes["both"] for op in tried.plan.body if isinstance(op, MatMul) and op.y == "both"] == [168]
    values = {name: tensor.to_numpy() for name, tensor in trial.source_of(tried).tensors.items()}
    assert np.isfinite(Interpreter(tried.plan, values).logits([1, 2, 3])).all()


def test_a_small_plan_attends_to_what_was_stored_last() -> None:
    h, q = Heads(2, 2, 32, 32), [MatMul("x", Weight("q", (64, 64)), "q")]
    own = [StoreKv(0, "x", "x", h), Attend(0, "q", "y", h, 1.0)]
    widened = [MatMul("x", Weight(f"w{n}", (n, 64)), "up") for n in (96, 64)]
    again = [StoreKv(1, "x", "x", h), Attend(1, "q", "y", h, 1.0)]
    layers = [[*q, *own, widened[0]], [*q, *again, widened[1]], [*q, Attend(0, "q", "y", h, 1.0)]]
    head = (MatMul("x", Weight("l", (VOCABULARY, 64)), "logits"),)
    embed = Embed(Weight("e", (VOCABULARY, 64)), "x")
    made, _ = trial.small(Plan(CONTEXT, VOCABULARY, embed, tuple(map(tuple, layers)), head), {})
    assert len(made.layers) == 2  # two are alike but for a width
    assert [op.layer for op in made.body if isinstance(op, Attend)] == [0, 0]

    own = [StoreKv(1, "x", "x", other := Heads(1, 1, 64, 64)), Attend(1, "q", "y", other, 1.0)]
    layers[1] = [*q, *own]  # keys of another geometry are not what the last layer attends to
    made, _ = trial.small(Plan(CONTEXT, VOCABULARY, embed, tuple(map(tuple, layers)), head), {})
    assert [op.layer for op in made.body if isinstance(op, Attend)] == [0, 1, 0]


# -- widths ----------------------------------------------------------------------------------------------------------


def test_a_buffer_is_as_wide_as_the_widest_layer_wants() -> None:
    first, second = (MatMul("x", Weight(f"w{n}", (n, 64)), "up") for n in (100, 40))
    assert widths([first, View("up", 0, 64, "y"), second, View("up", 0, 32, "y")]) == {"up": 100, "y": 64}


@at_every_level
def test_a_narrow_layer_does_not_read_what_a_wide_one_left(level: Level) -> None:
    """100, 97 and 33 columns: the last blocks of the narrower ones have been written by others."""
    weights: list[Weight] = []

    def weight(*shape: int) -> Weight:
        weights.append(Weight(f"matrix.{len(weights)}", shape))
        return weights[-1]

    layers = []
    for i, hidden in enumerate((100, 97, 33, 97)):
        gate = MatMul("x", weight(hidden, 64), "up")
        norm = Norm("up", Weight(f"norm.{i}", (hidden,)), "up", 1e-5)
        gates = Gate("up", None, "ffn", hidden, "gelu")
        layers.append((gate, norm, gates, MatMul("ffn", weight(64, hidden), "x", add=True)))
    heads = Heads(2, 2, 32, 32)
    kept = (MatMul("x", weight(64, 64), "q"), StoreKv(0, "x", "x", heads), Attend(0, "q", "y", heads, 0.2))
    head = (MatMul("x", weight(VOCABULARY, 64), "logits"),)
    plan = Plan(CONTEXT, VOCABULARY, Embed(Weight("embedding", (VOCABULARY, 64)), "x"), (kept, *layers), head)
    file = source_of(plan)
    found = on_the_cpu(plan, file, level, TEXT)
    assert difference(exact_logits(plan, file, TEXT), found) < 2e-3
    assert np.array_equal(found, on_the_cpu(plan, file, level, TEXT, n_batch=7))
