"""Hooks of attention: probabilities, queries, keys and values, against NumPy and the interpreter, at every level."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_embeddings
import test_models_families2
import test_models_gemma3
from engine import BEST, LEVELS, SIZES, VOCABULARY, difference, metadata, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kv_reference import rounded
from test_plan import TEXT, source_of
from test_plan_ops import plans
from test_taps import TOKENS, changing, kept, read_text, side_by_side

from ggufpy import format as gguf
from ggufpy.backends.cpu import attention_taps
from ggufpy.backends.cpu.model import Model, load_kernels, read_plan
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource
from ggufpy.jit.cache import library
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Attend, Embed, Heads, MatMul, Rope, Rotate, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.models.rewrite import with_taps
from ggufpy.models.taps import activations
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.simd.isa import EMULATED, Level

WEIGHTS, HEAD_NAMES = "blk.0.kq_soft_max", ("blk.0.Qcur", "blk.0.Kcur", "blk.0.Vcur")
H = Heads(4, 2, 64, 32)
SCALE = 0.3
at_every_level = pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)


def one_layer(window: int = 0, softcap: float = 0.0, sinks: bool = False, causal: bool = True) -> Plan:
    """A plan of one layer that attends, with a window, a cap and sinks where they are wanted."""
    names = {"q": H.queries * H.key_length, "k": H.shared * H.key_length, "v": H.shared * H.value_length}
    products = [MatMul("x", Weight(name, (count, 64)), name) for name, count in names.items()]
    rope = Rope(32, 10000.0, neox=True)
    turned = [Rotate("q", H.queries, H.key_length, rope), Rotate("k", H.shared, H.key_length, rope)]
    sink = Weight("sinks", (H.queries,)) if sinks else None
    ops: tuple[Op, ...] = (
        *products, *turned, StoreKv(0, "k", "v", H), Attend(0, "q", "y", H, SCALE, window, softcap, sink, causal),
        MatMul("y", Weight("o", (64, H.queries * H.value_length)), "x", add=True),
    )  # fmt: skip
    head = (MatMul("x", Weight("output", (50, 64)), "logits"),)
    return Plan(600, 50, Embed(Weight("embedding", (50, 64)), "x"), (ops,), head)


def engine_of(plan: Plan, file: Any, level: Level = BEST, n_batch: int = 512, **options: Any) -> Engine:
    chosen, kernels = EngineOptions(n_threads=2, **options), library(level)
    load_kernels(file, plan, chosen, kernels)
    return Engine(Model(file, plan, chosen, kernels), n_batch)


def expected(q: Any, k: Any, op: Attend, sinks: Any = None) -> Any:
    """(rows, heads, positions) of the last rows of a text, in float64: q (n, heads, length), k (m, shared, length)."""
    n, m = len(q), len(k)
    scores = np.einsum("nhd,mhd->nhm", q.astype(np.float64), np.repeat(k, H.group, axis=1)) * op.scale
    scores = op.softcap * np.tanh(scores / op.softcap) if op.softcap else scores
    here, there = np.arange(m - n, m)[:, None, None], np.arange(m)
    if op.causal:
        seen = (there <= here) & ((there > here - op.window) | (op.window == 0))
    else:
        seen = (abs(there - here) <= op.window // 2) | (op.window == 0)
    e = np.exp(np.where(seen, scores, -np.inf))
    return e / (e.sum(axis=2, keepdims=True) + (0.0 if sinks is None else np.exp(sinks)[:, None]))


def texts(engine: Engine, parts: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Reads TEXT and more of it in such parts; before each where it begins."""
    sequence, tokens = engine.sequence(), [*TEXT, *TEXT, *TEXT]
    for count in parts:
        yield sequence.n_past, sequence
        engine.step([Chunk(sequence, tokens[sequence.n_past : sequence.n_past + count])])


OPTIONS: list[dict[str, Any]] = [
    {}, {"window": 7}, {"window": 150}, {"softcap": 1.5}, {"sinks": True},
    {"window": 40, "sinks": True, "softcap": 3.0},
]  # fmt: skip


