"""A small model with its last layers on a GPU that is the CPU: it says what it says without, wherever it is split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import NOTHING, reference
from gpu_models import CONTEXT, TEXT, ShimDevices, engine_of, small_model, spread

from ggufpy import format as gguf
from ggufpy.errors import GGUFError
from ggufpy.runtime.engine import Chunk

TYPES = ("F16", "Q8_0", "Q4_0")
# Of float64: layers on the CPU read prompts in bf16, and 8-bit activations take as much on either.
CLOSE = {"F16": 0.015, "Q8_0": 0.025, "Q4_0": 0.025}
EXACT = {"F16": 1e-4, "Q8_0": 0.025, "Q4_0": 0.025}  # the same, of what is read exactly
# Of one another: 8-bit activations are rounded alike on both, so that few codes differ, where sums in another order
# fall to the other side of a half.
SAME = 0.005


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("split")
    return {name: small_model(folder, name) for name in TYPES}


@pytest.fixture(scope="module")
def truth(models: dict[str, Path]) -> dict[str, Any]:
    """Logits of the text in float64."""
    found = {}
    for name, path in models.items():
        with gguf.open(path) as file:
            found[name] = reference(file, TEXT[:170])
    return found


@pytest.fixture(scope="module")
def by_cpu(models: dict[str, Path]) -> dict[str, Any]:
    """Logits of the text's beginning, read exactly without a card."""
    found = {}
    for name, path in models.items():
        with engine_of(path) as engine:
            found[name] = engine.read(engine.sequence(), TEXT[:30], "all", exact=True)
    return found


@pytest.mark.parametrize("layers", [1, 2, 3, "all"])
@pytest.mark.parametrize("name", TYPES)
def test_logits_wherever_it_is_split(
    name: str, layers: Any, models: dict[str, Path], truth: dict[str, Any], by_cpu: dict[str, Any]
) -> None:
    """A prompt in bulk over more than a page, single tokens behind it, and a text read exactly."""
    with engine_of(models[name], layers) as engine:
        text = engine.sequence()
        found = [engine.read(text, TEXT[:150], "all")]
        found += [engine.step([Chunk(text, [token])])[0] for token in TEXT[150:154]]
        exact = engine.read(engine.sequence(), TEXT[:30], "all", exact=True)
    assert spread(truth[name][:154], np.concatenate(found)) < CLOSE[name]
    assert spread(truth[name][:30], exact) < EXACT[name]
    assert spread(by_cpu[name], exact) < SAME


@pytest.mark.parametrize("layers", [2, 3])
def test_bits_of_a_row_do_not_depend_on_its_company(layers: int, models: dict[str, Path]) -> None:
    with engine_of(models["Q8_0"], layers, n_parallel=3) as engine:
        alone = engine.read(engine.sequence(), TEXT[:24], "all", exact=True)
        texts = [engine.sequence() for _ in range(3)]
        engine.read(texts[1], TEXT[:5])
        engine.read(texts[2], TEXT[30:70])
        for at in range(24):
            step = [Chunk(text, [TEXT[start + at]]) for text, start in zip(texts, (0, 5, 70), strict=True)]
            rows = engine.step(step)
            np.testing.assert_array_equal(rows[0][0], alone[at])
            if at + 5 < 24:
                np.testing.assert_array_equal(rows[1][0], alone[at + 5])


