"""`ggufpy compare-quants`: a tiny model in several types, the figures, the table, the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import load
from measuring import TEXT, log_softmax, write_model

from ggufpy import cli
from ggufpy import format as gguf
from ggufpy.commands import _types_plot
from ggufpy.commands.compare_quants import names, table
from ggufpy.runtime import EngineOptions

PNG = b"\x89PNG\r\n\x1a\n"
N_CTX = 24


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text").write_bytes(TEXT)
    return tmp_path


def command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    status = cli.main(["compare-quants", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


SHARED = ("-f", "text", "-c", str(N_CTX), "-t", "2", "-n", "3", "-r", "2")


def test_command(path: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    (here / "kept").mkdir()
    words = [*SHARED, "--chunks", "3", "--keep", "kept", "--plot", "a.png", "--types", "q8_0,Q4_0,Q8_0", "--json"]
    status, out, err = command(capsys, path, *words)
    assert status == 0, err
    report = json.loads(out.splitlines()[-1])
    assert [one["type"] for one in report["types"]] == ["Q8_0", "Q4_0"]
    assert (report["chunks"], report["tokens"], report["n_ctx"], report["threads"]) == (3, 33, N_CTX, 2)
    assert report["cpu"]
    source, (q8, q4) = report["source"], report["types"]
    assert (source["type"], source["kld_mean"], source["bytes"]) == ("F32", 0.0, path.stat().st_size)
    assert 0 < q8["kld_mean"] < q4["kld_mean"]
    assert source["bytes"] > q8["bytes"] > q4["bytes"]
    assert {p.name for p in Path("kept").iterdir()} == {"m-Q8_0.gguf", "m-Q4_0.gguf"}
    assert q4["bytes"] == Path("kept/m-Q4_0.gguf").stat().st_size
    for one in (source, q8, q4):
        assert 0 < one["tg_tps_min"] <= one["tg_tps_median"] <= one["tg_tps_max"]
    assert Path("a.png").read_bytes().startswith(PNG)
    assert q4["kld_mean"] == pytest.approx(divergence(path, Path("kept/m-Q4_0.gguf")), rel=1e-3)


def divergence(source: Path, other: Path) -> float:
    """Mean KL divergence on the first three chunks, in float64."""
    found = []
    for name in (source, other):
        with gguf.open(name) as file, load(file, EngineOptions(n_threads=2, n_ctx=N_CTX)) as session:
            rows = []
            for i in range(3):
                ids = [1, *(3 + byte for byte in TEXT[N_CTX * i : N_CTX * (i + 1) - 1])]
                session.truncate(0)
                rows.append(log_softmax(session.eval_logits(ids)[N_CTX // 2 : N_CTX - 1]))
            found.append(np.concatenate(rows))
    p, q = found
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def test_nothing_stays_without_keep(
    path: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = here / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    status, out, err = command(capsys, path, *SHARED, "--chunks", "2", "--types", "Q4_0")
    assert status == 0, err
    assert re.search(r"^Q4_0 .* t/s$", out, re.MULTILINE)
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "status", "match"),
    [
        (["--types", "Q4_0,"], 2, "is not a list such as Q4_0,Q4_K_M"),
        (["--types", "Q9_Z"], 1, "Q9_Z"),
        (["--types", "Q4_0", "--keep", "nowhere"], 1, "there is no folder 'nowhere'"),
        (["--types", "Q4_0", "--imatrix", "nothing"], 1, "nothing"),
        (["--types", "Q4_0", "--plot", "a.txt"], 2, "does not end in .png"),
        (["--types", "Q4_0", "--plot", "no/a.png"], 2, "there is no folder"),
        (["--types", "Q4_0", "-f", "-"], 2, "give -f TEXT"),
        (["--types", "Q4_0", "-c", "60", "-f", "short"], 1, "want at least 120"),
        (["--types", "Q4_0", "-n", "61"], 1, "61 tokens are to be decoded, and the model has room for 60 (-n)"),
        (["--types", "Q4_0", "-f", "nothing"], 1, "nothing: No such file"),
    ],
)
def test_errors(
    path: Path, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, match: str
) -> None:
    Path("short").write_bytes(TEXT[:80])
    found, out, err = command(capsys, path, *SHARED, *words)
    assert (found, out) == (status, "")
    assert match in err
    assert len(err.strip().splitlines()) == 1


def test_a_quantised_source_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_model(here / "q.gguf", "Q4_0")
    status, _, err = command(capsys, path, *SHARED, "--types", "Q8_0")
    assert status == 1
    assert "--allow-requantize" in err
    status, _, err = command(capsys, path, *SHARED, "--types", "Q8_0", "--chunks", "2", "--allow-requantize")
    assert status == 0, err


# -- the picture -------------------------------------------------------------------------------------------


def report(count: int, seed: int, zero: bool = False) -> dict[str, Any]:
    """Types that lie close together, as real ones do."""
    rng = np.random.default_rng(seed)
    sizes = np.sort(rng.normal(600, 90, count))[::-1] * 1e6
    klds = 0.0 * sizes if zero else 10 ** rng.normal(-1.5, 0.4, count)
    speeds = rng.normal(20, 2, count)

    def one(name: str, size: float, kld: float, speed: float) -> dict[str, Any]:
        rates = {"tg_tps_median": speed, "tg_tps_min": 0.9 * speed, "tg_tps_max": 1.05 * speed}
        fields = {"bits_per_weight": 4.5, "kld_median": kld, "kld_p99": kld, "same_top": 0.9, "ppl": 12.0}
        return {"type": name, "bytes": int(size), "kld_mean": float(kld), **rates, **fields}

    types = [one(f"Q{i}_K_M", *values) for i, values in enumerate(zip(sizes, klds, speeds, strict=True))]
    where = {"model": "/a/some-f16.gguf", "threads": 2, "isa": "avx512", "cpu": "A CPU", "text": "wiki.txt"}
    return {**where, "tokens": 1020, "imatrix": None, "source": one("F16", 2.2e9, 0.0, 8.0), "types": types}


@pytest.mark.parametrize("count", [1, 6, 14])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_cover_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, seed: int) -> None:
    pytest.importorskip("matplotlib")
    seen: list[Any] = []
    place = _types_plot.place_labels

    def spy(axes: Any, spots: Any) -> Any:
        found = place(axes, spots)
        seen.append((axes, spots, found))
        return found

    monkeypatch.setattr(_types_plot, "place_labels", spy)
    _types_plot.draw(report(count, seed), tmp_path / "a.png")
    axes, spots, boxes = seen[0]
    written = [text.get_window_extent() for text in axes.texts]
    assert len(written) == count
    area = axes.get_window_extent()
    for i, (box, real) in enumerate(zip(boxes, written, strict=True)):
        np.testing.assert_allclose(real.get_points(), box.get_points(), atol=1.5)  # it is where it was planned
        assert area.x0 <= box.x0
        assert box.x1 <= area.x1
        assert not any(box.overlaps(other) for k, other in enumerate(boxes) if k != i)
        for x, y in axes.transData.transform([(s.x, s.y) for s in spots]):
            assert not box.contains(x, y)


@pytest.mark.parametrize("zero", [False, True])
def test_the_picture_says_what_was_measured(tmp_path: Path, zero: bool) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        _types_plot.draw(report(3, 0, zero), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text("utf-8")
    for label in ("some-f16.gguf", "A CPU, 2 threads, avx512", "1,020 tokens of wiki.txt", "file size (GB)",
                  "mean KL divergence from F16 (nats)", "tokens / s", "Q0_K_M", "F16  2.20 GB"):  # fmt: skip
        assert label in text, label
    weighed = {**report(1, 0), "imatrix": "a", "threads": 1}
    assert _types_plot.title(weighed) == (
        "some-f16.gguf: types to choose from with an importance matrix",
        "1,020 tokens of wiki.txt   |   A CPU, 1 thread, avx512",
    )


def test_table_and_names() -> None:
    lines = table(report(2, 0)).splitlines()
    assert [line.split()[0] for line in lines] == ["some-f16.gguf", "type", "F16", "Q0_K_M", "Q1_K_M"]
    assert len({len(line) for line in lines[2:]}) == 1
    assert names("a, b,a") == ["a", "b"]
    same = report(1, 0)
    same["types"][0] |= {"kld_mean": -1e-7, "kld_median": -2e-8}  # what rounding leaves of nothing
    assert "-0.0" not in table(same)
