"""Cards are tried before they say anything: what is right is found right once, and what is wrong is not used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from families_near_llama import FAMILIES
from gpu_models import ShimDevices, small_model
from gpu_shim import ShimDevice, ShimGraph
from test_gpu_families import NAMES
from test_models_families2 import FAMILIES as MORE
from test_models_families2 import source

from ggufpy import format as gguf
from ggufpy.backends.cpu.model import read_plan
from ggufpy.backends.gpu.device import Facts, Launch, Product, Work
from ggufpy.errors import GGUFError
from ggufpy.models.ops import Heads
from ggufpy.models.source import WeightSource
from ggufpy.runtime import EngineOptions, card_trial, load
from ggufpy.runtime.trial import LARGEST_ERROR, POSITIONS, common, error_on

OTHERS = ("Q2_K", "Q8_0", "MXFP4", "F16")


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of verdicts that is empty."""
    from ggufpy.jit import verdicts

    kept = tmp_path / "verdicts"
    monkeypatch.setattr(verdicts, "folder", lambda: kept)
    monkeypatch.setattr(verdicts, "was_right", lambda kernels, level: True)
    return kept


def error(file: WeightSource, device: ShimDevice | None = None, **options: Any) -> float:
    given = EngineOptions(n_ctx=32, n_gpu_layers="all", **options)
    trial = card_trial._trial(file, read_plan(file, 32), given, "sm_80")
    used = device or ShimDevice()
    return error_on(trial, lambda made, own: card_trial.GpuModel(made, trial.plan, own, used))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_right_is_near(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, extras = FAMILIES[name]
    with gguf.open(families.write(tmp_path / "m.gguf", config, extras, monkeypatch)) as file:
        assert error(file) < LARGEST_ERROR / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_other_families_are_near(name: str) -> None:
    assert error(source(name)) < LARGEST_ERROR / 4


@pytest.mark.parametrize("cache", ["q8_0", pytest.param("q4_0", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "types", [("Q4_K", "Q6_K"), pytest.param(("Q2_K", "Q8_0", "MXFP4", "F16"), marks=pytest.mark.slow)]
)
def test_types_are_near(types: tuple[str, ...], cache: str) -> None:
    trial = common("sm_80", types, Heads(4, 2, 64, 64))
    trial = dataclasses.replace(trial, cache_types=(cache, cache), pieces=card_trial.PIECES, batch=POSITIONS)
    assert card_trial.fault_on(trial, ShimDevice()) == ""


class Noting(ShimDevice):
    """Notes what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: set[str] = set()
        self.replayed = 0

    def run(self, works: Sequence[Work]) -> None:
        for work in works:
            self.kinds.add(work.spec.name if isinstance(work, Launch) else type(work).__name__)
        super().run(works)

    def record(self, works: Sequence[Work]) -> Any:
        graph, device = super().record(works), self

        class Counted(ShimGraph):
            def launch(self) -> None:
                device.replayed += 1
                graph.launch()

        return Counted(self, ())


def test_every_way_is_gone(tmp_path: Path) -> None:
    """Prompts by tensor cores and by the library, attention by tiles and by splits, recorded work."""
    device = Noting()
    with gguf.open(small_model(tmp_path, "Q8_0")) as file:
        assert error(file, device) < LARGEST_ERROR / 4
    assert {Product.__name__, "matmul_mma", "decode_half", "matvec", "attend", "attend_join", "attend_tiles",
            "store_kv"} <= device.kinds  # fmt: skip
    assert device.replayed > 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return small_model(tmp_path, "Q8_0")


def loaded(path: Path, devices: Any, layers: Any, told: list[str]) -> str:
    """What a model runs on."""
    options = EngineOptions(n_threads=1, n_gpu_layers=layers, n_ctx=64, note=told.append)
    with gguf.open(path) as file, load(file, options, devices=devices) as engine:
        return engine.isa


def test_a_card_is_tried_once(path: Path, nothing_known: Path) -> None:
    told: list[str] = []
    devices = ShimDevices()
    assert loaded(path, devices, "all", told) == "shim"
    assert len(devices.made) == 2
    assert told[0] == "ggufpy: trying the kernels on shim, once for a kind of model"
    assert len(list(nothing_known.glob("right-card-*.json"))) == 1
    assert loaded(path, devices, 2, told).endswith(" + shim")
    assert len(devices.made) == 3
    assert sum("trying" in line for line in told) == 1
    assert [device.free() for device in devices.made] == [1 << 32] * 3


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: dataclasses.replace(facts, name="another"),
        lambda facts: dataclasses.replace(facts, software="another driver"),
        lambda facts: dataclasses.replace(facts, level="sm_90"),
    ],
)
def test_what_answers_depend_on(path: Path, change: Callable[[Facts], Facts]) -> None:
    tried: list[ShimDevice] = []

    def opened() -> ShimDevice:
        tried.append(ShimDevice())
        return tried[-1]

    with gguf.open(path) as file:
        plan, options, facts = read_plan(file, 64), EngineOptions(n_ctx=64), ShimDevice().facts
        for each in (facts, facts, change(facts), change(facts)):
            card_trial.check(file, plan, options, each, opened)
        assert len(tried) == 2
        card_trial.check(file, plan, EngineOptions(n_ctx=64, cache_type_k="q8_0"), facts, opened)
    assert len(tried) == 3


class Wrong(ShimDevice):
    """What comes back is of other rows."""

    def download(self, address: int, out: Any) -> None:
        super().download(address, out)
        out[:] = out[::-1].copy()


class WrongDevices(ShimDevices):
    """A card that is wrong, or fails."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self._kind = kind

    def open(self, index: int) -> Any:
        self.made.append(self._kind())
        return self.made[-1]


class NotANumber(ShimDevice):
    """What comes back are no numbers."""

    def download(self, address: int, out: Any) -> None:
        out[:] = np.nan


class Failing(ShimDevice):
    """A card that ends at its first work."""

    def run(self, works: Sequence[Work]) -> None:
        raise GGUFError("shim failed while computing: an illegal address; -ngl 0 runs without it")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Wrong, r"shim gives wrong answers \(its logits are off by [\d.]+ of their spread\): use -ngl 0"),
        (NotANumber, r"shim gives wrong answers \(its logits are off by inf of their spread\): use -ngl 0"),
        (Failing, r"shim failed while computing: an illegal address"),
    ],
)
def test_a_wrong_card_is_not_used(kind: Any, says: str, path: Path, nothing_known: Path) -> None:
    devices = WrongDevices(kind)
    told: list[str] = []
    with pytest.raises(GGUFError, match=says):
        loaded(path, devices, "all", told)
    assert "shim" not in loaded(path, devices, "auto", told)
    assert told[-1].startswith("ggufpy: all layers run on the CPU: shim ")
    assert not list(nothing_known.glob("right-card-*"))
    assert len(devices.made) == 4  # tried each time
    assert [device.free() for device in devices.made] == [1 << 32] * 4
