"""Views: names for columns of a buffer, in every form in which ops read and change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine import BEST, LEVELS
from test_plan import CONTEXT, VOCABULARY, WIDTH, engine_of, everything, source_of
from test_plan_ops import HEADS, ROPES, SIZES, lowered

from ggufpy.backends.cpu.collect import Collector
from ggufpy.backends.cpu.model import Model, load_kernels
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource
from ggufpy.jit.cache import library
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import (
    Add,
    AddScaled,
    Attend,
    Embed,
    Gate,
    Heads,
    MatMul,
    Norm,
    Rope,
    Rotate,
    Scale,
    StoreKv,
    View,
)
from ggufpy.models.plan import Plan
from ggufpy.models.views import Views
from ggufpy.runtime import trial
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.runtime.trial import Trial, error_of
from ggufpy.simd.isa import EMULATED, Level

at_every_level = pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)
BIG, WORDS = 256, 96  # what blocks of any type fit


def viewing(kind: str, level: Level) -> Trial:
    """Parts of fused products that matrices read before and after they change, and through the whole."""
    types: dict[str, str] = {}

    def weight(rows: int, columns: int) -> Weight:
        types[f"{len(types)}.weight"] = kind
        return Weight(f"{len(types) - 1}.weight", (rows, columns))

    heads = Heads(4, 2, 64, 64)
    body = (
        MatMul("x", weight(512, BIG), "qkv"),
        View("qkv", 0, 256, "q"),
        View("qkv", 256, 128, "k"),
        View("qkv", 384, 128, "v"),
        Rotate("q", 4, 64, Rope(64, 10000.0, neox=True)),
        Rotate("k", 2, 64, Rope(64, 10000.0, neox=True)),
        StoreKv(0, "k", "v", heads),
        Attend(0, "q", "attn", heads, 0.125),
        MatMul("attn", weight(BIG, 256), "x", add=True),
        MatMul("x", weight(1024, BIG), "both"),
        View("both", 0, 512, "left"),
        View("left", 256, 256, "inner"),
        View("both", 512, 512, "right"),
        MatMul("inner", weight(BIG, BIG), "y"),
        Scale("inner", 256, -0.5),  # what has been made of it is out of date
        MatMul("inner", weight(BIG, BIG), "y", add=True),
        MatMul("x", weight(256, BIG), "inner", add=True),
        MatMul("both", weight(BIG, 1024), "y", add=True),
        View("right", 0, 256, "half"),
        Add("y", "half", 256),
        MatMul("right", weight(BIG, 512), "y", add=True),
        Gate("left", "right", "right", 512),
        MatMul("both", weight(BIG, 1024), "y", add=True),
        MatMul("right", weight(BIG, 512), "y", add=True),
        Add("y", "x", BIG),
        MatMul("x", weight(512, BIG), "left"),  # a buffer of its own from here on
        MatMul("both", weight(BIG, 1024), "x", add=True),
        MatMul("left", weight(BIG, 512), "x", add=True),
    )
    head = (MatMul("x", weight(WORDS, BIG), "logits"), Scale("logits", WORDS, 0.25))
    embed = Embed(Weight(trial.EMBEDDING, (WORDS, BIG)), "x")
    return Trial(level.name, Plan(CONTEXT, WORDS, embed, (body,), head), types)


@at_every_level
@pytest.mark.parametrize("kind", ["Q8_0", "BF16", "F32"])
def test_matrices_read_views(kind: str, level: Level) -> None:
    assert error_of(viewing(kind, level)) < 0.02


def shifting(before: str, kind: str) -> Trial:
    """A matrix reads `b`, which is then the name of other columns: of a buffer of which it was a view, or not."""
    types = {f"{i}.weight": kind for i in range(5)}
    weights = iter(types)

    def product(x: str, y: str, rows: int = BIG, add: bool = False) -> MatMul:
        return MatMul(x, Weight(next(weights), (rows, BIG)), y, None, add)

    first = View("a", 0, BIG, "b") if before == "a view" else product("x", "b")
    body = (product("x", "a", 512), first, product("b", "x", add=True), View("a", BIG, BIG, "b"),
            product("b", "x", add=True))  # fmt: skip
    embed = Embed(Weight(trial.EMBEDDING, (WORDS, BIG)), "x")
    return Trial(BEST.name, Plan(CONTEXT, WORDS, embed, (body,), (product("x", "logits", WORDS),)), types)


@pytest.mark.parametrize("kind", ["Q8_0", "F32"])
@pytest.mark.parametrize("before", ["a view", "a buffer"])
def test_what_was_made_of_other_columns_is_not_read(before: str, kind: str) -> None:
    assert error_of(shifting(before, kind)) < 0.02


def test_a_trial_of_an_adapter_on_a_fused_product_is_as_wide_as_its_views() -> None:
    tried = viewing("F32", BEST)
    a, b = Weight("a", (16, BIG)), Weight("b", (512, 16))
    first, *others = tried.plan.layers[0]
    added = MatMul("inner.16", b, "lora"), AddScaled("lora", "qkv", 512, 0)
    adapted = (MatMul("x", a, "inner.16"), first, *added, *others)
    plan, types = trial.small(replace(tried.plan, layers=(adapted,)), tried.types)
    assert [op.width for op in plan.body if isinstance(op, AddScaled)] == [512]
    assert error_of(Trial(BEST.name, plan, types)) < 0.02


@pytest.mark.parametrize("name", ["k", "v", "q"])
def test_attention_may_give_a_view_that_it_read_a_new_meaning(name: str) -> None:
    tried = viewing("F32", BEST)
    ops = [replace(op, y=name) if isinstance(op, Attend) else op for op in tried.plan.layers[0]]
    ops = [replace(op, x=name) if isinstance(op, MatMul) and op.x == "attn" else op for op in ops]
    assert error_of(replace(tried, plan=replace(tried.plan, layers=(tuple(ops),)))) < 0.02


def fused(plan: Plan, file: ArraySource) -> tuple[Plan, ArraySource]:
    """The same plan with queries, keys and values of one product, and gate and up of another."""
    tensors = {name: tensor.to_numpy() for name, tensor in file.tensors.items()}
    layers: list[tuple[Op, ...]] = []
    for i, ops in enumerate(plan.layers):
        made: list[Op] = []
        for op in ops:
            if not isinstance(op, MatMul) or op.y not in ("q", "k", "v", "gate", "up"):
                made.append(op)
            elif op.y in ("q", "gate"):
                parts = [other for other in ops if isinstance(other, MatMul) and other.x == "norm"]
                parts = [other for other in parts if (other.y in "qkv") == (op.y == "q")]
                values = np.concatenate([tensors[part.weight.name] for part in parts])
                name = f"matrix.{op.y}{i}"
                tensors[name] = values
                made.append(MatMul("norm", Weight(name, values.shape), op.y * 2))
                ends = np.cumsum([part.weight.shape[0] for part in parts]).tolist()
                made += [
                    View(op.y * 2, end - part.weight.shape[0], part.weight.shape[0], part.y)
                    for part, end in zip(parts, ends, strict=True)
                ]
        layers.append(tuple(made))
    return replace(plan, layers=tuple(layers)), ArraySource({}, tensors)


def attending(layers: int, rope: Rope | None, again: str) -> Plan:
    """Attention and a feed-forward part, of separate products; and attention again to the same keys, or stored anew."""
    count = 0

    def product(x: str, y: str, rows: int, columns: int, add: bool = False) -> MatMul:
        nonlocal count
        count += 1
        return MatMul(x, Weight(f"matrix.{count}", (rows, columns)), y, None, add)

    made = []
    for i in range(layers):
        turned = [] if rope is None else [Rotate("q", 4, 32, rope), Rotate("k", 2, 32, rope)]
        second: list[Op] = []
        if again != "not at all":
            stores = [StoreKv(2 * i + 1, "k", "v", HEADS)] if again == "stored" else []
            attend = Attend(2 * i + len(stores), "q2", "attn2", HEADS, 0.1, window=9)
            second = [product("norm", "q2", 128, WIDTH), *stores, attend, product("attn2", "x", WIDTH, 128, True)]
        ops: list[Op] = [
            Norm("x", Weight("norm.0", (WIDTH,)), "norm", 1e-5),
            *(product("norm", name, size, WIDTH) for name, size in SIZES.items()), *turned,
            StoreKv(2 * i, "k", "v", HEADS), Attend(2 * i, "q", "attn", HEADS, 0.2),
            product("attn", "x", WIDTH, 128, True), *second,
            product("norm", "gate", 96, WIDTH), product("norm", "up", 96, WIDTH), Gate("gate", "up", "ffn", 96),
            product("ffn", "x", WIDTH, 96, True),
        ]  # fmt: skip
        made.append(tuple(ops))
    head = (product("x", "logits", VOCABULARY, WIDTH),)
    return Plan(CONTEXT, VOCABULARY, Embed(Weight("embedding", (VOCABULARY, WIDTH)), "x"), tuple(made), head)


def same_bits(level: Level, *of: tuple[Plan, ArraySource]) -> None:
    """Logits in bulk, of a fork, one by one, and after a shift."""
    found = []
    for plan, file in of:
        load_kernels(file, plan, EngineOptions(), library(level))
        engine = engine_of(file, plan, [], level)
        found.append(everything(engine))
        engine.close()
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


@at_every_level
def test_fused_products_have_the_bits_of_separate_ones(level: Level) -> None:
    plan = attending(2, ROPES[0], again="not at all")
    file = source_of(plan)
    same_bits(level, (plan, file), fused(plan, file))


@at_every_level
def test_shared_keys_have_the_bits_of_keys_stored_twice(level: Level) -> None:
    shared = attending(2, None, "shared")
    file = source_of(shared)
    same_bits(level, (shared, file), (attending(2, None, "stored"), file))


def test_what_matrices_read_is_collected_by_content() -> None:
    plan, collector = viewing("F32", BEST).plan, Collector(output=False)
    products = [op.weight.name for op in plan.body if isinstance(op, MatMul)]
    collector.tapped(plan)
    found = [[products.index(name) for name in one.names] for one in collector._inputs.values()]
    assert found == [[0], [1], [2, 5], [3], [4], [6], [7], [8, 11], [9], [10], [12]]
    file, options = trial.source_of(viewing("Q8_0", BEST)), EngineOptions(n_threads=2)
    plan = viewing("Q8_0", BEST).plan
    kernels = library(BEST)
    load_kernels(file, plan, options, kernels)
    engine = Engine(Model(file, plan, options, kernels), 64)
    with engine.collect() as collector:
        engine.step([Chunk(engine.sequence(), [1, 2, 3])])
    engine.close()
    squares = collector.squares()
    assert set(squares) == set(products)
    assert all(values.any() for values, _ in squares.values())


def test_names_that_share_columns() -> None:
    views = Views()
    for op in (View("a", 32, 64, "b"), View("b", 32, 32, "c"), View("a", 0, 32, "d")):
        views.follow(op)
    assert [views.place(name) for name in "abcd"] == [("a", 0), ("a", 32), ("a", 64), ("a", 0)]
    assert [views.sharing(name) for name in "abcd"] == [set("abcd"), set("abc"), set("abc"), set("ad")]
    views.follow(Scale("b", 64, 2.0))
    assert views.place("b") == ("a", 32)
    views.follow(MatMul("x", Weight("w", (64, 4)), "b"))
    assert (views.place("b"), views.place("c"), views.sharing("b")) == (("b", 0), ("a", 64), {"b"})
    views.follow(View("x", 0, 32, "a"))
    assert (views.place("a"), views.place("d")) == (("x", 0), ("d", 0))


def test_views_that_are_no_blocks_are_refused() -> None:
    up = MatMul("x", Weight("w", (100, 64)), "up")
    lowered([up, View("up", 32, 32, "y"), View("up", 64, 36, "y")])  # the last ends where the buffer does
    for at, width in [(20, 32), (0, 36), (64, 30)]:
        with pytest.raises(GGUFError, match=rf"columns {at} to {at + width} of up \(100\) apart: .* multiples of 32"):
            lowered([up, View("up", at, width, "y")])
    with pytest.raises(ValueError, match="up has 100 columns"):
        lowered([up, View("up", 96, 32, "y")])
