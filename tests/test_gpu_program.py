"""A program of layers on a GPU that is the CPU: plans of any structure, and what its parts say and keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gpu_models import ShimDevices, spread
from gpu_shim import ShimDevice
from test_lora import adapter, matrices
from test_plan import CONTEXT, TEXT, Maker, source_of

from ggufpy.backends.gpu.memory import Buffers, Rooms, StepMemory, StepSize, buffer_widths, shape_of
from ggufpy.backends.gpu.model import GpuModel
from ggufpy.backends.gpu.step import TILE, StepShape
from ggufpy.backends.gpu.uploading import uploaded
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Rows, page_table
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource, Blocks
from ggufpy.models import lora
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.lora import LoraSource
from ggufpy.models.op import Weight
from ggufpy.models.ops import Add, Embed, Gate, MatMul, Norm, View
from ggufpy.models.plan import Plan
from ggufpy.models.rewrite import with_lora
from ggufpy.runtime.engine import Chunk, Engine

WIDTH = 72


def values(source: Any) -> dict[str, Any]:
    return {name: tensor.to_numpy() for name, tensor in source.tensors.items()}


def weight(name: str, *shape: int) -> Weight:
    return Weight(name, shape)


# -- plans ---------------------------------------------------------------------------------------------------


def simple_plan() -> Plan:
    """Layers without products and attention, whose logits are as wide as x."""
    layers = [
        (Norm("x", weight(f"norm.{i}", WIDTH), "n", 1e-5), Gate("n", "x", "g", WIDTH), Add("g", "x", WIDTH))
        for i in range(2)
    ]
    head = (Norm("x", weight("norm.a", WIDTH), "h", 1e-5), Norm("h", weight("norm.b", WIDTH), "logits", 1e-5))
    return Plan(CONTEXT, WIDTH, Embed(weight("embedding", WIDTH, WIDTH), "x", 2.5), tuple(layers), head)


def test_rows_in_bulk_and_one_by_one_side_by_side() -> None:
    plan = simple_plan()
    source, tokens = source_of(plan), list(range(60))
    exact = Interpreter(plan, values(source)).logits(tokens)
    options = EngineOptions(n_threads=1, n_parallel=3)
    with Engine(GpuModel(source, plan, options, ShimDevice()), 64) as engine:
        texts = [engine.sequence() for _ in range(3)]
        np.testing.assert_allclose(engine.read(texts[0], tokens[:40], "all"), exact[:40], atol=1e-5)
        for at in range(4):  # the first time as it is, then recorded
            chunks = [Chunk(texts[1], [at]), Chunk(texts[2], [10 + at]), Chunk(texts[0], tokens[40:45], "all", True)]
            found = engine.step(chunks)
            np.testing.assert_allclose(found[0][0], exact[at], atol=1e-5)
            np.testing.assert_allclose(found[1][0], exact[10 + at], atol=1e-5)
            np.testing.assert_allclose(found[2], exact[40:45], atol=1e-5)
        for at in range(4):
            np.testing.assert_allclose(engine.step([Chunk(texts[1], [4 + at])])[0][0], exact[4 + at], atol=1e-5)


@pytest.mark.parametrize("n_batch", [64, 7])
def test_a_plan_runs_as_the_interpreter_does(n_batch: int) -> None:
    """Heads of 20 numbers, biases, norms of queries and keys; prompts in bulk, or exactly by a few tokens a step."""
    plan = Maker(None).plan()
    source = source_of(plan)
    exact = Interpreter(plan, values(source)).logits(TEXT)
    with Engine(GpuModel(source, plan, EngineOptions(n_threads=2), ShimDevice()), n_batch) as engine:
        text = engine.sequence()
        found = [engine.read(text, TEXT[:-4], "all")]
        found += [engine.step([Chunk(text, [token])])[0] for token in TEXT[-4:]]
    assert spread(exact, np.concatenate(found)) < 0.01


def test_adapters_count_as_sequences_say() -> None:
    plan = Maker(None).plan()
    source = ArraySource({"general.architecture": "llama"}, source_of(plan).tensors)
    adapters = [lora.read(adapter(dict([item]), i)) for i, item in enumerate(list(matrices(plan).items())[::3])]
    adapted, whole = with_lora(plan, adapters), LoraSource(source, plan, adapters)
    scales = [0.5, -0.25, *[0.0] * (len(adapters) - 3), 0.3]
    interpreter = Interpreter(adapted, values(whole))
    options = EngineOptions(n_threads=2, n_parallel=2)
    with Engine(GpuModel(whole, adapted, options, ShimDevice()), 64) as engine:
        one, other = engine.sequence(scales), engine.sequence()
        found = engine.step([Chunk(one, TEXT[:30], "all", True), Chunk(other, TEXT[:30], "all", True)])
        more = engine.step([Chunk(one, [TEXT[30]]), Chunk(other, [TEXT[30]])])
    for rows, last, used in zip(found, more, (scales, ()), strict=True):
        exact = interpreter.logits(TEXT[:31], used)
        assert spread(exact, np.concatenate([rows, last])) < 0.01


def test_one_engine_may_follow_another() -> None:
    """What a device had is given back when its engine closes."""
    devices = ShimDevices()
    for _ in range(2):
        device = devices.open(0)
        plan = Maker(None).plan()
        engine = Engine(GpuModel(source_of(plan), plan, EngineOptions(n_threads=1), device), 32)
        assert device.free() < device.facts.memory
        engine.close()
        assert device.free() == device.facts.memory


def test_a_program_that_cannot_be_made_leaves_nothing() -> None:
    class Failing(ShimDevice):
        def load(self, specs: Any, report: Any = None) -> None:
            raise GGUFError("a kernel does not compile")

    plan, device = simple_plan(), Failing()
    with pytest.raises(GGUFError, match="does not compile"):
        Engine(GpuModel(source_of(plan), plan, EngineOptions(n_threads=1), device), 32)
    assert device.free() == device.facts.memory


# -- what a step says ----------------------------------------------------------------------------------------


def parts(*placed: tuple[int, int, int, bool], groups: int = 2, scales: Sequence[float] = ()) -> list[Rows]:
    """Parts of a step: how many rows, the first, its position, whether in bulk. Pages are numbered as they come."""
    made = []
    for i, (count, row, position, bulk) in enumerate(placed):
        pages = page_table(groups, 3)
        pages[...] = 10 * i + np.arange(3) + 100 * np.arange(groups)[:, None]
        made.append(Rows(np.arange(count), row, position, pages, bulk, tuple(scales)))
    return made


class Read:
    """What a device has of a step."""

    def __init__(self, device: ShimDevice, memory: StepMemory) -> None:
        self._device, self._at = device, memory.addresses

    def __call__(self, name: str, count: int, dtype: str = "<i4", skip: int = 0) -> Any:
        out = np.zeros(count, dtype)
        self._device.download(getattr(self._at, name) + 4 * skip, out)
        return out.tolist()


def test_a_step_says_where_rows_are() -> None:
    device = ShimDevice()
    memory = StepMemory(device, StepSize(rows=200, sequences=3, pages=3, groups=2, adapters=2))
    step = parts((1, 0, 7, False), (130, 4, 130, True), (2, 1, 300, False), scales=(0.5, 2.0))
    memory.write(step)
    read, stride = Read(device, memory), memory.addresses.table_stride
    assert read("positions", 6) == [7, 300, 301, -1, 130, 131]
    assert read("ends", 6) == [8, 302, 302, 0, 260, 260]
    tables = [read("tables", 134, skip=group * stride) for group in range(2)]
    pages = read("pages", 14)
    of = {(row, group): pages[tables[group][row] :] for row in (0, 1, 2, 4, 133) for group in range(2)}
    assert [of[0, group][:1] for group in range(2)] == [[0], [100]]
    assert [of[1, group][:3] for group in range(2)] == [[20, 21, 22], [120, 121, 122]]
    assert [of[4, group][:3] for group in range(2)] == [[10, 11, 12], [110, 111, 112]]
    assert of[4, 1] == of[133, 1]
    assert read("tile_count", 1) == [3]
    assert read("tiles", 6) == [4, TILE, 4 + TILE, TILE, 4 + 2 * TILE, 2]
    assert read("scales", 5, "<f4") == [0.5, 0.5, 0.5, 0.0, 0.5]
    assert read("scales", 5, "<f4", skip=stride) == [2.0, 2.0, 2.0, 0.0, 2.0]
    assert shape_of(step) == StepShape(3, 4, 130, 1)


def test_a_later_step_leaves_nothing_of_an_earlier() -> None:
    device = ShimDevice()
    memory = StepMemory(device, StepSize(rows=64, sequences=2, pages=3, groups=1, adapters=0))
    read = Read(device, memory)
    memory.write(parts((40, 0, 0, True), groups=1))
    memory.write(parts((1, 0, 40, False), groups=1))
    assert (read("positions", 1), read("ends", 1), read("tile_count", 1)) == ([40], [41], [0])
    memory.write_sources([5, 0, 3], memory.scales)
    assert read("sources", 3) == [5, 0, 3]


@pytest.mark.parametrize(
    ("placed", "groups"),
    [
        ([(65, 0, 0, True)], 1),
        ([(1, 0, 0, False), (1, 1, 0, False), (1, 2, 0, False)], 1),
        ([(1, 0, 384, False)], 1),
        ([(1, 0, -1, False)], 1),
        ([(1, 0, 0, False)], 2),
    ],
)
def test_what_a_step_has_no_room_for(placed: list[tuple[int, int, int, bool]], groups: int) -> None:
    memory = StepMemory(ShimDevice(), StepSize(rows=64, sequences=2, pages=3, groups=1, adapters=0))
    with pytest.raises(ValueError, match=r"a step of|rows from position"):
        memory.write(parts(*placed, groups=groups))


def test_shapes_of_steps() -> None:
    assert shape_of(parts((1, 0, 5, False), (1, 1, 9, False))) == StepShape(2)
    assert shape_of(parts((20, 0, 0, True), (30, 20, 0, True))) == StepShape(0, 0, 50, 2)
    assert shape_of(parts((30, 4, 0, True), (1, 0, 0, False))) == StepShape(1, 4, 30, 1)
    assert StepShape(1, 4, 30, 1).end == 34


# -- memory --------------------------------------------------------------------------------------------------


def test_views_take_no_memory() -> None:
    ops = [
        Embed(weight("e", 8, 72), "x"), MatMul("x", weight("qkv", 96, 72), "qkv"), View("qkv", 0, 32, "q"),
        View("qkv", 32, 64, "kv"), Norm("q", weight("n", 32), "q", 1e-5),
        MatMul("q", weight("o", 72, 32), "x", add=True), MatMul("x", weight("other", 40, 72), "q"),
    ]  # fmt: skip
    assert buffer_widths(ops) == {"x": 72, "qkv": 96, "q": 40}


def test_buffers_are_padded_rows_apart() -> None:
    device = ShimDevice()
    buffers = Buffers(device, {"x": 72, "logits": 50}, 10)
    x, logits = buffers.place("x"), buffers.place("logits")
    assert (x.stride, logits.stride) == (96, 64)
    assert logits.address - x.address >= 10 * 96 * 4
    assert x.address % 128 == logits.address % 128 == 0


def test_rooms_grow_and_keep_what_they_were() -> None:
    device = ShimDevice()
    rooms = Rooms(device)
    small = rooms.get("parts", 100)
    assert rooms.get("parts", 90) == small
    large = rooms.get("parts", 1000)
    assert rooms.get("parts", 100) == large != small
    device.upload(small, np.zeros(100, np.uint8))  # work that was made before may still use it
    assert rooms.get("others", 100) not in (small, large)


# -- weights on their way --------------------------------------------------------------------------------------


def test_matrices_are_packed_by_threads() -> None:
    rng, device, told = np.random.default_rng(0), ShimDevice(), []
    arrays = {f"m{i}": rng.standard_normal((3 + i, 40)).astype(np.float32) for i in range(9)}
    source = ArraySource({}, arrays)
    matrices, memory = uploaded(device, [source.tensors[name] for name in arrays], 3, told.append)
    assert sum(told) == sum(array.nbytes for array in arrays.values())
    for name, array in arrays.items():
        found = np.zeros((len(array), 64), np.float32)
        device.download(matrices[name].address, found)
        np.testing.assert_array_equal(found[:, :40], array)
        assert not found[:, 40:].any()
        assert memory.address <= matrices[name].address < memory.address + memory.nbytes


def test_a_matrix_that_cannot_be_packed_ends_all() -> None:
    blocks = np.zeros((40, 34), np.uint8)
    blocks[:, 1] = 0x7C  # an infinite scale of Q8_0
    arrays: dict[str, Any] = {"bad": Blocks(blocks, "Q8_0")}
    arrays |= {f"m{i}": np.ones((2000, 64), np.float32) for i in range(20)}
    source = ArraySource({}, arrays)
    with pytest.raises(GGUFError, match="tensor bad has a scale or minimum that is not finite"):
        uploaded(ShimDevice(), list(source.tensors.values()), 2, lambda nbytes: None)


def test_a_device_that_fails_ends_the_threads() -> None:
    class Failing(ShimDevice):
        def upload(self, address: int, data: Any) -> None:
            raise GGUFError("the card is gone")

    source = ArraySource({}, {f"m{i}": np.ones((2000, 64), np.float32) for i in range(20)})
    with pytest.raises(GGUFError, match="the card is gone"):
        uploaded(Failing(), list(source.tensors.values()), 2, lambda nbytes: None)
