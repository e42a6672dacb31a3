"""Adapters: the kernel, plans with them against the interpreter, the bits of who has none, and files that are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, SIZES, VOCABULARY, Room, encoded, metadata, padded, run, step, weights, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_plan import TEXT, plans, source_of, split_at
from test_plan import engine_of as engine_of_parts

from ggufpy import format as gguf
from ggufpy.backends.cpu.model import Model, load_kernels, read_plan
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource
from ggufpy.jit.cache import library
from ggufpy.jit.spec import kernel
from ggufpy.models import lora
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.lora import Adapter, LoraSource
from ggufpy.models.ops import MatMul
from ggufpy.models.plan import Plan
from ggufpy.models.rewrite import with_lora
from ggufpy.models.source import WeightSource
from ggufpy.runtime import trial
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.runtime.trial import LARGEST_ERROR, Trial, error_of
from ggufpy.simd.isa import EMULATED, Level

KEYS = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama", "adapter.lora.alpha": 16.0}


# -- the kernel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_rows_whose_scale_is_zero_are_not_touched(level: Level) -> None:
    rng = np.random.default_rng(0)
    x, y = (padded(rng.standard_normal((7, 90)), 96) for _ in range(2))
    scales = np.array([0.5, 0, -2, 0, 0, 3e-3, 0], np.float32)
    x[1], x[3, 4], y[4] = np.nan, np.inf, -0.0
    expected = y + np.float32(1.5) * scales[:, None] * np.where(scales[:, None], x, 0)
    for nth in (1, 3):
        room = Room(y.copy())
        run(
            kernel("add_scaled"), level, nth, step_ptr=step(6), scales_ptr=Room(scales), x_ptr=Room(x), y_ptr=room,
            n_blocks=3, x_stride=x.strides[0], y_stride=y.strides[0], factor=1.5,
        )  # fmt: skip
        np.testing.assert_allclose(room.array, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(room.array[scales == 0].view(np.uint32), y[scales == 0].view(np.uint32))


# -- models ------------------------------------------------------------------------------------------------


def halves(name: str, rows: int, columns: int, rank: int, rng: Any, type_name: str = "F32") -> dict[str, Any]:
    a, b = rng.standard_normal((rank, columns)) / columns**0.5, rng.standard_normal((rows, rank)) / rank**0.5
    return {f"{name}.lora_a": encoded(a, type_name), f"{name}.lora_b": encoded(b, type_name)}


def adapter(
    of: dict[str, tuple[int, ...]], seed: int = 0, rank: int = 5, type_name: str = "F32", **changes: Any
) -> ArraySource:
    """An adapter's file of random pairs for matrices of these shapes."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, (rows, columns) in of.items():
        tensors |= halves(name, rows, columns, rank, rng, type_name)
    return ArraySource({k: v for k, v in {**KEYS, **changes}.items() if v is not None}, tensors)


def matrices(plan: Plan) -> dict[str, tuple[int, ...]]:
    tied = plan.embed.weights[0].name
    return {op.weight.name: op.weight.shape for op in plan.ops if isinstance(op, MatMul) and op.weight.name != tied}


def engine_of(
    source: WeightSource, plan: Plan, adapters: Sequence[Adapter], level: Level, n_parallel: int = 1
) -> Engine:
    adapted, whole = with_lora(plan, adapters), LoraSource(source, plan, adapters)
    options, kernels = EngineOptions(n_threads=2, n_ctx=min(plan.context, 160), n_parallel=n_parallel), library(level)
    load_kernels(whole, adapted, options, kernels)
    return Engine(Model(whole, adapted, options, kernels), 64)


def logits(engine: Engine, tokens: list[int], scales: Sequence[float] = ()) -> Any:
    """As a prompt in bulk, and the last three one by one."""
    sequence, found = engine.sequence(scales), []
    count = len(tokens) - 3
    for start in range(0, count, 64):
        found += engine.step([Chunk(sequence, tokens[start : min(start + 64, count)], "all", True)])
    found += [engine.step([Chunk(sequence, [token])])[0] for token in tokens[-3:]]
    sequence.close()
    return np.concatenate(found)


