"""Taps: names of activations, what hooks see and change against the interpreter, and what is left after an error."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, SIZES, VOCABULARY, metadata, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_lora import adapter, engine_of, matrices, values
from test_plan import Maker, plans, source_of, split_at
from test_plan import engine_of as engine_of_parts

from ggufpy.backends.cpu.model import load_kernels, read_plan
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource
from ggufpy.jit.cache import library
from ggufpy.models import lora
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.lora import LoraSource
from ggufpy.models.op import Weight
from ggufpy.models.ops import Add, Embed, MatMul, Tap
from ggufpy.models.plan import Plan
from ggufpy.models.rewrite import with_lora, with_taps
from ggufpy.models.taps import Hook, TapRows, activations
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.simd.isa import EMULATED, Level

ANY = {"general.architecture": "llama"}
TOKENS = [int(token) for token in np.random.default_rng(4).integers(0, 50, 45)]


@pytest.fixture(scope="module")
def model() -> ArraySource:
    return ArraySource(metadata(SIZES), weights(SIZES, VOCABULARY, "F32"))


# -- names and plans ---------------------------------------------------------------------------------------


def test_activations_of_a_llama(model: ArraySource) -> None:
    found = activations(read_plan(model))
    of_layer = ["attn_norm", "attn_q", "attn_k", "attn_v", "Qcur", "Kcur", "Vcur", "kq_soft_max", "kqv_out", "attn_out",
                "ffn_inp", "ffn_norm", "ffn_gate", "ffn_up", "ffn_gate_par", "ffn_out", "l_out"]  # fmt: skip
    layers = [f"blk.{i}.{name}" for i in range(2) for name in of_layer]
    assert list(found) == ["inp_embd", *layers, "result_norm", "result_output"]
    assert {name: found[f"blk.1.{name}"].width for name in ("attn_k", "ffn_gate_par", "l_out")} == {
        "attn_k": 20, "ffn_gate_par": 52, "l_out": 40,
    }  # fmt: skip
    assert {name: found[f"blk.1.{name}"].shape for name in ("l_out", "Qcur", "Vcur", "kq_soft_max")} == {
        "l_out": (40,), "Qcur": (2, 20), "Vcur": (1, 20), "kq_soft_max": (2, None),
    }  # fmt: skip
    assert [name for name, place in found.items() if place.added and name.startswith("blk.0")] == [
        "blk.0.attn_out", "blk.0.ffn_out",
    ]  # fmt: skip


def test_what_adapters_add_is_part_of_an_activation(model: ArraySource) -> None:
    plan = read_plan(model)
    adapted = with_lora(plan, [lora.read(adapter(matrices(plan), i)) for i in range(2)])
    assert list(activations(adapted)) == list(activations(plan))
    for name, place in activations(adapted).items():
        if name.startswith("blk.1.ffn_up"):
            assert (place.last - place.first, adapted.layers[1][place.first].writes) == (4, {"up": 52})


def test_taps_stand_where_activations_are_whole(model: ArraySource) -> None:
    plan = read_plan(model)
    assert with_taps(plan, []) == plan
    tapped = with_taps(plan, ["blk.0.l_out", "blk.0.ffn_out", "blk.0.attn_norm", "inp_embd", "result_output"])
    assert tapped.layers[1] == plan.layers[1]
    first = tapped.layers[0]
    assert first[0] == Tap("inp_embd", "x", 40)
    assert first[2] == Tap("blk.0.attn_norm", "norm", 40)
    product, *behind = first[-4:]
    assert isinstance(product, MatMul)
    assert (product.y, product.add) == ("apart.x.40", False)
    assert behind == [Tap("blk.0.ffn_out", "apart.x.40", 40), Add("apart.x.40", "x", 40), Tap("blk.0.l_out", "x", 40)]
    assert tapped.head[-1] == Tap("result_output", "logits", VOCABULARY)


def test_what_is_added_apart_is_as_wide_as_the_buffer_there() -> None:
    """Layers may have other widths: a hook must not find a buffer of another one's."""

    def layer(i: int, rows: int) -> tuple[MatMul, MatMul]:
        first, second = (Weight(f"blk.{i}.{name}.weight", (rows, 40)) for name in "ab")
        return MatMul("x", first, "y"), MatMul("x", second, "y", add=True)

    layers = layer(0, 64), layer(1, 256)
    plan = Plan(9, VOCABULARY, Embed(Weight("e", (VOCABULARY, 40)), "x"), layers, ())
    tapped = with_taps(plan, [name for name, place in activations(plan).items() if place.added])
    assert {op.x: op.width for op in tapped.body if isinstance(op, Tap)} == {"apart.y.64": 64, "apart.y.256": 256}