def test_texts_side_by_side(models: dict[str, Path], truth: dict[str, Any]) -> None:
    """One is written token by token while another is read in bulk, in the same steps."""
    with engine_of(models["Q8_0"], 2) as engine:
        one, other = engine.sequence(), engine.sequence()
        engine.read(one, TEXT[:20])
        found, more = [], []
        for at in range(4):
            part = TEXT[at * 30 : at * 30 + 30]
            step = engine.step([Chunk(one, [TEXT[20 + at]]), Chunk(other, part, "all", bulk=True)])
            found.append(step[0])
            more.append(step[1])
    assert spread(truth["Q8_0"][20:24], np.concatenate(found)) < CLOSE["Q8_0"]
    assert spread(truth["Q8_0"][:120], np.concatenate(more)) < CLOSE["Q8_0"]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_full_step_of_a_token_and_a_prompt(layers: int, models: dict[str, Path], truth: dict[str, Any]) -> None:
    """Before the prompt are rows that only fill up, for the layers on the CPU."""
    with engine_of(models["Q8_0"], layers, n_batch=20) as engine:
        one, other = engine.sequence(), engine.sequence()
        engine.read(one, TEXT[:7])
        count = engine.rows - 1
        found = engine.step([Chunk(one, [TEXT[7]]), Chunk(other, TEXT[:count], "all", bulk=True)])
    assert spread(truth["Q8_0"][7:8], found[0]) < CLOSE["Q8_0"]
    assert spread(truth["Q8_0"][:count], found[1]) < CLOSE["Q8_0"]


def test_no_program_fills_up_more_than_others_have_room_for() -> None:
    from ggufpy.backends.cpu.program import CpuProgram
    from ggufpy.backends.gpu.program import GpuProgram
    from ggufpy.backends.program import MOST_FILL

    assert max(CpuProgram.fill, GpuProgram.fill) == MOST_FILL


def test_forks_and_cuts(models: dict[str, Path], truth: dict[str, Any]) -> None:
    with engine_of(models["Q8_0"], 2) as engine:
        first = engine.sequence()
        engine.read(first, TEXT[:140])
        fork = first.fork(135)
        both = engine.step([Chunk(first, TEXT[140:145], "all"), Chunk(fork, TEXT[135:140], "all")])
        first.truncate(130)
        again = engine.read(first, TEXT[130:150], "all")
    exact = truth["Q8_0"]
    assert spread(exact[140:145], both[0]) < CLOSE["Q8_0"]
    assert spread(exact[135:140], both[1]) < CLOSE["Q8_0"]
    assert spread(exact[130:150], again) < CLOSE["Q8_0"]


@pytest.mark.parametrize("layers", [1, 3])
def test_positions_move_as_on_the_cpu(layers: int, models: dict[str, Path]) -> None:
    found = []
    for on_card in (0, layers):
        with engine_of(models["F16"], on_card) as engine:
            text = engine.sequence()
            engine.read(text, TEXT[:200])
            text.shift(10, 60)
            assert text.n_past == 140
            found.append(engine.read(text, TEXT[200:230], "all"))
    assert spread(found[0], found[1]) < CLOSE["F16"]


