"""Experts on the CPU while the rest of their layers is on a GPU that is the CPU: what all on one device has."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from families_near_llama import FAMILIES
from gpu_models import ShimDevices, spread
from gpu_shim import ShimDevice
from test_gpu_families import CONTEXT, TOKENS, check
from test_models_elsewhere import NEAR, OTHERS
from test_models_families2 import source

from ggufpy import format as gguf
from ggufpy.backends.cpu.model import read_plan
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.estimate import costs
from ggufpy.backends.gpu.model import GpuModel
from ggufpy.backends.gpu.placing import RESERVE, Costs
from ggufpy.errors import GGUFError
from ggufpy.models.elsewhere import with_experts_elsewhere
from ggufpy.runtime import EngineOptions, load
from ggufpy.runtime.engine import Chunk, Engine, step_rows
from ggufpy.server.memory import needed_of

FIRST = "qwen3moe"  # each further one has kernels of its own to compile
SLOW = [pytest.param(name, marks=() if name == FIRST else pytest.mark.slow) for name in NEAR]


@pytest.mark.parametrize("name", SLOW)
def test_families(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, extras = FAMILIES[name]
    with gguf.open(families.write(tmp_path / "m.gguf", config, extras, monkeypatch)) as file:
        check(file, cpu_moe=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_families(name: str) -> None:
    check(source(name), cpu_moe=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return families.write(tmp_path_factory.mktemp("moe") / "m.gguf", *FAMILIES[FIRST], patch)


def engine_of(path: Path, devices: Any = None, **options: Any) -> Engine:
    given = EngineOptions(**{"n_threads": 2, "n_parallel": 3, "n_gpu_layers": "all", "n_ctx": CONTEXT, **options})
    with gguf.open(path) as file:
        return load(file, given, devices=devices or ShimDevices())


def logits(engine: Engine) -> tuple[Any, Any]:
    """Of a text read at once, and of its first tokens exactly and the others one by one."""
    with engine:
        text = engine.sequence()
        parts = [engine.read(text, TOKENS[:5], "all", exact=True)]
        parts += [engine.step([Chunk(text, [token])])[0] for token in TOKENS[5:9]]
        return engine.read(engine.sequence(), TOKENS, "all"), np.concatenate(parts)


@pytest.mark.parametrize(
    "options",
    [
        {"n_cpu_moe": 1}, {"n_cpu_moe": 2}, {"n_cpu_moe": 99}, {"n_gpu_layers": 2, "n_cpu_moe": 2},
        {"n_gpu_layers": 1, "cpu_moe": True}, {"tensor_split": (1, 1), "cpu_moe": True}, {"n_gpu_layers": "auto",
        "cpu_moe": True},
    ],
)  # fmt: skip
def test_wherever_they_are(options: dict[str, Any], path: Path) -> None:
    devices = ShimDevices()
    exact = logits(engine_of(path, n_gpu_layers=0))
    found = logits(engine_of(path, devices, **options))
    for mine, its in zip(found, exact, strict=True):
        assert spread(its, mine) < 0.01
    assert [device.free() for device in devices.made] == [1 << 32] * len(devices.made)  # all is given back


def test_bits_of_a_row_do_not_depend_on_its_company(path: Path) -> None:
    """Nor on whether its work is made, launched again or recorded."""
    with engine_of(path, cpu_moe=True, n_parallel=5) as engine:
        alone = engine.read(engine.sequence(), TOKENS, "all", exact=True)
        texts = [engine.sequence() for _ in range(3)]
        for at in range(6):
            rows = engine.step([Chunk(text, [TOKENS[at + i]]) for i, text in enumerate(texts)])
            np.testing.assert_array_equal(rows[0][0], alone[at])
        one = engine.sequence()
        for at in range(4):
            np.testing.assert_array_equal(engine.step([Chunk(one, [TOKENS[at]])])[0][0], alone[at])


def test_what_is_on_the_card(path: Path) -> None:
    told: list[str] = []
    sizes, read = [], []
    for options in ({}, {"n_cpu_moe": 1}, {"cpu_moe": True}):
        devices = ShimDevices()
        with engine_of(path, devices, note=told.append, **options) as engine:
            sizes.append((1 << 32) - devices.made[0].free())
            kinds = engine.isa.split(" + ")
            read.append(engine.model.weight_bytes)
        assert (kinds[0], len(kinds)) == ("shim", 2 if options else 1)
    assert max(read) < 1.2 * min(read)  # a token reads the same matrices, wherever they are
    assert sizes[0] > sizes[1] > sizes[2]
    assert told[0].startswith("ggufpy: 3 of 3 layers on shim, ")
    assert "experts" not in told[0]
    assert told[1].endswith("; experts of 1 of them on the CPU")
    assert told[2].endswith("; experts of 3 of them on the CPU")


@pytest.fixture
def takes(path: Path) -> Iterator[Costs]:
    """What the model takes on a card."""
    with gguf.open(path) as file:
        options = EngineOptions(n_ctx=CONTEXT, n_parallel=3)
        plan = read_plan(file, CONTEXT)
        yield costs(file, plan, options, step_rows(plan, CONTEXT, 3, options.n_batch), ShimDevice().facts)


def test_as_few_as_make_room(path: Path, takes: Costs) -> None:
    """On a card that all but the experts of a layer or two fit."""
    assert len(set(takes.experts)) == 1
    gained = takes.of(0, 3) - takes.without_experts(1).of(0, 3)
    assert 0 < gained < takes.experts[0]  # their sum has a buffer
    for less, away in ((0, 0), (1, 1), (gained, 1), (gained + 1, 2)):
        told: list[str] = []
        memory = RESERVE + takes.of(0, 3) - less
        with engine_of(path, ShimDevices(memory=memory), n_gpu_layers="auto", note=told.append) as engine:
            assert len(engine.model.plan.layers) == 3
        assert told[0].startswith("ggufpy: 3 of 3 layers on shim, ")
        assert told[0].endswith(f"; experts of {away} of them on the CPU" if away else " GiB")
    with pytest.raises(GGUFError, match=r"use -ngl 2, keep experts on the CPU \(--n-cpu-moe 1\), a shorter context"):
        engine_of(path, ShimDevices(memory=RESERVE + takes.of(0, 3) - 1))


def test_what_is_counted_is_what_is_taken(path: Path, takes: Costs) -> None:
    for count in range(4):
        devices = ShimDevices()
        with engine_of(path, devices, n_cpu_moe=count) as engine:
            found = takes.without_experts(count).of(0, 3)
            taken = (1 << 32) - devices.made[0].free()
            assert 0.98 * found < taken <= found
            engine.read(engine.sequence(), TOKENS)
            assert (1 << 32) - devices.made[0].free() == taken


def test_threads_end_where_a_program_cannot_be_made(path: Path) -> None:
    """On the second card: those of the first one's experts, too."""

    class Failing(ShimDevice):
        def load(self, specs: Any, report: Any = None) -> None:
            raise GGUFError("no kernels")

    class OneFails(ShimDevices):
        def open(self, index: int) -> Any:
            self.made.append(Failing() if index else ShimDevice())
            return self.made[-1]

    before = set(threading.enumerate())
    with pytest.raises(GGUFError, match="no kernels") as caught:
        engine_of(path, OneFails(), cpu_moe=True, tensor_split=(1, 1))
    assert set(threading.enumerate()) == before
    del caught  # until here its frames are held, and what they have


