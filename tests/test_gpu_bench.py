"""tools/gpu_bench.py where no card is: what it says, its arithmetic, and its measure of a model's logits on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ggufpy.backends.gpu import listing
from ggufpy.backends.gpu.device import Launch, Product
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import gpu_bench
from gpu import exact, nvrtc, rates, report
from gpu_bench import Rates, Speed
from synthetic import SHAPES, write_model


def test_no_card_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "why_none", lambda: "CuPy is missing: install it")
    assert gpu_bench.main([]) == 1
    assert capsys.readouterr() == ("", "gpu_bench: there is nothing to measure: CuPy is missing: install it\n")


def test_the_table_compares_with_the_cards_rates() -> None:
    speeds = [
        Speed("7b-Q4_0", "all", 400.0, 12_000.0, 4_000_000_000, 7e12),
        Speed("7b-Q4_0", "half", 20.0, 600.0, 4_000_000_000, 7e12),
    ]
    _, first, second = gpu_bench.rows(speeds, Rates(3.2e12, 6e14))
    assert first == ("7b-Q4_0", "all", "400.0", "1,600", "0.50", "12,000", "164.1", "0.27")
    assert second[4::3] == ("-", "-")


class Clocked:
    """A device whose work takes no time but what its clock is told."""

    def __init__(self) -> None:
        self.copied, self.products, self.allocated = 0, 0, 0

    def allocate(self, nbytes: int, about: str) -> Clocked:
        self.allocated += nbytes
        self.address = self.allocated
        return self

    def upload(self, address: int, data: np.ndarray) -> None:
        assert data.dtype == np.float16

    def download(self, address: int, out: np.ndarray) -> None:
        pass

    def copy(self, source: int, target: int, nbytes: int) -> None:
        self.copied += nbytes

    def run(self, works: list[Product]) -> None:
        self.products += len(works)
        assert all((work.m, work.n, work.k) == (256, 256, 256) for work in works)


def test_rates_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Clocked()
    monkeypatch.setattr(rates, "SIDE", 256)
    monkeypatch.setattr(rates.time, "perf_counter", lambda: device.copied / 1e12 + device.products * 0.01)
    assert rates.copy_rate(device) == pytest.approx(2e12)  # a byte copied is one read and one written
    assert rates.matrix_rate(device) == pytest.approx(2 * 256**3 / 0.01)


def test_divergence_of_known_distributions() -> None:
    truth = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    assert exact.divergence(truth, (truth + 3).astype(np.float32)) == pytest.approx(0, abs=1e-12)
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32))
    assert exact.divergence(truth, other) == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2, rel=1e-6)
    assert exact.Divergences(0.001, 0.0001).faults() == []
    assert exact.Divergences(float("nan"), 0.001).faults() == [
        "KL divergence in decode is nan, more than 0.0035", "KL divergence in prompt is 0.00100, more than 0.0005"
    ]  # fmt: skip


def test_logits_and_speed_of_a_small_model_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["tiny"], "Q8_0")
    found = exact.divergences(path, 0)
    assert 0 < found.decode < 1e-3
    assert 0 < found.prompt < 1e-3
    assert gpu_bench.on_card("half", path) == 1
    assert gpu_bench.on_card("0", path) == 0
    assert gpu_bench.on_card("all", path) == "all"
    speed = gpu_bench.speed(path, "0", 1)
    assert speed.decode > 0
    assert speed.prompt > 0
    assert speed.weights > 1_000_000


# -- the arithmetic --


def test_bytes_go_to_the_launches_that_read_them() -> None:
    model = report.made(SHAPES["tiny"], "Q4_0", report.CARD, EngineOptions(n_ctx=64, n_threads=1))
    query, down = model.matrices["blk.0.attn_q.weight"], model.matrices["blk.1.ffn_down.weight"]
    spec = KernelSpec("two", (("first", "const void*"), ("second", "const float*"), ("n", "int")))

    def launch(first: int, second: int, blocks: int) -> Launch:
        return Launch(spec, spec.record({"first": first, "second": second, "n": 3}), (blocks, 2, 1), 256)

    works = [
        launch(query.address, query.address + query.nbytes - 1, 5),  # one matrix, at both ends
        launch(down.address + 128, 77, 9),  # another, in two pieces
        launch(down.address, 77, 9),
        launch(0, (1 << 40) - 1, 1),
        Product(1, 1, 1, 0, 1, 0, 1, 0, 1),
    ]
    (line,) = report.lines(model, works)
    assert (line.launches, line.blocks, line.weights) == (4, 18, query.nbytes + down.nbytes)


def test_sizes_are_those_of_the_file() -> None:
    model = report.made(SHAPES["7b"], "Q4_0", report.CARD, EngineOptions(n_ctx=1024, n_threads=1))
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32_000 * 4096
    assert sum(matrix.nbytes for matrix in model.matrices.values()) == pytest.approx(weights * 18 / 32, rel=1e-3)


@pytest.fixture
def compiler() -> None:
    try:
        nvrtc.compiler()
    except GGUFError as missing:
        pytest.skip(str(missing))


@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K_M"])
def test_the_arithmetic_of_a_model(compiler: None, capsys: pytest.CaptureFixture[str], type_name: str) -> None:
    assert gpu_bench.main(["--report", "--shapes", "1.1b", "--types", type_name]) == 0
    shown = capsys.readouterr().out
    assert f"{type_name}, a token behind 512 others: " in shown
    assert f"{type_name}, a prompt of 512 tokens: " in shown
    assert "tokens a second" in shown