@at_every_level
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_probabilities_are_those_of_the_fused_kernel(options: dict[str, Any], level: Level) -> None:
    """Of what hooks see of queries, keys and values, by NumPy: over pages, for runs and for single rows."""
    plan = one_layer(**options)
    file = source_of(plan)
    sinks = file.tensors["sinks"].to_numpy().astype(np.float64) if "sinks" in options else None
    op = next(op for op in plan.body if isinstance(op, Attend))
    engine = engine_of(plan, file, level, n_ctx=512)
    seen: dict[str, list[Any]] = {}
    with engine.hooked({name: kept(name, seen) for name in (*HEAD_NAMES, WEIGHTS, "blk.0.kqv_out")}):
        for _ in texts(engine, [130, 1, 200, 1]):
            pass
    q, k, v = (np.concatenate([rows for rows, _ in seen[name]]) for name in HEAD_NAMES)
    assert (q.shape, k.shape, v.shape) == ((332, 4, 64), (332, 2, 64), (332, 2, 32))
    k, v = rounded(k, "f16"), rounded(v, "f16")
    for (p, about), (y, _) in zip(seen[WEIGHTS], seen["blk.0.kqv_out"], strict=True):
        end = int(about.position[-1]) + 1
        right = expected(q[about.position], k[:end], op, sinks)
        assert (p.dtype, p.shape, about.name) == (np.float32, (len(about.position), 4, end), WEIGHTS)
        np.testing.assert_allclose(p, right, atol=2e-6, rtol=1e-4)
        assert not p[right == 0].any()
        summed = np.einsum("nhm,mhd->nhd", p, np.repeat(v[:end], H.group, axis=1)).reshape(len(y), -1)
        bulk = level.lowering.startswith("amx")  # by tiles of bf16
        np.testing.assert_allclose(y, summed, atol=(2e-2 if bulk else 2e-5) * np.abs(v).max())
    engine.close()


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_what_the_cache_rounds_is_what_is_weighed(kind: str) -> None:
    plan = one_layer(sinks=True)
    file = source_of(plan)
    sinks = file.tensors["sinks"].to_numpy().astype(np.float64)
    op = next(op for op in plan.body if isinstance(op, Attend))
    for level in (BEST, EMULATED):
        engine = engine_of(plan, file, level, cache_type_k=kind, cache_type_v=kind)
        seen: dict[str, list[Any]] = {}
        with engine.hooked({name: kept(name, seen) for name in (*HEAD_NAMES, WEIGHTS)}):
            engine.read(engine.sequence(), TEXT[:140], "none", exact=True)
        (q, _), (k, _), (v, _) = (seen[name][0] for name in HEAD_NAMES)
        k, v = rounded(k, kind), rounded(v, kind)
        right = expected(q, k, op, sinks)
        np.testing.assert_allclose(seen[WEIGHTS][0][0], right, atol=2e-6, rtol=1e-4)
        weights = np.triu(np.ones((140, 140), np.float32)).T[:, None] / np.arange(1, 141)[:, None, None]
        outputs: dict[str, list[Any]] = {}
        hooks = {WEIGHTS: lambda p, about, w=weights: np.repeat(w, 4, axis=1), "blk.0.kqv_out": kept("y", outputs)}
        with engine.hooked(hooks):
            engine.read(engine.sequence(), TEXT[:140], "none", exact=True)
        means = np.cumsum(np.repeat(v, H.group, axis=1), axis=0) / np.arange(1, 141)[:, None, None]
        np.testing.assert_allclose(outputs["y"][0][0], means.reshape(140, -1), atol=1e-5)
        engine.close()


@at_every_level
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.data(), causal=st.booleans())
def test_any_attention_against_the_interpreter(level: Level, causal: bool, draw: Any) -> None:
    """Views, shared keys, norms behind rotation, windows to both sides: what is changed goes on from there."""
    plan = draw.draw(plans(causal))
    file = ArraySource({"general.architecture": "llama"}, source_of(plan).tensors)
    names = [name for name in activations(plan) if re.search("[QKV]cur|kq_soft_max", name)]
    names = draw.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
    seen: dict[str, list[Any]] = {}
    exact: dict[str, list[Any]] = {}
    engine = engine_of(plan, file, level, 64 if causal else 160)
    with engine.hooked({name: changing(name, seen) for name in names}):
        found = read_text(engine, TOKENS) if causal else engine.read(engine.sequence(), TOKENS, "all")
    engine.close()
    hooks = {name: changing(name, exact) for name in names}
    whole = {name: tensor.to_numpy() for name, tensor in file.tensors.items()}
    truth = Interpreter(with_taps(plan, names), whole, hooks).logits(TOKENS)
    limit = 0.06 if level.lowering.startswith("amx") else 0.01
    assert np.sqrt(((truth - found) ** 2).mean(axis=1)).max() / truth.std() < limit
    for name in names:
        rows, right = side_by_side([rows for rows, _ in seen[name]]), exact[name][0][0].reshape(len(TOKENS), -1)
        assert np.sqrt(((rows - right) ** 2).mean(axis=1)).max() / right.std() < limit