def values(source: WeightSource) -> dict[str, Any]:
    return {name: tensor.to_numpy() for name, tensor in source.tensors.items()}


@pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=plans(), draw=st.data())
def test_any_plan_with_adapters_runs_as_the_interpreter_does(level: Level, plan: Plan, draw: Any) -> None:
    source = ArraySource({"general.architecture": "llama"}, source_of(plan).tensors)
    names, adapters = sorted(matrices(plan)), []
    for i in range(draw.draw(st.integers(1, 2))):
        some = draw.draw(st.lists(st.sampled_from(names), min_size=1, max_size=6, unique=True))
        rank = draw.draw(st.sampled_from([1, 5, 16, 33]))
        of = {name: matrices(plan)[name] for name in some}
        adapters.append(lora.read(adapter(of, i, rank, **{"adapter.lora.alpha": 2.0 * rank})))
    scales = draw.draw(st.lists(st.sampled_from([0.0, 0.3, -0.2]), min_size=len(adapters), max_size=len(adapters)))
    engine = engine_of(source, plan, adapters, level)
    found, plain = logits(engine, TEXT, scales), logits(engine, TEXT)
    engine.close()
    interpreter = Interpreter(with_lora(plan, adapters), values(LoraSource(source, plan, adapters)))
    tiled = level.lowering.startswith("amx")
    for logged, exact in ((found, interpreter.logits(TEXT, scales)), (plain, interpreter.logits(TEXT))):
        error = np.sqrt(((exact - logged) ** 2).mean(axis=1)).max() / exact.std()
        assert error < (0.06 if tiled else 0.01)


@pytest.fixture(scope="module")
def model() -> ArraySource:
    return ArraySource(metadata(SIZES), weights(SIZES, VOCABULARY, "F32"))


TOKENS = [int(token) for token in np.random.default_rng(2).integers(0, VOCABULARY, 40)]


def test_an_adapter_is_as_good_as_merged_weights(model: ArraySource) -> None:
    plan = read_plan(model)
    one = lora.read(adapter(matrices(plan), 3, rank=6))
    engine = engine_of(model, plan, [one], BEST)
    found = logits(engine, TOKENS, [0.25])
    engine.close()
    merged = values(model)
    for name, pair in one.pairs.items():
        merged[name] = merged[name] + 0.25 * 16 / 6 * (pair.b.to_numpy() @ pair.a.to_numpy())
    exact = Interpreter(plan, merged).logits(TOKENS)
    assert np.abs(found - exact).max() < 0.01 * exact.std()
    without = Interpreter(plan, values(model)).logits(TOKENS)
    assert np.abs(found - without).max() > 0.5 * exact.std()


def test_without_alpha_pairs_count_as_they_are(model: ArraySource) -> None:
    plan = read_plan(model)
    one = {"blk.0.attn_q.weight": matrices(plan)["blk.0.attn_q.weight"]}
    for changes in ({"adapter.lora.alpha": None}, {"adapter.lora.alpha": 0.0}):
        assert lora.read(adapter(one, **changes)).factor("blk.0.attn_q.weight") == 1.0
    assert lora.read(adapter(one)).factor("blk.0.attn_q.weight") == 16.0 / 5