def test_unknown_names_have_the_nearest_ones_beside_them(model: ArraySource) -> None:
    plan = read_plan(model)
    with pytest.raises(GGUFError, match=r"no activation 'blk.3.ffn_out'; the nearest are blk.\d.ffn_out"):
        with_taps(plan, ["blk.3.ffn_out"])
    with pytest.raises(GGUFError, match=r"no activation 'zzz'; the nearest are inp_embd"):
        with_taps(plan, ["zzz"])


# -- hooks against the interpreter -------------------------------------------------------------------------


def changing(name: str, seen: dict[str, list[Any]]) -> Hook:
    """Keeps what it sees, and changes it by position: in place or by what it returns, as the name's length is."""

    def hook(rows: Any, about: TapRows) -> Any:
        seen.setdefault(name, []).append((rows.copy(), about))
        factor = 1 + 0.1 * np.cos(about.position).reshape(-1, *[1] * (rows.ndim - 1))
        if len(name) % 2:
            rows *= factor
            return None
        return rows * factor

    return hook


def side_by_side(parts: Sequence[Any]) -> Any:
    """(rows, numbers) of all parts; those of attention are as wide as the positions that they end at."""
    if parts[0].ndim == 3:
        last = max(part.shape[2] for part in parts)
        parts = [np.pad(part, ((0, 0), (0, 0), (0, last - part.shape[2]))) for part in parts]
    return np.concatenate([part.reshape(len(part), -1) for part in parts])


def read_text(engine: Engine, tokens: Sequence[int], scales: Sequence[float] = ()) -> Any:
    """In bulk but for the last three tokens."""
    sequence, found = engine.sequence(scales), []
    found += engine.step([Chunk(sequence, tokens[:30], "all", True)])
    found += engine.step([Chunk(sequence, tokens[30:-3], "all", True)])
    found += [engine.step([Chunk(sequence, [token], "all")])[0] for token in tokens[-3:]]
    sequence.close()
    return np.concatenate(found)


@pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=plans(), draw=st.data())
def test_hooks_see_and_change_what_they_do_in_the_interpreter(level: Level, plan: Plan, draw: Any) -> None:
    source, adapters, scales = ArraySource(ANY, source_of(plan).tensors), [], []
    if draw.draw(st.booleans()):
        some = dict(draw.draw(st.lists(st.sampled_from(sorted(matrices(plan).items())), min_size=1, max_size=5)))
        adapters, scales = [lora.read(adapter(some, 7, **{"adapter.lora.alpha": 5.0}))], [0.5]
    adapted = with_lora(plan, adapters)
    names = draw.draw(st.lists(st.sampled_from(list(activations(adapted))), min_size=1, max_size=5, unique=True))
    seen: dict[str, list[Any]] = {}
    exact: dict[str, list[Any]] = {}
    engine = engine_of(source, plan, adapters, level)
    before = read_text(engine, TOKENS, scales)
    with engine.hooked({name: changing(name, seen) for name in names}):
        found = read_text(engine, TOKENS, scales)
    np.testing.assert_array_equal(read_text(engine, TOKENS, scales), before)  # nothing is left of them
    engine.close()
    hooks = {name: changing(name, exact) for name in names}
    whole = values(LoraSource(source, plan, adapters))
    truth = Interpreter(with_taps(adapted, names), whole, hooks).logits(TOKENS, scales)
    limit = 0.06 if level.lowering.startswith("amx") else 0.01
    assert np.sqrt(((truth - found) ** 2).mean(axis=1)).max() / truth.std() < limit
    for name in names:
        rows, right = side_by_side([rows for rows, _ in seen[name]]), exact[name][0][0].reshape(len(TOKENS), -1)
        assert np.sqrt(((rows - right) ** 2).mean(axis=1)).max() / right.std() < limit
        assert {about.name for _, about in seen[name]} == {name}
        assert np.concatenate([about.position for _, about in seen[name]]).tolist() == list(range(len(TOKENS)))
        assert np.concatenate([about.token for _, about in seen[name]]).tolist() == TOKENS


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0"])
def test_hooks_that_change_nothing_leave_the_bits(kind: str) -> None:
    sizes = {**SIZES, "embedding_length": 64, "feed_forward_length": 96}
    source = ArraySource(metadata(sizes), weights(sizes, VOCABULARY, kind))
    for level in (BEST, EMULATED):
        engine = engine_of(source, read_plan(source), [], level)
        before = read_text(engine, TOKENS)
        bulk = engine.model.bulk_rows  # such products add to what is there before they sum up
        names = [name for name, place in activations(engine.model.plan).items() if not (bulk and place.added)]
        with engine.hooked({name: lambda rows, about: None for name in names}):
            np.testing.assert_array_equal(read_text(engine, TOKENS), before)
        with engine.hooked({name: lambda rows, about: rows.astype(np.float64) for name in names}):
            np.testing.assert_array_equal(read_text(engine, TOKENS), before)
        engine.close()


