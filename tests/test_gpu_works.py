"""Work by the shape of step: when it is made, kept and recorded, and what is done elsewhere in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from ggufpy.backends.gpu import works as works_module
from ggufpy.backends.gpu.device import Launch, Product, Work
from ggufpy.backends.gpu.elsewhere import Errand, Errands, RowsAt, Sent, Taken
from ggufpy.backends.gpu.lowering import Piece
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.backends.gpu.step import StepShape
from ggufpy.backends.gpu.works import SHAPES, Works, stretches
from ggufpy.models.elsewhere import Elsewhere, Given


class Recorder:
    """A device that notes what it is asked to run, and the errands in between."""

    def __init__(self) -> None:
        self.ran: list[int | Errand] = []
        self.recorded: list[int] = []
        self.launched = 0

    def errand(self, errand: Errand) -> None:
        self.ran.append(errand)

    def run(self, works: Sequence[Work]) -> None:
        self.ran.append(len(works))

    def record(self, works: Sequence[Work]) -> Recorder:
        self.recorded.append(len(works))
        return self

    def launch(self) -> None:
        self.launched += 1


LAUNCH = Launch(KernelSpec("none", ()), b"", (1, 1, 1), 32)


def works(count: int, last: Work = LAUNCH) -> tuple[Any, Works, list[StepShape]]:
    device: Any = Recorder()
    made: list[StepShape] = []

    def make(shape: StepShape) -> Iterator[Work]:
        made.append(shape)
        yield from [LAUNCH] * (count - 1)
        yield last

    return device, Works(device, make, device.errand), made


def test_steps_of_a_few_rows_are_recorded_when_they_come_again() -> None:
    device, some, made = works(100)
    for _ in range(4):
        some.run(StepShape(1))
    assert made == [StepShape(1)]
    assert (device.ran, device.recorded, device.launched) == ([64, 36], [100], 3)
    some.run(StepShape(2))
    assert (device.ran, device.recorded) == ([64, 36, 64, 36], [100])


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        (StepShape(0, 0, 30, 1), LAUNCH), (StepShape(2, 4, 30, 1), LAUNCH), (StepShape(65), LAUNCH),
        (StepShape(1), Product(1, 1, 1, 0, 1, 0, 1, 0, 1)),
    ],
)  # fmt: skip
def test_other_work_is_kept_as_it_is(shape: StepShape, last: Work) -> None:
    device, some, made = works(10, last)
    for _ in range(3):
        some.run(shape)
    assert (device.ran, device.recorded, made) == ([10] * 3, [], [shape])


def test_work_of_the_latest_shapes_is_kept() -> None:
    _, some, made = works(1)
    shapes = [StepShape(0, 0, many, 1) for many in range(20, 20 + SHAPES + 1)]
    for shape in [*shapes, shapes[-1], shapes[0]]:
        some.run(shape)
    assert made == [*shapes, shapes[0]]  # the first had to go


SENT, TAKEN = Sent(0, (("x", RowsAt(0, 32, 32, 1)),), "y"), Taken(RowsAt(0, 32, 32, 1))


def test_stretches() -> None:
    assert list(stretches([])) == []
    assert list(stretches([LAUNCH, LAUNCH])) == [[LAUNCH, LAUNCH]]
    assert list(stretches([SENT, TAKEN, LAUNCH])) == [SENT, TAKEN, [LAUNCH]]
    assert list(stretches([LAUNCH, SENT, LAUNCH, TAKEN])) == [[LAUNCH], SENT, [LAUNCH], TAKEN]


def with_errands(device: Any, times: int = 1) -> Works:
    def make(shape: StepShape) -> Iterator[Piece]:
        for _ in range(times):
            yield from [LAUNCH] * 70
            yield SENT
            yield LAUNCH
            yield TAKEN
        yield LAUNCH

    return Works(device, make, device.errand)


def test_errands_have_their_turn() -> None:
    device: Any = Recorder()
    some = with_errands(device)
    some.run(StepShape(1))
    assert device.ran == [64, 6, SENT, 1, TAKEN, 1]
    device.ran.clear()
    some.run(StepShape(1))  # is recorded, a graph for each stretch
    assert (device.ran, device.recorded, device.launched) == ([SENT, TAKEN], [70, 1, 1], 3)
    some.run(StepShape(1))
    assert (device.ran, device.recorded, device.launched) == ([SENT, TAKEN] * 2, [70, 1, 1], 6)
    device.ran.clear()
    for _ in range(2):
        some.run(StepShape(0, 0, 40, 1))
    assert device.ran == [64, 6, SENT, 1, TAKEN, 1, 70, SENT, 1, TAKEN, 1]


def test_graphs_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(works_module, "PIECES", 20)
    device: Any = Recorder()
    some = with_errands(device, 3)  # 13 pieces a shape
    for rows in (1, 1, 2, 2, 2):
        some.run(StepShape(rows))
    count = len(device.recorded)
    assert count == 2 * 7
    some.run(StepShape(2))
    assert len(device.recorded) == count  # the latest is there
    some.run(StepShape(1))
    some.run(StepShape(1))
    assert len(device.recorded) == count + 7


class Other:
    """A program that doubles what it is given."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.closed = False

    def run_layer(self, layer: int, given: Any, y: str) -> Any:
        assert (list(given), y) == (["x"], "y")
        self.ran.append(layer)
        return np.pad(2.0 * given["x"], ((0, 0), (0, 32 - given["x"].shape[1])), constant_values=7.0)

    def close(self) -> None:
        self.closed = True


class Memory:
    """A device that is an array: what it fetches comes when it is waited for."""

    def __init__(self, rows: int) -> None:
        self.x = np.arange(64 * rows, dtype=np.float32).reshape(rows, 64)
        self.y = np.full((rows, 96), np.nan, np.float32)

    def fetch(self, copies: Any) -> Any:
        ((address, out),) = copies
        self.out, self.there = out, self.x.copy()
        self.waited = False
        assert (address, out.shape) == (5, self.x.shape)
        return self

    def wait(self) -> None:
        self.waited = True
        self.out[...] = self.there

    def upload(self, address: int, data: Any) -> None:
        assert address == 9
        assert self.waited
        self.y[...] = data


@pytest.mark.parametrize("counts", [(3,), (1, 4, 2)])
def test_what_goes_and_what_comes(counts: Sequence[int]) -> None:
    other = Other()
    ops = [Elsewhere(number, Given((("x", 20),)), (), "y", 20) for number in (4, 7)]
    for count in counts:
        memory: Any = Memory(count)
        errands = Errands(memory, other, ops)
        errands.run(Sent(7, (("x", RowsAt(5, 64, 20, count)),), "y"))
        expected = 2 * memory.x[:, :20]
        memory.x[...] = -1.0  # it is sent
        errands.run(Taken(RowsAt(9, 96, 20, count)))
        np.testing.assert_array_equal(memory.y[:, :20], expected)
        assert not memory.y[:, 20:].any()
    assert other.ran == [1] * len(counts)
    errands.close()
    assert other.closed


def test_nothing_is_taken_that_was_not_sent() -> None:
    memory: Any = Memory(1)
    with pytest.raises(ValueError, match="nothing is elsewhere"):
        Errands(memory, Other(), ()).run(TAKEN)
    Errands(memory, None, ()).close()
