"""`ggufpy bench` around a fake engine: what is measured in which order, the figures, the picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llm_fakes import parts

from ggufpy import cli
from ggufpy.commands import _bench_plot
from ggufpy.generate import loading

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A fake model with an engine, on a machine of known limits; `.options` is what it was loaded with."""
    limits = SimpleNamespace(read_rate=lambda threads: 20e9, matrix_peak=lambda threads: 3e12)
    monkeypatch.setitem(sys.modules, "ggufpy.backends.cpu", SimpleNamespace(machine=limits))
    seen = SimpleNamespace(parts=parts(n_parallel=4), options=None)

    def load(model: str, options: Any) -> loading.Parts:
        options.check()
        seen.options = options
        return seen.parts

    monkeypatch.setattr(loading, "load_parts", load)
    return seen


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Status, stdout and stderr."""
    status = cli.main(["bench", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_json(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = bench(capsys, "-p", "8", "-n", "4", "-d", "3", "-r", "2", "--json")
    assert (status, err) == (0, "")
    got = json.loads(out)
    head = {"model": "fake.gguf", "type": "F32", "bytes": 1000, "threads": 1, "isa": "fake"}
    lists = ["pp_runs", "tg_runs", "parallel"]
    assert list(got) == [*head, "pp", "tg", "load_seconds", "import_seconds", *lists]
    assert {name: got[name] for name in head} == head
    assert list(got["pp"]) == ["tokens", "tps_median", "tps_min", "tps_max", "tflops", "peak_tflops"]
    assert list(got["tg"]) == ["tokens", "tps_median", "tps_min", "tps_max", "gb_per_s", "machine_gb_per_s"]
    assert (got["pp"]["tokens"], got["tg"]["tokens"]) == (8, 4)
    assert got["pp"]["tflops"] == pytest.approx(got["pp"]["tps_median"] * 2e6 / 1e12)
    assert got["tg"]["gb_per_s"] == pytest.approx(got["tg"]["tps_median"] * 1000 / 1e9)
    assert (got["pp"]["peak_tflops"], got["tg"]["machine_gb_per_s"]) == (3.0, 20.0)
    assert got["pp"]["tps_min"] <= got["pp"]["tps_median"] <= got["pp"]["tps_max"]
    assert got["pp_runs"] == [got["pp"]]
    assert got["tg_runs"] == [got["tg"] | {"depth": 3}]
    assert got["parallel"] == []
    assert fake.options.n_ctx == 8
    assert not fake.options.text
    log = fake.parts.engine.log
    # warm-up and two runs: the prompt at once, then the depth, then token by token
    assert [len(tokens) for tokens in log] == ([8, 3] + [1] * 4) * 3
    assert fake.parts.engine.closed


def test_a_half_is_left_out(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    got = json.loads(bench(capsys, "-p", "0", "-n", "2", "-r", "1", "--json")[1])
    assert got["pp"] == dict.fromkeys(got["pp"], None) | {"tokens": 0}
    assert got["pp_runs"] == []
    assert got["tg"]["tps_median"] > 0
    fake.parts = parts()
    out = bench(capsys, "-p", "4", "-n", "0", "-r", "1")[1]
    assert "prompt     4 tokens" in out
    assert "decode" not in out


def test_lists(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    got = json.loads(bench(capsys, "-p", "2,0,16", "-n", "5", "-d", "0,20", "-r", "1", "--json")[1])
    assert [run["tokens"] for run in got["pp_runs"]] == [2, 16]
    assert [(run["tokens"], run["depth"]) for run in got["tg_runs"]] == [(5, 0), (5, 20)]
    assert got["pp"] == got["pp_runs"][0]
    assert got["tg"] | {"depth": 0} == got["tg_runs"][0]
    assert fake.options.n_ctx == 25
    sizes = [len(tokens) for tokens in fake.parts.engine.log]
    assert sizes == [2, 16, *[1] * 4, 20, *[1] * 4, 2, 16, *[1] * 5, 20, *[1] * 5]
    fake.parts = parts()
    out = bench(capsys, "-p", "2,16", "-n", "5", "-d", "0,20", "-r", "1")[1]
    assert "prompt    16 tokens" in out
    assert "GB/s behind 20" in out


def test_sequences_decode_together(
    fake: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    words = ["-p", "0", "-n", "3", "-d", "10", "-np", "4,2", "-b", "8", "-r", "2", "-ctk", "q8_0", "--json"]
    monkeypatch.setattr("ggufpy.commands.bench.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    got = json.loads(bench(capsys, *words)[1])  # every measurement takes 1 second
    assert [(run["sequences"], run["tokens"]) for run in got["parallel"]] == [(1, 3), (2, 3), (4, 3)]
    assert [run["tps_median"] for run in got["parallel"]] == [3.0, 6.0, 12.0]
    assert [run["ratio"] for run in got["parallel"]] == [1.0, 2.0, 4.0]
    assert fake.options.n_parallel == 4
    assert fake.options.n_ctx == 13
    assert (fake.options.cache_type_k, fake.options.cache_type_v) == ("q8_0", "f16")
    steps = fake.parts.engine.steps
    made = list(dict.fromkeys(sequence for step in steps for sequence, _, _ in step))
    assert [sequence.most for sequence in made] == [13] * 4
    assert [sequence.held for sequence in made] == [[]] * 4
    shapes = [[(made.index(sequence), count, logits) for sequence, count, logits in step] for step in steps]
    turn = shapes[: len(shapes) // 3]
    assert shapes == turn * 3
    # one, two, four sequences: their depth in batches without logits, then a token each a step, with them
    wanted: list[list[tuple[int, int, str]]] = []
    for count in (1, 2, 4):
        wanted += [[(k, size, "none")] for k in range(count) for size in (8, 2)]
        wanted += [[(k, 1, "last") for k in range(count)]] * 3
    assert turn == wanted


def test_sequences_in_the_table(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    out = bench(capsys, "-p", "0", "-n", "2", "-np", "2", "-r", "1")[1]
    assert "1 sequence, alone" in out
    assert "2 sequences, " in out
    assert out.rstrip().endswith("times one")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["-p", "1,x"], "'x' is not a whole number"),
        (["-d", "0,-1"], "-1 is too small"),
        (["-np", "0"], "0 is too small, the least is 1"),
        (["-np", "2", "-n", "0"], "nothing to decode"),
        (["--plot", "a.txt"], "does not end in .png"),
        (["--plot", "no/such/folder/a.png"], "there is no folder"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str], match: str) -> None:
    status, out, err = bench(capsys, *words)
    assert (status, out) == (2, "")
    assert match in err
    assert err.count("\n") == 1


def test_a_plot_without_matplotlib_fails_before_loading(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = bench(capsys, "no such model", "--plot", str(tmp_path / "a.png"))
    assert (status, out) == (1, "")
    assert err == "ggufpy bench: --plot needs matplotlib: pip install 'ggufpy[plot]'\n"


@pytest.mark.parametrize("words", [["-p", "8,16", "-d", "0,4,32", "-np", "1,2"], ["-p", "4"], ["-p", "0", "-d", "7"]])
def test_plot(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "speed.png"
    status, _, err = bench(capsys, *words, "-n", "3", "-r", "2", "--plot", str(path))
    assert (status, err) == (0, "")
    assert path.read_bytes().startswith(PNG)


def test_plot_says_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rates = {"tps_median": 1234.0, "tps_min": 1200.0, "tps_max": 1300.0}
    decode = {**rates, "gb_per_s": 9.0, "machine_gb_per_s": 10.0}
    report = {
        "model": "/a/b/some.gguf",
        "type": "Q4_0",
        "isa": "avx2",
        "threads": 1,
        "pp_runs": [{**rates, "tokens": 512, "tflops": 1.0, "peak_tflops": 4.0}],
        "tg_runs": [{**decode, "depth": 0}, {**decode, "depth": 4096}],
        "parallel": [{**rates, "sequences": n, "ratio": 1.5} for n in (1, 2)],
    }
    assert _bench_plot.title(report) == "some.gguf  |  Q4_0  |  avx2, 1 thread"
    path = tmp_path / "speed.svg"
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        _bench_plot.draw(report, path)
    text = path.read_text("utf-8")
    for panel in _bench_plot.PANELS:
        for label in (panel.title, panel.meaning.replace("'", "&#39;"), panel.x_label, panel.y_label):
            assert label in text or label.replace("&#39;", "'") in text, label
    for label in ("1,234", "25%", "90%", "1.50 x", ">4,096<", ">512<", "some.gguf"):
        assert label in text, label
