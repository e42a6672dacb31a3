"""Which layers go to which card, against cards that are numbers alone; and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import write_model
from test_plan import CONTEXT, Maker, source_of

from ggufpy import Llama, cli, runtime
from ggufpy import format as gguf
from ggufpy.backends.gpu.device import Facts
from ggufpy.backends.gpu.estimate import costs
from ggufpy.backends.gpu.placing import RESERVE, Card, Costs, experts_elsewhere, opened, place, runnable
from ggufpy.backends.options import EngineOptions, GpuLayers
from ggufpy.errors import GGUFError
from ggufpy.models.op import Weight
from ggufpy.models.ops import Attend, Embed, Heads, Norm, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.server.memory import needed

GIB = 1 << 30
ONE = Heads(1, 1, 32, 32)


class FakeDevice:
    """A card of so many bytes, of which some are free; it runs nothing."""

    def __init__(self, free: int, name: str = "Fake 8") -> None:
        self.facts = Facts(name, "sm_80", 4, 1 << 16, 8 * GIB)
        self._free, self.closed = free, False

    def free(self) -> int:
        return self._free

    def close(self) -> None:
        self.closed = True


class FakeDevices:
    """Cards with so many bytes free; or none, and why."""

    def __init__(self, *free: int, why: str = "") -> None:
        self._free, self._why = free, why
        self.made: list[FakeDevice] = []

    def why_none(self) -> str:
        return self._why

    def count(self) -> int:
        return len(self._free)

    def open(self, index: int) -> Any:
        if self._free[index] < 0:
            raise GGUFError(f"card {index} is in use by another program")
        self.made.append(FakeDevice(self._free[index], f"Fake {index}"))
        return self.made[-1]


def layer(i: int, *others: Any) -> tuple[Any, ...]:
    return (Norm("x", Weight(f"norm.{i}", (32,)), "x", 1e-5), *others)


def plan_of(layers: list[tuple[Any, ...]], head: tuple[Any, ...] = ()) -> Plan:
    made = (*head, Norm("x", Weight("norm", (32,)), "logits", 1e-5))
    return Plan(64, 32, Embed(Weight("embedding", (32, 32)), "x"), tuple(layers), made)


TEN = plan_of([layer(i) for i in range(10)])
GIB_EACH = Costs((GIB,) * 10, GIB // 2, GIB // 4, (0,) * 10, lambda: (GIB // 4, GIB // 4))  # ten layers of a GiB


def card(gib: float, share: float = 1.0, name: str = "Fake 8") -> Card:
    device: Any = FakeDevice(int(gib * GIB) + RESERVE, name)
    return Card(device, share, int(gib * GIB))


def spans(plan: Plan, wanted: Any, cards: list[Card], needs: Costs = GIB_EACH) -> list[tuple[str, int, int]]:
    return [(p.card.device.facts.name, p.start, p.stop) for p in place(plan, wanted, cards, needs)[0]]


@pytest.mark.parametrize(
    ("wanted", "gib", "start"),
    [
        (1, 11, 9), (4, 11, 6), (10, 11, 0), (11, 11, 0), (99, 11, 0), ("all", 11, 0), ("auto", 11, 0),
        ("auto", 10.75, 0), ("auto", 10.74, 1), ("auto", 4, 7), ("auto", 1.75, 9),
    ],
)  # fmt: skip
def test_the_last_layers_go_with_the_output(wanted: Any, gib: float, start: int) -> None:
    assert spans(TEN, wanted, [card(gib)]) == [("Fake 8", start, 10)]


def test_what_fits_is_told() -> None:
    parts, line = place(TEN, "auto", [card(3.8)], GIB_EACH)
    assert len(parts) == 1
    assert line == "3 of 10 layers on Fake 8, 3.8 of 8.0 GiB"
    parts, line = place(TEN, "auto", [card(1.7)], GIB_EACH)
    assert parts == []
    assert line == "0 of 10 layers on a GPU: not one fits beside the cache; a shorter context (-c) takes less"


def test_a_number_that_does_not_fit_says_the_largest() -> None:
    with pytest.raises(GGUFError) as caught:
        place(TEN, 7, [card(4)], GIB_EACH)
    assert str(caught.value) == (
        "-ngl 7: 7 layers take 7.8 GiB on Fake 8, which has 4.0 GiB to give: use -ngl 3, a shorter context (-c), "
        "or spread layers over several cards (--tensor-split)"
    )
    with pytest.raises(GGUFError, match=r"-ngl all: 10 layers take 10.8 GiB .*: use -ngl 0, a shorter"):
        place(TEN, "all", [card(1)], GIB_EACH)


MIXTURES = Costs(
    (GIB,) * 10, GIB // 2, GIB // 4, (0, 0, *(3 * GIB // 4,) * 8), lambda: (GIB // 4, GIB // 4)
)  # two dense layers, eight of experts


@pytest.mark.parametrize(
    ("gib", "count", "start"),
    [
        (11, 0, 0), (10.75, 0, 0), (10.74, 3, 0), (10, 3, 0), (9.99, 4, 0), (4.75, 10, 0), (4.74, 10, 1), (3, 10, 2),
        (1.75, 10, 6), (1, 10, 9), (0.99, 0, 10),
    ],
)  # fmt: skip
def test_experts_that_should_be_elsewhere(gib: float, count: int, start: int) -> None:
    """For all layers, or for more than fit with theirs."""
    assert experts_elsewhere(TEN, [card(gib)], MIXTURES) == count
    found = spans(TEN, "auto", [card(gib)], MIXTURES.without_experts(count))
    assert found == ([("Fake 8", start, 10)] if start < 10 else [])


def test_experts_that_are_elsewhere_take_nothing() -> None:
    assert MIXTURES.without_experts(0) == MIXTURES
    less = MIXTURES.without_experts(4)
    assert less.layers == (GIB, GIB, GIB // 4, GIB // 4, *(GIB,) * 6)
    assert less.without_experts(4) == less.without_experts(1) == less
    assert less.without_experts(99) == MIXTURES.without_experts(10)
    assert experts_elsewhere(TEN, [card(6, 1, "a"), card(6, 1, "b")], MIXTURES) == 0
    assert experts_elsewhere(TEN, [card(4, 1, "a"), card(6, 1, "b")], MIXTURES) == 4
    assert experts_elsewhere(TEN, [card(4)], GIB_EACH) == 0


def test_experts_elsewhere_are_advised() -> None:
    with pytest.raises(GGUFError, match=r"use -ngl 5, keep experts on the CPU \(--n-cpu-moe 8\), a shorter context"):
        place(TEN, "all", [card(6.5)], MIXTURES)
    with pytest.raises(GGUFError, match=r"use -ngl 3, a shorter context"):
        place(TEN, 8, [card(4)], MIXTURES)


@pytest.mark.parametrize(
    ("wanted", "shares", "found"),
    [
        (10, (1, 1), [("a", 0, 5), ("b", 5, 10)]),
        (10, (3, 1), [("a", 0, 8), ("b", 8, 10)]),
        (4, (1, 3), [("a", 6, 7), ("b", 7, 10)]),
        (1, (1, 1), [("a", 9, 10)]),
        ("all", (1, 0.01), [("a", 0, 10)]),
    ],
)
def test_layers_are_spread_by_shares(wanted: Any, shares: tuple[float, float], found: Any) -> None:
    cards = [card(20, share, name) for share, name in zip(shares, "ab", strict=True)]
    assert spans(TEN, wanted, cards) == found


def test_as_many_as_fit_by_shares() -> None:
    """The first card has 3 GiB, so 2 layers beside its buffers: of 5 it is to have half, which are 3 by rounding."""
    assert spans(TEN, "auto", [card(3, 1, "a"), card(20, 1, "b")]) == [("a", 6, 8), ("b", 8, 10)]
    _, line = place(TEN, "auto", [card(3, 1, "a"), card(20, 1, "b")], GIB_EACH)
    assert line == "2 of 10 layers on a, 2.2 of 8.0 GiB; 2 of 10 layers on b, 2.8 of 8.0 GiB"
    with pytest.raises(GGUFError, match=r"on a, which has 3.0 GiB to give: use -ngl 4, a shorter context \(-c\)$"):
        place(TEN, "all", [card(3, 1, "a"), card(20, 1, "b")], GIB_EACH)


def test_layers_with_other_ops_stay_on_the_cpu() -> None:
    unknown = _Unknown()
    plan = plan_of([layer(i, *([unknown] if i == 6 else [])) for i in range(10)])
    assert runnable(plan) == (3, "layer 6 has _Unknown, which the CPU alone runs")
    parts, line = place(plan, "auto", [card(20)], GIB_EACH)
    assert [(part.start, part.stop) for part in parts] == [(7, 10)]
    assert line == "3 of 10 layers on Fake 8, 3.8 of 8.0 GiB (layer 6 has _Unknown, which the CPU alone runs)"
    with pytest.raises(GGUFError, match=r"-ngl 4: layer 6 has _Unknown, which the CPU alone runs: use -ngl 3$"):
        place(plan, 4, [card(20)], GIB_EACH)
    # Where all layers cannot go, experts move only for those that can.
    assert [experts_elsewhere(plan, [card(gib)], MIXTURES) for gib in (20, 3.75, 3.74, 1.5, 0.9)] == [0, 0, 10, 10, 0]
    headless = plan_of([layer(i) for i in range(10)], head=(unknown,))
    assert place(headless, "auto", [card(20)], GIB_EACH)[0] == []
    with pytest.raises(GGUFError, match=r"the output has _Unknown, which the CPU alone runs: use -ngl 0$"):
        place(headless, 1, [card(20)], GIB_EACH)


class _Unknown(Norm):
    """An op without a kernel for a GPU."""

    def __init__(self) -> None:
        super().__init__("x", None, "x", 1e-5, length=32)


def test_layers_that_share_keys_stay_together() -> None:
    """Layer 7 attends to what layer 5 keeps: there is no cut before 6 and 7."""
    kept = (StoreKv(5, "k", "v", ONE), Attend(5, "q", "y", ONE, 1.0))
    more = {5: kept, 7: (Attend(5, "q", "y", ONE, 1.0),)}
    plan = plan_of([layer(i, *more.get(i, ())) for i in range(10)])
    assert spans(plan, "auto", [card(4)]) == [("Fake 8", 8, 10)]
    assert spans(plan, "auto", [card(5.75)]) == [("Fake 8", 5, 10)]
    with pytest.raises(GGUFError, match="layer 7 attends to what layer 5 keeps, so both must be on one device"):
        place(plan, 4, [card(20)], GIB_EACH)


def test_costs_are_those_of_what_is_allocated() -> None:
    plan = Maker(None).plan()
    found = costs(source_of(plan), plan, EngineOptions(n_ctx=CONTEXT, n_parallel=2), 64, FakeDevice(0).facts)
    pages = 2 * 2 * 128 * 2 * 40 * 2  # two texts of two pages, 128 positions of two heads, 20 + 20 numbers of f16
    assert len(found.layers) == len(plan.layers)
    for ops, nbytes in zip(plan.layers, found.layers, strict=True):
        floats = sum(int(np.prod(weight.shape)) for op in ops for weight in op.weights)
        assert 4 * floats + pages <= nbytes < 1.5 * (4 * floats + pages)
    assert found.of(0, 2) == sum(found.layers) + found.head + found.work
    assert found.of(0, 1) == found.layers[0] + found.work


def test_cards_are_those_that_options_name() -> None:
    devices = FakeDevices(4 * GIB, 6 * GIB, 8 * GIB)
    assert [c.free for c in opened(EngineOptions(), devices)] == [4 * GIB - RESERVE]
    assert [c.free for c in opened(EngineOptions(main_gpu=2), devices)] == [8 * GIB - RESERVE]
    found = opened(EngineOptions(tensor_split=(3, 0, 1)), devices)
    assert [(c.device.facts.name, c.share) for c in found] == [("Fake 0", 3.0), ("Fake 2", 1.0)]
    with pytest.raises(GGUFError, match="--main-gpu 3: there are 3 cards, the first is 0"):
        opened(EngineOptions(main_gpu=3), devices)
    with pytest.raises(GGUFError, match="--tensor-split has 2 shares, and there is 1 card: ggufpy doctor lists them"):
        opened(EngineOptions(tensor_split=(1, 1)), FakeDevices(GIB))


def test_a_card_that_cannot_be_opened_leaves_none_open() -> None:
    devices = FakeDevices(4 * GIB, -1)
    with pytest.raises(GGUFError, match="card 1 is in use"):
        opened(EngineOptions(tensor_split=(1, 1)), devices)
    assert [device.closed for device in devices.made] == [True]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("placing") / "model.gguf")


NONE = "CuPy is missing: pip install 'ggufpy[cuda12]'"


def test_without_a_card_auto_goes_on_with_the_cpu(model: Path) -> None:
    told: list[str] = []
    with gguf.open(model) as file:
        options = EngineOptions(n_gpu_layers="auto", note=told.append)
        with runtime.load(file, options, devices=FakeDevices(why=NONE)) as engine:
            assert engine.read(engine.sequence(), [1, 2, 3]).shape == (1, engine.n_vocab)
        assert told == [f"ggufpy: all layers run on the CPU: {NONE}"]
        with pytest.raises(GGUFError, match="layers cannot go to a GPU: CuPy is missing"):
            runtime.load(file, EngineOptions(n_gpu_layers=1), devices=FakeDevices(why=NONE))


def test_auto_goes_on_with_the_cpu_where_a_card_cannot_be_opened(model: Path) -> None:
    told: list[str] = []
    with gguf.open(model) as file:
        options = EngineOptions(n_gpu_layers="auto", note=told.append)
        with runtime.load(file, options, devices=FakeDevices(-1)) as engine:
            assert engine.n_vocab
        assert told == ["ggufpy: all layers run on the CPU: card 0 is in use by another program"]
        with pytest.raises(GGUFError, match="card 0 is in use by another program"):
            runtime.load(file, EngineOptions(n_gpu_layers=2), devices=FakeDevices(-1))


def test_a_card_with_too_little_memory(model: Path) -> None:
    told: list[str] = []
    with gguf.open(model) as file:
        devices = FakeDevices(RESERVE + 1000)
        options = EngineOptions(n_gpu_layers="auto", note=told.append)
        with runtime.load(file, options, devices=devices) as engine:
            assert "Fake" not in engine.isa
        assert [device.closed for device in devices.made] == [True]
        assert told[0].startswith("ggufpy: 0 of 2 layers on a GPU: ")
        with pytest.raises(GGUFError, match="-ngl all: "):
            runtime.load(file, EngineOptions(n_gpu_layers=-1), devices=devices)
        assert all(device.closed for device in devices.made)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(0, 0), (7, 7), (-1, "all"), ("all", "all"), ("auto", "auto"), (np.int64(3), 3)],
)
def test_numbers_of_layers(given: Any, kept: Any) -> None:
    assert EngineOptions(n_gpu_layers=given).gpu_layers == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_gpu_layers": -2}, "n_gpu_layers is -2; it must be"),
        ({"n_gpu_layers": "most"}, "n_gpu_layers is 'most'; it must be a whole number, all or auto"),
        ({"n_gpu_layers": True}, "n_gpu_layers is True"),
        ({"main_gpu": -1}, "main_gpu is -1"),
        ({"tensor_split": (1, -1)}, "shares are 0 or more"),
        ({"tensor_split": (0, 0)}, "one is above 0"),
        ({"tensor_split": "3,1"}, "tensor_split is '3,1'; a list of numbers is wanted"),
        ({"cpu_moe": True}, "--cpu-moe says which experts stay on the CPU: say what goes to a card"),
        ({"n_cpu_moe": 4}, "--n-cpu-moe 4 says which experts stay on the CPU"),
        ({"n_cpu_moe": -1, "n_gpu_layers": "all"}, "n_cpu_moe is -1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        EngineOptions(**options).check()


@pytest.mark.parametrize(("word", "read"), [("0", 0), ("12", 12), ("-1", "all"), ("all", "all"), ("auto", "auto")])
def test_layers_on_the_command_line(word: str, read: Any) -> None:
    assert GpuLayers().read(word) == read


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-ngl", "most"], "'most' is not a number of layers, all or auto"),
        (["-ngl", "-2"], "'-2' is not a number of layers, all or auto"),
        (["--tensor-split", "3,x"], "'x' is not a number"),
        (["--cpu-moe"], "--cpu-moe says which experts stay on the CPU: say what goes to a card (-ngl, n_gpu_layers)"),
        (["-ncmoe", "3"], "--n-cpu-moe 3 says which experts stay on the CPU"),
        (["-ncmoe", "x", "-ngl", "all"], "'x' is not"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    arguments: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(model), "-p", "a", *arguments]) != 0
    assert message in capsys.readouterr().err


def test_a_model_with_layers_on_a_card_needs_less_of_the_machine(model: Path) -> None:
    from ggufpy.generate.loading import LoadOptions

    takes = [needed(model, LoadOptions(n_gpu_layers=n)) for n in (0, 1, 2, "all", "auto")]
    assert takes[0].weights > takes[1].weights > takes[2].weights == takes[3].weights == 0
    assert takes[0].cache == 2 * takes[1].cache > takes[2].cache == 0
    assert takes[4] == takes[0]


def test_numbers_warn_where_there_is_no_card(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs for llama-cpp-python ask for -1 on any machine."""
    from ggufpy.backends.gpu import listing

    monkeypatch.setattr(listing, "why_none", lambda: NONE)
    with pytest.warns(UserWarning, match="n_gpu_layers has no effect: CuPy is missing"):
        Llama(model, n_gpu_layers=-1, vocab_only=True)
    with pytest.raises(GGUFError, match="layers cannot go to a GPU: CuPy is missing"):
        Llama(model, n_gpu_layers="all")