@pytest.mark.parametrize("level", [BEST, EMULATED], ids=lambda level: level.name)
@pytest.mark.parametrize(("own", "of_adapters"), [("F32", "F16"), ("F16", "F16"), ("Q8_0", "Q8_0"), ("Q4_0", "F32")])
def test_who_has_no_adapter_has_the_bits_of_the_model_alone(own: str, of_adapters: str, level: Level) -> None:
    sizes = {**SIZES, "embedding_length": 64, "feed_forward_length": 96, "attention.key_length": 32,
             "attention.value_length": 32}  # fmt: skip
    model = ArraySource(metadata(sizes), weights(sizes, VOCABULARY, own))
    plan = read_plan(model)
    adapters = [lora.read(adapter(matrices(plan), i, rank=32, type_name=of_adapters)) for i in range(2)]
    alone, together = engine_of(model, plan, [], level), engine_of(model, plan, adapters, level, n_parallel=3)
    expected = logits(alone, TOKENS)
    np.testing.assert_array_equal(logits(together, TOKENS), expected)
    np.testing.assert_array_equal(logits(together, TOKENS, [0.0, 0.0]), expected)
    by_itself = logits(together, TOKENS, [0.5, -0.25])
    assert not np.allclose(by_itself, expected, rtol=0.01)
    truth = Interpreter(with_lora(plan, adapters), values(LoraSource(model, plan, adapters)))
    exact = truth.logits(TOKENS, [0.5, -0.25])
    assert np.sqrt(((by_itself - exact) ** 2).mean()) < 0.05 * exact.std()
    # Three texts in a step, of which one has adapters, another one of them, and one none.
    sequences = [together.sequence(scales) for scales in ([0.5, -0.25], (), [0.0, 1.0])]
    rows = together.step([Chunk(one, TOKENS[:20], "all", True) for one in sequences])
    rows = [np.concatenate(pair) for pair in zip(rows, together.step([Chunk(one, TOKENS[20:37], "all", True)
                                                                      for one in sequences]), strict=True)]  # fmt: skip
    np.testing.assert_array_equal(rows[0], by_itself[:37])
    np.testing.assert_array_equal(rows[1], expected[:37])
    fork = sequences[0].fork(30)
    assert fork.scales == (0.5, -0.25)
    alone.close()
    together.close()


def test_a_plan_with_adapters_can_be_split_by_layers(model: ArraySource) -> None:
    plan = read_plan(model)
    some = {name: shape for name, shape in matrices(plan).items() if "blk.1" not in name}
    adapters = [lora.read(adapter(matrices(plan), 1)), lora.read(adapter(some, 2))]  # a part has one, the other two
    adapted, source = with_lora(plan, adapters), LoraSource(model, plan, adapters)
    load_kernels(source, adapted, EngineOptions(), library(BEST))
    engines = [engine_of_parts(source, adapted, parts, BEST) for parts in ([], split_at(adapted, 1))]
    whole, split = (logits(engine, TOKENS, [0.5, -0.25]) for engine in engines)
    np.testing.assert_array_equal(whole, split)
    for engine in engines:
        engine.close()


def test_a_model_without_adapters_has_the_plan_that_it_had(model: ArraySource) -> None:
    plan = read_plan(model)
    assert with_lora(plan, []) == plan
    assert (plan.adapters, with_lora(plan, [lora.read(adapter(matrices(plan)))]).adapters) == (0, 1)


def test_adapters_are_tried_with_the_model(model: ArraySource) -> None:
    plan = read_plan(model)
    adapters = [lora.read(adapter(matrices(plan), i)) for i in range(2)]
    adapted = with_lora(plan, adapters)
    tried = Trial(BEST.name, *trial.small(adapted, {}))
    assert tried.plan.adapters == 2
    assert error_of(tried) < LARGEST_ERROR / 5


def test_scales_that_do_not_fit(model: ArraySource) -> None:
    plan = read_plan(model)
    engine = engine_of(model, plan, [lora.read(adapter(matrices(plan)))], BEST)
    for scales, match in (
        ([1, 2], "2 scales of adapters were given; the model has 1"),
        ([float("nan")], "the scale of adapter 0"),
        (["a"], "the scale of adapter 0"),
        ([1e30], "at most 1e"),
    ):
        with pytest.raises(GGUFError, match=match):
            engine.sequence(scales)  # type: ignore[arg-type]
    engine.close()


# -- files -------------------------------------------------------------------------------------------------

Q = {"blk.0.attn_q.weight": (40, 40)}