def test_8_bit_rows_and_tiles_are_made_of_what_a_hook_leaves() -> None:
    sizes = {**SIZES, "embedding_length": 64, "feed_forward_length": 96}
    for kind, level in (("Q8_0", BEST), ("Q8_0", EMULATED), ("F16", EMULATED)):
        source = ArraySource(metadata(sizes), weights(sizes, VOCABULARY, kind))
        plan = read_plan(source)
        engine = engine_of(source, plan, [], level)
        names = ["blk.0.attn_norm", "blk.0.kqv_out", "blk.1.ffn_norm", "blk.1.ffn_gate_par", "result_norm"]
        hooks = {name: (lambda rows, about: np.zeros_like(rows)) for name in names}
        with engine.hooked(hooks):
            found = read_text(engine, TOKENS)
        assert not found.any()  # there are no biases
        hooks.pop("result_norm")
        exact = Interpreter(with_taps(plan, hooks), values(source), hooks).logits(TOKENS)
        with engine.hooked(hooks):
            assert np.sqrt(((read_text(engine, TOKENS) - exact) ** 2).mean()) < 0.05 * exact.std()
        engine.close()


# -- steps of several --------------------------------------------------------------------------------------


def test_rows_of_several_sequences_are_told_apart() -> None:
    sizes = {**SIZES, "embedding_length": 64, "feed_forward_length": 96}
    source = ArraySource(metadata(sizes), weights(sizes, VOCABULARY, "F16"))
    for level in (BEST, EMULATED):
        engine = engine_of(source, read_plan(source), [], level, n_parallel=3)
        texts = [TOKENS[:20], [3], TOKENS[5:9]]
        sequences = [engine.sequence() for _ in texts]
        alone = {}
        for i, text in enumerate(texts):
            one, seen = engine.sequence(), {}
            with engine.hooked({name: kept(name, seen) for name in ("inp_embd", "blk.1.l_out", "result_norm")}):
                engine.step([Chunk(one, [9, 9])])
                engine.step([Chunk(one, text, "last", bulk=i == 0)])
            alone[i] = {name: found[-1][0] for name, found in seen.items()}
            one.close()
        for sequence in sequences:
            engine.step([Chunk(sequence, [9, 9])])
        seen = {}
        with engine.hooked({name: kept(name, seen) for name in ("inp_embd", "blk.1.l_out", "result_norm")}):
            engine.step([Chunk(sequences[i], text, "last", bulk=i == 0) for i, text in enumerate(texts)])
        for name in ("inp_embd", "blk.1.l_out"):
            ((rows, about),) = seen[name]
            assert about.sequences == tuple(sequences)
            assert len(rows) == 25  # rows that only fill up are not shown
            for i, text in enumerate(texts):
                mine = about.sequence == i
                assert about.token[mine].tolist() == text
                assert about.position[mine].tolist() == list(range(2, 2 + len(text)))
                np.testing.assert_array_equal(rows[mine], alone[i][name])
        heads = {about.sequence[i]: row for rows, about in seen["result_norm"] for i, row in enumerate(rows)}
        for i in range(3):
            np.testing.assert_array_equal(heads[i], alone[i]["result_norm"][-1])
        engine.close()


def kept(name: str, seen: dict[str, list[Any]]) -> Hook:
    return lambda rows, about: seen.setdefault(name, []).append((rows.copy(), about))