ARCHITECTURES = {
    "llama": lambda path: gguf.write(path, metadata(SIZES), weights(SIZES, VOCABULARY, "F32")),
    "gemma3": lambda path: test_models_gemma3.write_model(path, {}),
    "gpt-oss": lambda path: test_models_families2.write(path, "gpt-oss"),
    "phi3": lambda path: test_models_families2.write(path, "phi3"),
}  # they attend in their own ways: windows, sinks, fused queries


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_of_several_architectures(architecture: str, tmp_path: Path) -> None:
    """All layers at once: what hooks see, and logits where each row's first position counts twice."""
    ARCHITECTURES[architecture](tmp_path / "m")
    seen, exact, tokens = dict[str, list[Any]](), dict[str, list[Any]](), [token % 40 for token in TOKENS[:24]]

    def twice(to: dict[str, list[Any]]) -> Any:
        def hook(values: Any, about: Any) -> None:
            to.setdefault(about.name, []).append(values.copy())
            values[:, :, 0] *= 2.0

        return hook

    with gguf.open(tmp_path / "m") as file:
        plan = read_plan(file)
        names = [name for name in activations(plan) if name.endswith("kq_soft_max")]
        assert len(names) == len(plan.layers)
        whole = {name: file.tensors[name].to_numpy() for name in plan.weights}
        hooks = dict.fromkeys(names, twice(exact))
        truth = Interpreter(with_taps(plan, names), whole, hooks).logits(tokens)
        for level in (BEST, EMULATED):
            seen.clear()
            engine = engine_of(plan, file, level, n_ctx=24)
            with engine.hooked({"blk.*.kq_soft_max": twice(seen)}):
                found = engine.read(engine.sequence(), tokens, "all", exact=True)
            engine.close()
            assert difference(truth, found) < 0.01
            for name in names:
                np.testing.assert_allclose(seen[name][0], exact[name][0], atol=3e-3)


# -- what changes, and what stays --------------------------------------------------------------------------


@at_every_level
def test_what_is_not_changed_keeps_its_bits(level: Level) -> None:
    """One head of one row is given the first value alone; the others are as if nobody had looked."""
    plan = one_layer(window=20)
    engine = engine_of(plan, source_of(plan), level)
    plain: dict[str, list[Any]] = {}
    changed: dict[str, list[Any]] = {}

    def first_alone(values: Any, about: Any) -> None:
        values[5, 2] = 0.0
        values[5, 2, 0] = 1.0

    names = ["blk.0.kqv_out", "blk.0.Vcur"]
    with engine.hooked({name: kept(name, plain) for name in names}):
        engine.step([Chunk(engine.sequence(), TEXT[:30], bulk=True)])
    with engine.hooked({WEIGHTS: first_alone, **{name: kept(name, changed) for name in names}}):
        engine.step([Chunk(engine.sequence(), TEXT[:30], bulk=True)])
    (before, _), (after, _) = plain[names[0]][0], changed[names[0]][0]
    first = rounded(plain[names[1]][0][0], "f16")[0, 1]  # of the head that heads 2 and 3 share
    np.testing.assert_allclose(after[5, 64:96], first, atol=1e-6)
    after[5, 64:96] = before[5, 64:96]
    np.testing.assert_array_equal(after, before)
    engine.close()


@pytest.mark.parametrize(("window", "at", "sees"), [(0, 8, "0 to 7"), (5, 2, "3 to 7")])
def test_what_a_token_does_not_see_must_stay_zero(window: int, at: int, sees: str) -> None:
    plan = one_layer(window)
    engine = engine_of(plan, source_of(plan))
    sequence = engine.sequence()

    def wrong(values: Any, about: Any) -> None:
        values[7, 1, at] = 0.25

    match = f"{WEIGHTS} gives position {at} 0.25 for the token at 7, which sees {sees}: what a token does not see must"
    with engine.hooked({WEIGHTS: wrong}), pytest.raises(GGUFError, match=match):
        engine.step([Chunk(sequence, TEXT[:10])])
    assert sequence.n_past == 0
    short = {WEIGHTS: lambda values, about: values[:, :, 1:]}
    match = r"returned float32 \(10, 4, 9\); None, or an array \(10, 4, 10\) of numbers"
    with engine.hooked(short), pytest.raises(GGUFError, match=match):
        engine.step([Chunk(sequence, TEXT[:10])])
    engine.close()