def test_a_file_is_read(tmp_path: Path, model: ArraySource) -> None:
    made = adapter(Q)
    gguf.write(tmp_path / "a.gguf", made.metadata, made.tensors)
    with gguf.open(tmp_path / "a.gguf") as file, gguf.open(write_model(tmp_path / "m")) as base:
        found = lora.read(file, "a.gguf")
        assert (found.alpha, found.architecture, list(found.pairs)) == (16.0, "llama", list(Q))
        source = LoraSource(base, read_plan(base), [found])
        name = "blk.0.attn_q.weight.lora_b.0"
        given = made.tensors["blk.0.attn_q.weight.lora_b"].to_numpy()
        np.testing.assert_array_equal(source.tensors[name].to_numpy(), given)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"general.type": "model"}, "it is no LoRA adapter: its general.type is 'model', not 'adapter'"),
        ({"general.type": None}, "its general.type is None"),
        ({"general.type": [1, 2]}, "its general.type is"),
        ({"adapter.type": "other"}, "its adapter.type is 'other'"),
        ({"general.architecture": None}, "it has no general.architecture"),
        ({"general.architecture": 3}, "it has no general.architecture"),
        ({"adapter.alora.invocation_tokens": [1]}, "it is an activated LoRA"),
        ({"adapter.lora.alpha": "16"}, "it: adapter.lora.alpha"),
        ({"adapter.lora.alpha": float("nan")}, "it: adapter.lora.alpha"),
        ({"adapter.lora.alpha": -1.0}, "from 0 to"),
    ],
)
def test_metadata_of_what_is_no_adapter(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(GGUFError, match=match) as error:
        lora.read(adapter(Q, **changes), "it")
    assert "\n" not in str(error.value)


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({}, "it has no tensors"),
        ({"a.lora_a": ones(2, 3)}, "'a.lora_b' is missing"),
        ({"a.lora_b": ones(2, 3)}, "'a.lora_a' is missing"),
        ({"blk.0.attn_norm.weight": ones(3)}, "neither lora_a nor lora_b"),
        ({"a.lora_a": ones(2, 3), "a.lora_b": ones(4, 3)}, r"lora_a \(2, 3\) and lora_b \(4, 3\), of no rank"),
        ({"a.lora_a": ones(2), "a.lora_b": ones(4, 2)}, "of no rank"),
        ({"a.lora_a": ones(0, 3), "a.lora_b": ones(4, 0)}, "of no rank"),
        ({"a.lora_a": ones(2, 2, 3), "a.lora_b": ones(2, 4, 2)}, "changes the experts of 'a'"),
        ({"token_embd.weight.lora_a": ones(9, 2), "token_embd.weight.lora_b": ones(4, 2)}, "changes the embeddings"),
        ({"a.lora_a": ones(2, 3) * np.inf, "a.lora_b": ones(4, 2)}, "'a.lora_a' has a value that is not finite"),
        ({"a.lora_a": ones(2, 3), "a.lora_b": ones(4, 2).astype(np.int32)}, "'a.lora_b' is I32, whole numbers"),
    ],
)
def test_tensors_of_what_is_no_adapter(tensors: dict[str, Any], match: str) -> None:
    with pytest.raises(GGUFError, match=match) as error:
        lora.read(ArraySource(KEYS, tensors), "it")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("of", "match"),
    [
        ({"blk.0.attn_norm.weight": (40, 40)}, "it changes 'blk.0.attn_norm.weight', which the model does"),
        ({f"blk.{i}.other.weight": (4, 4) for i in range(7)}, "and 3 more, which the model does not multiply by"),
        ({"blk.0.attn_q.weight": (40, 48)}, r"as \(40, 48\), not \(40, 40\)"),
        ({"blk.0.attn_q.weight": (20, 40)}, r"it is for another model: .* as \(20, 40\), not \(40, 40\)"),
    ],
)
def test_adapters_of_other_models(of: dict[str, Any], match: str, model: ArraySource) -> None:
    with pytest.raises(GGUFError, match=match):
        with_lora(read_plan(model), [lora.read(adapter(of), "it")])


def test_adapters_of_other_architectures(model: ArraySource) -> None:
    other = lora.read(adapter(Q, **{"general.architecture": "qwen2"}), "it")
    with pytest.raises(GGUFError, match="it is for models of 'qwen2'; this one is 'llama'"):
        LoraSource(model, read_plan(model), [other])