@pytest.mark.parametrize("cache", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize(("saved_on", "read_on"), [(0, 3), (3, 0), (3, 1), (1, 2)])
def test_states_move_between_backends(saved_on: int, read_on: int, cache: str, models: dict[str, Path]) -> None:
    kinds = {"cache_type_k": cache, "cache_type_v": cache}
    with engine_of(models["Q8_0"], saved_on, **kinds) as engine:
        text = engine.sequence()
        engine.read(text, TEXT[:150])
        state = engine.snapshot(text, 150)
        forms, expected = engine.cache_forms, engine.read(text, TEXT[150:155], "all", exact=True)
    with engine_of(models["Q8_0"], read_on, **kinds) as engine:
        assert engine.cache_forms == forms
        text = engine.restored(state, 150)
        for mine, its in zip(state, engine.snapshot(text, 150), strict=True):
            np.testing.assert_array_equal(mine.rows, its.rows)
        found = engine.read(text, TEXT[150:155], "all", exact=True)
    assert spread(expected, found) < SAME


@pytest.mark.parametrize("cache", ["bf16", "q8_0"])
def test_types_of_the_cache(cache: str, models: dict[str, Path], truth: dict[str, Any]) -> None:
    with engine_of(models["F16"], "all", cache_type_k=cache, cache_type_v=cache) as engine:
        found = engine.read(engine.sequence(), TEXT[:150], "all")
    assert spread(truth["F16"][:150], found) < 0.03


def test_two_cards(models: dict[str, Path], truth: dict[str, Any]) -> None:
    told: list[str] = []
    devices = ShimDevices()
    with engine_of(models["F16"], "all", devices, tensor_split=(2, 1), note=told.append) as engine:
        assert engine.isa == "shim"
        found = engine.read(engine.sequence(), TEXT[:40], "all")
        single = engine.read(engine.sequence(), TEXT[:4], "all")
    assert spread(truth["F16"][:40], found) < CLOSE["F16"]
    assert spread(truth["F16"][:4], single) < CLOSE["F16"]
    assert told[0].startswith("ggufpy: 2 of 3 layers on shim, ")
    assert "; 1 of 3 layers on shim, " in told[0]
    assert [device.free() for device in devices.made] == [1 << 32] * 2  # all is given back


def test_as_many_as_fit(models: dict[str, Path]) -> None:
    """With 2 GiB all go there; what is free falls short of that of all by a byte, and one stays."""
    told: list[str] = []
    with engine_of(models["Q8_0"], "auto", note=told.append) as engine:
        assert engine.isa == "shim"
    assert told[0].startswith("ggufpy: 3 of 3 layers on shim, 0.")


def test_what_is_counted_is_what_is_taken(models: dict[str, Path]) -> None:
    from ggufpy.backends.cpu.model import read_plan
    from ggufpy.backends.gpu.estimate import costs
    from ggufpy.backends.options import EngineOptions

    devices = ShimDevices()
    with gguf.open(models["Q8_0"]) as file, engine_of(models["Q8_0"], "all", devices) as engine:
        plan, options = read_plan(file), EngineOptions(n_parallel=2)
        found = costs(file, plan, options, engine.rows, devices.made[0].facts)
        taken = (1 << 32) - devices.made[0].free()
        assert 0.98 * found.of(0, 3) < taken <= found.of(0, 3)
        engine.read(engine.sequence(), TEXT[:150])
        engine.read(engine.sequence(), TEXT[:10])
        assert (1 << 32) - devices.made[0].free() == taken  # steps take nothing more


def test_what_the_cpu_alone_does_says_so(models: dict[str, Path]) -> None:
    with engine_of(models["Q8_0"], "all") as engine:
        with pytest.raises(GGUFError, match=r"all layers are on one CPU: load the model with n_gpu_layers 0"):
            engine.visit(Chunk(engine.sequence(), TEXT[:3]), lambda first, rows: None)
        with pytest.raises(GGUFError, match=r"-ngl 0"), engine.hooked({"blk.0.l_out": print}):
            pass
        with pytest.raises(GGUFError, match=r"-ngl 0"), engine.profile():
            pass
        assert engine.read(engine.sequence(), TEXT[:3]).shape == (1, engine.n_vocab)


def test_tied_embeddings_and_a_long_wait_for_logits(tmp_path: Path) -> None:
    """The output is the embedding, and more rows of logits are wanted than the head computes at a time."""
    from engine import write_model
    from gpu_models import SIZES

    path = write_model(tmp_path / "tied.gguf", SIZES, {**NOTHING, "output.weight": None}, "F16")
    with engine_of(path, 0) as engine:
        expected = engine.read(engine.sequence(), TEXT[:100], "all")
        hidden = engine.read(engine.sequence(), TEXT[:30], "all", hidden=True)
    for layers in (1, 3):
        with engine_of(path, layers) as engine:
            assert spread(expected, engine.read(engine.sequence(), TEXT[:100], "all")) < CLOSE["F16"]
            found = engine.read(engine.sequence(), TEXT[:30], "all", hidden=True)
            assert spread(hidden, found) < CLOSE["F16"]
            assert engine.n_ctx == CONTEXT


def test_a_full_context(models: dict[str, Path]) -> None:
    with engine_of(models["F16"], "all") as engine:
        text = engine.sequence()
        engine.read(text, TEXT)
        with pytest.raises(GGUFError, match="context"):
            engine.read(text, [1])