def test_long_texts_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows, and of positions that are read back at once: the same numbers."""
    plan = one_layer(window=200, sinks=True)
    engine = engine_of(plan, source_of(plan), n_ctx=512)
    found: list[Any] = []
    for piece, chunk in ((1 << 25, 2048), (4 * 4 * 300 * 7, 33), (1, 1000)):
        monkeypatch.setattr(attention_taps, "PIECE", piece)
        monkeypatch.setattr(attention_taps, "CHUNK", chunk)
        seen: list[Any] = []

        def halved(values: Any, about: Any, seen: list[Any] = seen) -> Any:
            seen.append((values.copy(), about))
            return values * 0.5

        outputs: dict[str, list[Any]] = {}
        with engine.hooked({WEIGHTS: halved, "blk.0.kqv_out": kept("y", outputs)}):
            for _ in texts(engine, [300, 3]):
                pass
        assert np.concatenate([about.position for _, about in seen]).tolist() == list(range(303))
        assert all(values.shape[2] == about.position[-1] + 1 for values, about in seen)
        found.append((len(seen), side_by_side([values for values, _ in seen]), outputs["y"][0][0]))
    assert [count for count, _, _ in found] == [2, 44, 303]
    for _, p, outputs in found[1:]:
        np.testing.assert_allclose(p.reshape(303, 4, 303), found[0][1].reshape(303, 4, 303), atol=1e-6)
        np.testing.assert_allclose(outputs, found[0][2], atol=1e-5)
    engine.close()


def test_texts_of_a_step_are_told_apart() -> None:
    """Each has its own positions; a fork sees what its text has."""
    plan = one_layer()
    engine = engine_of(plan, source_of(plan), n_parallel=4, n_ctx=256)
    first, second = engine.sequence(), engine.sequence()
    engine.step([Chunk(first, TEXT[:140]), Chunk(second, TEXT[:3])])
    third = first.fork(130)
    alone: list[Any] = []
    for sequence, tokens in ((first, [7]), (second, [8, 9]), (third, [1, 2, 3])):
        seen: dict[str, list[Any]] = {}
        copy = sequence.fork(sequence.n_past)
        with engine.hooked({WEIGHTS: kept("one", seen)}):
            engine.step([Chunk(copy, tokens)])
        copy.close()
        alone.append(seen["one"][0][0])
    seen = {}
    with engine.hooked({WEIGHTS: kept("all", seen)}):
        engine.step([Chunk(first, [7]), Chunk(second, [8, 9]), Chunk(third, [1, 2, 3])])
    by_number = {int(about.sequence[0]): (values, about) for values, about in seen["all"]}
    assert [by_number[i][0].shape for i in range(3)] == [(1, 4, 141), (2, 4, 5), (3, 4, 133)]
    assert [by_number[i][1].token.tolist() for i in range(3)] == [[7], [8, 9], [1, 2, 3]]
    assert by_number[0][1].sequences == (first, second, third)
    for i in range(3):
        np.testing.assert_allclose(by_number[i][0], alone[i], atol=1e-6)
    engine.close()


@pytest.mark.parametrize("causal", [False, True])
def test_texts_that_are_seen_whole(causal: bool) -> None:
    """Encoders: a row sees what follows it, and a window is to both sides of it."""
    plan = test_embeddings.plan_of(causal)
    file = source_of(plan)
    engine, tokens = test_embeddings.engine_of(plan, file), list(range(40, 90))
    names = [WEIGHTS, "blk.1.kq_soft_max"]
    seen: dict[str, list[Any]] = {}
    exact: dict[str, list[Any]] = {}
    with engine.hooked({name: changing(name, seen) for name in names}):
        found = engine.read(engine.sequence(), tokens, "all", hidden=True)
    hooks = {name: changing(name, exact) for name in names}
    whole = {name: t.to_numpy() for name, t in file.tensors.items()}
    truth = Interpreter(with_taps(plan, names), whole, hooks).hidden(tokens)
    np.testing.assert_allclose(found, truth, atol=5e-3)
    for name in names:
        np.testing.assert_allclose(seen[name][0][0], exact[name][0][0], atol=2e-3)
    assert (seen[names[0]][0][0][0] > 0).sum(axis=1).tolist() == [1 if causal else 11] * 2
    engine.close()


def test_keys_and_values_are_kept_as_hooks_leave_them() -> None:
    """Later steps, without these hooks, attend to that."""
    plan = one_layer()
    engine = engine_of(plan, source_of(plan))
    sequence, found = engine.sequence(), dict[str, list[Any]]()
    hooks = {"blk.0.Kcur": lambda values, about: 0 * values, "blk.0.Vcur": lambda values, about: 0 * values + 2.0}
    with engine.hooked(hooks):
        engine.step([Chunk(sequence, TEXT[:9])])
    with engine.hooked({WEIGHTS: kept("weights", found)}):
        engine.step([Chunk(sequence, TEXT[9:10])])
    ((before, _),) = found["weights"]
    np.testing.assert_allclose(before[0, :, :9], before[0, :, :1].repeat(9, axis=1), rtol=1e-6)  # all alike

    def the_third(values: Any, about: Any) -> None:
        values[...] = np.arange(values.shape[2]) == 2

    with engine.hooked({WEIGHTS: the_third, "blk.0.kqv_out": kept("y", found)}):
        engine.step([Chunk(sequence, TEXT[10:12])])
    np.testing.assert_array_equal(found["y"][0][0], 2.0)
    engine.close()