def test_a_closed_model_says_so(path: Path) -> None:
    engine = engine_of(path, cpu_moe=True)
    text = engine.sequence()
    engine.read(text, TOKENS[:3])
    engine.close()
    engine.close()
    with pytest.raises(GGUFError, match="the model has been closed"):
        engine.read(text, TOKENS[:3])


def test_what_the_machine_needs(path: Path) -> None:
    with gguf.open(path) as file:
        plan = read_plan(file, CONTEXT)
        needs = [
            needed_of(file, plan, EngineOptions(n_ctx=CONTEXT, n_gpu_layers="all", n_cpu_moe=count)).weights
            for count in (0, 1, 2, 3, 9)
        ]
        every = needed_of(file, plan, EngineOptions(n_ctx=CONTEXT)).weights
    assert needs[0] == 0
    assert needs[1] * 3 == needs[3] == needs[4] < every
    assert needs[1] * 2 == needs[2]


def test_a_model_without_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    path = families.write(tmp_path / "m.gguf", *FAMILIES["qwen3"], monkeypatch)
    with engine_of(path, cpu_moe=True, note=told.append) as engine:
        assert engine.isa == "shim"
    assert told[0] == "ggufpy: the model has no experts to keep on the CPU"


class Noting(ShimDevice):
    """A card that notes in which order it is asked for what."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def run(self, works: Sequence[Work]) -> None:
        self.asked.append("run")
        super().run(works)

    def fetch(self, copies: Any) -> Any:
        self.asked.append("fetch")
        made, wait = super().fetch(copies), "wait"
        inner = made.wait

        def waited() -> None:
            self.asked.append(wait)
            inner()

        made.wait = waited  # type: ignore[method-assign]
        return made


@pytest.mark.slow
def test_what_all_tokens_share_is_launched_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Noting()

    class One(ShimDevices):
        def open(self, index: int) -> Any:
            return card

    path = families.write(tmp_path / "m.gguf", *FAMILIES["qwen2moe"], monkeypatch)
    with engine_of(path, One(), cpu_moe=True) as engine:
        card.asked.clear()
        engine.read(engine.sequence(), TOKENS[:3], exact=True)
    assert card.asked[: 4 * 3] == ["run", "fetch", "run", "wait"] * 3


def test_what_is_elsewhere_must_be_loaded_there(path: Path) -> None:
    with gguf.open(path) as file:
        plan = with_experts_elsewhere(read_plan(file, CONTEXT), 1)
        with pytest.raises(ValueError, match="must be loaded there"):
            GpuModel(file, plan, EngineOptions(n_ctx=CONTEXT), ShimDevice())


def test_states_move(path: Path) -> None:
    with engine_of(path, cpu_moe=True) as engine:
        text = engine.sequence()
        engine.read(text, TOKENS[:12])
        state, expected = engine.snapshot(text, 12), engine.read(text, TOKENS[12:14], "all", exact=True)
    with engine_of(path, n_gpu_layers=0) as engine:
        found = engine.read(engine.restored(state, 12), TOKENS[12:14], "all", exact=True)
    assert spread(expected, found) < 0.01