def test_what_a_hook_is_given_is_a_view_where_rows_stand_together(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    seen: list[Any] = []
    with engine.hooked({"blk.0.l_out": lambda rows, about: seen.append(rows)}):
        engine.step([Chunk(engine.sequence(), [1, 2, 3])])
    assert (seen[0].dtype, seen[0].shape) == (np.float32, (3, 40))
    assert not seen[0].flags.owndata
    engine.close()


# -- the engine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blk.1.ffn_out", "result_output"])
def test_an_error_in_a_hook_ends_its_step_and_nothing_else(name: str, model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST, n_parallel=2)
    sequence = engine.sequence()
    engine.step([Chunk(sequence, TOKENS[:5])])
    expected = engine.step([Chunk(sequence.fork(5), TOKENS[5:9], "all")])[0]
    with engine.hooked({name: lambda rows, about: 1 // 0}):  # type: ignore[arg-type, return-value]
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                engine.step([Chunk(sequence, TOKENS[5:9], "all")])
            with pytest.raises(ZeroDivisionError):
                engine.visit(Chunk(sequence, TOKENS[5:9], "all"), lambda at, rows: None)
            assert sequence.n_past == 5
    np.testing.assert_array_equal(engine.step([Chunk(sequence, TOKENS[5:9], "all")])[0], expected)
    assert sequence.n_past == 9
    engine.close()


WRONG = ["text", np.zeros((2, 40)), np.zeros(40), np.zeros((3, 40), complex), [[1], [1, 2]], True]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_hook_may_not_return(wrong: Any, model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    sequence = engine.sequence()
    match = r"the hook of blk.0.l_out returned .*; None, or an array \(3, 40\) of numbers must"
    with engine.hooked({"blk.0.l_out": lambda rows, about: wrong}), pytest.raises(GGUFError, match=match):
        engine.step([Chunk(sequence, [1, 2, 3])])
    assert sequence.n_past == 0
    engine.close()


def test_a_hook_has_no_use_of_the_engine(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    sequence, other = engine.sequence(), engine.sequence()
    tried: Mapping[str, Any] = {
        "step": lambda: engine.step([Chunk(other, [1])]), "truncate": lambda: sequence.truncate(0),
        "close": engine.close, "hook": lambda: ExitStack().enter_context(engine.hooked({})),
    }  # fmt: skip
    match = "in the middle of a step: a hook cannot"
    for act in tried.values():
        hooks: Any = {"blk.0.l_out": lambda rows, about, act=act: act()}
        with engine.hooked(hooks), pytest.raises(GGUFError, match=match):
            engine.step([Chunk(sequence, [1, 2, 3])])
    assert engine.step([Chunk(sequence, [1, 2, 3])])[0].shape == (1, VOCABULARY)
    engine.close()


def test_hooks_come_and_go_one_by_one(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    sequence, seen = engine.sequence(), {}
    outer = ExitStack()
    outer.enter_context(engine.hooked({"blk.0.l_out": kept("outer", seen)}))
    with engine.hooked({"blk.1.l_out": kept("inner", seen)}):
        with pytest.raises(GGUFError, match="no activation 'no'"), engine.hooked({"no": kept("again", seen)}):
            pass
        engine.step([Chunk(sequence, [1])])
    wrongs: Any = [
        ({"blk.1.l_out": 3}, "the hook of blk.1.l_out is 3; a function"), ([], "hooks is"),
        ({5: kept("outer", seen)}, "the name of an activation is 5; it must be a text"),
        ({"blk.*.no": kept("outer", seen)}, "no activation 'blk.*.no'; the nearest are"),
    ]  # fmt: skip
    for wrong, match in wrongs:
        with pytest.raises(GGUFError, match=re.escape(match)), engine.hooked(wrong):
            pass
    engine.step([Chunk(sequence, [2])])
    outer.close()
    engine.step([Chunk(sequence, [3])])
    assert {name: len(found) for name, found in seen.items()} == {"outer": 2, "inner": 1}
    engine.close()


def test_hooks_of_one_activation_are_asked_in_turn(model: ArraySource) -> None:
    """Each is given what those before it leave, those of several names too; each ends by itself."""
    engine = engine_of(model, read_plan(model), [], BEST)
    sequence, order = engine.sequence(), []

    def hook(i: int) -> Hook:
        def act(values: Any, about: TapRows) -> Any:
            order.append((i, about.name, float(values[0, 0])))
            return np.full_like(values, i)

        return act

    first, second = ExitStack(), ExitStack()
    first.enter_context(engine.hooked({"blk.1.l_out": hook(1)}))
    second.enter_context(engine.hooked({"blk.?.l_out": hook(2), "blk.1.*_out": hook(3)}))
    engine.step([Chunk(sequence, [1])])
    names = [(i, name) for i, name, _ in order]
    assert names == [
        (2, "blk.0.l_out"), (3, "blk.1.kqv_out"), (3, "blk.1.attn_out"), (3, "blk.1.ffn_out"), (1, "blk.1.l_out"),
        (2, "blk.1.l_out"), (3, "blk.1.l_out"),
    ]  # fmt: skip
    assert [value for _, _, value in order[-2:]] == [1.0, 2.0]
    order.clear()
    first.close()
    with engine.hooked({"blk.1.l_out": hook(4)}):
        second.close()
        engine.step([Chunk(sequence, [1])])
    assert [i for i, _, _ in order] == [4]
    engine.close()


def test_what_an_engine_can_be_hooked_at(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    found, seen = engine.activations(), dict[str, list[Any]]()
    with engine.hooked({"*": lambda values, about: seen.setdefault(about.name, []).append(values.shape)}):
        engine.step([Chunk(engine.sequence(), [1, 2, 3])])
    assert list(found) == list(activations(engine.model.plan))
    assert set(seen) == set(found)
    for name, (shape,) in seen.items():
        rows = 1 if name.startswith("result") else 3
        assert shape == (rows, *(3 if size is None else size for size in found[name])), name
    engine.close()


def test_a_hook_may_end_itself_in_the_middle_of_a_step(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    sequence, seen = engine.sequence(), {}
    expected = engine.step([Chunk(sequence, [1, 2])])[0]
    once = ExitStack()
    once.enter_context(engine.hooked({"blk.0.l_out": lambda rows, about: once.close()}))
    with engine.hooked({"blk.1.l_out": kept("other", seen), "result_norm": kept("head", seen)}):
        for _ in range(2):
            sequence.truncate(0)
            np.testing.assert_array_equal(engine.step([Chunk(sequence, [1, 2])])[0], expected)
    assert {name: len(found) for name, found in seen.items()} == {"other": 2, "head": 2}
    engine.close()


def test_sums_are_collected_while_hooks_come_and_go(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    sequence, seen = engine.sequence(), {}
    with engine.collect(output=True) as alone:
        engine.step([Chunk(sequence, TOKENS[:20])])
        engine.step([Chunk(sequence, TOKENS[20:25])])
    sequence.truncate(0)
    with engine.collect(output=True) as collector:
        with engine.hooked({"blk.0.attn_norm": kept("a", seen), "blk.1.ffn_out": kept("b", seen)}):
            engine.step([Chunk(sequence, TOKENS[:20])])
        engine.step([Chunk(sequence, TOKENS[20:25])])
    for name, (total, rows) in alone.squares().items():
        np.testing.assert_array_equal(collector.squares()[name][0], total)
        assert collector.squares()[name][1] == rows
    squares = (seen["a"][0][0].astype(np.float64) ** 2).sum(axis=0)
    assert (squares < collector.squares()["blk.0.attn_q.weight"][0]).all()
    engine.close()


def test_steps_with_hooks_can_be_profiled_and_visited(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    sequence, seen = engine.sequence(), []
    hooks: dict[str, Hook] = {name: lambda rows, about: None for name in ("blk.0.l_out", "blk.1.l_out")}
    with engine.hooked({**hooks, "result_output": lambda rows, about: -rows}):
        plain = engine.step([Chunk(sequence, [1, 2], "all")])[0]
        sequence.truncate(0)
        with engine.profile() as profile:
            engine.visit(Chunk(sequence, [1, 2], "all"), lambda at, rows: seen.append(rows.values.copy()))
    np.testing.assert_array_equal(seen[0], plain)
    sequence.truncate(0)
    np.testing.assert_array_equal(engine.step([Chunk(sequence, [1, 2], "all")])[0], -plain)
    assert {op.op: op.calls for op in profile.ops()}["ffn_down"] == 2
    engine.close()


def test_a_hook_is_for_one_thread_at_a_time(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    sequence, errors = engine.sequence(), []

    def elsewhere() -> None:
        try:
            engine.hooked({"blk.1.l_out": lambda rows, about: None}).__enter__()
        except GGUFError as error:
            errors.append(str(error))

    def hook(rows: Any, about: TapRows) -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    with engine.hooked({"blk.0.l_out": hook}):
        engine.step([Chunk(sequence, [1])])
    assert "at work for another thread" in errors[0]
    engine.close()


def test_dropped_sequences_give_their_pages_back(model: ArraySource) -> None:
    engine = engine_of(model, read_plan(model), [], BEST)
    free = engine.free_pages
    for hook in (lambda rows, about: None, lambda rows, about: 1 // 0):
        sequence = engine.sequence()
        with engine.hooked({"blk.0.l_out": hook}):
            try:
                engine.step([Chunk(sequence, [1])])
            except ZeroDivisionError as error:
                error.__traceback__ = None
            del sequence
        assert engine.free_pages == free
    engine.close()


def test_hooks_want_one_cpu() -> None:
    plan = Maker(None).plan()
    file = source_of(plan)
    load_kernels(file, plan, EngineOptions(), library(BEST))
    engine = engine_of_parts(file, plan, split_at(plan, 1), BEST)
    with pytest.raises(GGUFError, match="all layers are on one CPU"), engine.hooked({"inp_embd": lambda *_: None}):
        pass
    engine.close()
