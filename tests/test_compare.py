"""tools/compare.py with engines that are made up: turns, ratios, failures, the table. No network, nothing is timed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ggufpy import cli
from ggufpy.errors import GGUFError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import compare
import peers
from peers import worker
from synthetic import SHAPES, write_model


class FakePeer:
    """An engine of known speeds (tokens a second by task, one a turn, the last for good); it logs what it is asked."""

    def __init__(self, name: str, log: list[Any], opens: str = "", **speeds: list[float]) -> None:
        self.name, self.log, self.opens, self.speeds = name, log, opens, speeds
        self.about: dict[str, Any] = {"version": f"{name} 1.0", "decode": "without sampling"}
        self.closed = 0

    def prepare(self) -> None:
        self.log.append((self.name, "prepare"))

    def open(self, model: Path, settings: peers.Settings) -> FakePeer:
        if self.opens:
            raise peers.PeerError(self.opens)
        return self

    def seconds(self, task: str, tokens: int) -> float:
        self.log.append((self.name, task, tokens))
        rates = self.speeds[task]
        rate = rates[0] if len(rates) == 1 else rates.pop(0)
        if not rate:
            raise peers.PeerError("it broke")
        return tokens / rate

    def close(self) -> None:
        self.closed += 1


def quiet(what: str) -> None:
    """Progress that nobody reads."""


SETTINGS = peers.Settings(prompt=100, gen=10, turns=2, threads=1)


def test_engines_take_turns() -> None:
    log: list[Any] = []
    side = compare.Side(
        [FakePeer("ours", log, prompt=[1, 40, 60], decode=[1, 8, 8])],
        [FakePeer("theirs", log, prompt=[1, 10, 20], decode=[1, 4, 2])],
    )
    got = compare.compare(Path("m.gguf"), side, SETTINGS, quiet)
    one, two = ("theirs", "ours"), ("ours", "theirs")
    assert log == [
        *((name, "prompt", 100) for name in one),
        *((name, "decode", compare.WARM_TOKENS) for name in one),
        *((name, "prompt", 100) for name in two),
        *((name, "decode", 10) for name in two),
        *((name, "prompt", 100) for name in one),
        *((name, "decode", 10) for name in one),
    ]
    assert got["failed"] == {}
    prompt = got["engines"]["ours"]["prompt"]
    assert (prompt["tps_median"], prompt["tps_min"], prompt["tps_max"]) == pytest.approx((50, 40, 60))
    assert prompt["spread"] == pytest.approx(0.4)
    # the ratios of the turns are 4 and 3, 2 and 4: not the ratio of the medians
    assert got["ratios"] == {"ours": {"theirs": {"prompt": pytest.approx(3.5), "decode": pytest.approx(3.0)}}}
    assert [peer.closed for peer in (*side.ours, *side.peers)] == [1, 1]


def test_a_task_of_no_tokens_is_left_out() -> None:
    log: list[Any] = []
    side = compare.Side([FakePeer("ours", log, decode=[5])], [])
    got = compare.compare(Path("m.gguf"), side, peers.Settings(prompt=0, gen=4, turns=1), quiet)
    assert {entry[1] for entry in log} == {"decode"}
    assert list(got["engines"]["ours"]) == ["decode"]


def test_engines_that_fail_are_left_out_and_said() -> None:
    log: list[Any] = []
    side = compare.Side(
        [FakePeer("ours", log, prompt=[10], decode=[10])],
        [
            FakePeer("shut", log, opens="no such type"),
            FakePeer("weak", log, prompt=[10, 10, 0], decode=[10]),
            FakePeer("well", log, prompt=[5], decode=[5]),
        ],
    )
    got = compare.compare(Path("m.gguf"), side, SETTINGS, quiet)
    assert got["failed"] == {"shut": "no such type", "weak": "it broke"}
    assert list(got["engines"]) == list(got["about"]) == ["well", "ours"]
    assert list(got["ratios"]["ours"]) == ["well"]
    assert [peer.closed for peer in side.peers] == [0, 1, 1]  # type: ignore[attr-defined]
    model = {"model": "m", "gigabytes": 0.5, **got}
    assert compare.warnings([model]) == [
        "m, shut: left out: no such type",
        "m, weak: left out: it broke",
    ]
    table = list(compare.rows(model, side))
    assert table[0] == ["m (0.50 GB)", "shut", "-", "-", "", "", "", "-", "-", "", "", ""]
    assert table[3] == ["", "ours", "10.0", "0%", "", "", "2.00 x", "10.0", "0%", "", "", "2.00 x"]
    assert len(compare.columns(side)) == len(table[0])


def test_a_wide_spread_is_a_warning() -> None:
    steady = {"tps_median": 10.0, "tps_min": 9.5, "tps_max": 10.5, "spread": 0.1}
    model = {"model": "m", "failed": {}, "engines": {"a": {"prompt": steady, "decode": steady | {"spread": 0.25}}}}
    (line,) = compare.warnings([model])
    assert line.startswith("m, a, decode: turns differ by 25%")


def test_what_makes_a_run_doubtful() -> None:
    about = {"load": 0.1, "cores": 2}
    assert compare.doubts(about, peers.Settings(turns=3)) == []
    assert compare.doubts(about | {"load": None}, peers.Settings(turns=3)) == []
    few, busy = compare.doubts(about | {"load": 0.9}, peers.Settings(turns=2))
    assert few.startswith("2 turns say little")
    assert "a load of 0.9 on 2 cores" in busy


def test_levels() -> None:
    assert compare.levels(compare.DEFAULT_ISA, ["avx512", "avx2", "portable"]) == ["avx512", "avx2"]
    assert compare.levels(compare.DEFAULT_ISA, ["avx2", "portable"]) == ["avx2"]
    assert compare.levels(compare.DEFAULT_ISA, ["neon", "portable"]) == ["neon"]
    assert compare.levels("portable,best", ["neon", "portable"]) == ["portable", "neon"]
    with pytest.raises(GGUFError, match="--isa avx2: this machine has neon, portable"):
        compare.levels("avx2", ["neon", "portable"])


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = compare.find_model("tiny:Q8_0", tmp_path / "cache")
    assert made == tmp_path / "cache" / "tiny-Q8_0.gguf"
    assert made.read_bytes()[:4] == b"GGUF"
    assert "writing" in capsys.readouterr().err
    monkeypatch.setattr(compare, "write_model", None)  # not again
    assert compare.find_model("tiny:Q8_0", tmp_path / "cache") == made
    assert compare.find_model(str(made), tmp_path) == made
    with pytest.raises(GGUFError, match="no such file: tiny"):
        compare.find_model("tiny", tmp_path)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A fake engine of ours and a fake peer in place of the real ones, and a file to name."""
    log: list[Any] = []
    ours = FakePeer("ggufpy avx9", log, prompt=[300], decode=[30])
    theirs = FakePeer("llama.cpp", log, prompt=[100], decode=[20, 20, 20, 30])
    theirs.about["features"] = ["AVX2", "FMA"]
    monkeypatch.setattr(compare, "sides", lambda args: compare.Side([ours], [theirs]))
    if sys.platform != "win32":
        monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    model = tmp_path / "some.gguf"
    model.write_bytes(bytes(1000))
    return SimpleNamespace(log=log, ours=ours, theirs=theirs, model=str(model))


def test_table(two: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([two.model, "-p", "64", "-n", "8", "-d", "2048", "-r", "3", "-t", "2"]) == 0
    out, err = capsys.readouterr()
    assert two.log[:2] == [("llama.cpp", "prepare"), ("ggufpy avx9", "prepare")]
    assert "2 threads; prompt of 64, 8 decoded behind 2,048; medians of 3 turns" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["some", "(0.00", "GB)", "llama.cpp", "100.0", "0%", "20.0", "50%"] in lines
    assert ["ggufpy", "avx9", "300.0", "0%", "3.00", "x", "30.0", "0%", "1.50", "x"] in lines
    assert "llama.cpp: llama.cpp 1.0, compiled for AVX2 FMA; decodes without sampling" in out
    assert "warning: some, llama.cpp, decode: turns differ by 50%" in err


def test_json(two: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    two.theirs.opens = "cannot"
    assert compare.main([two.model, "-r", "3", "--json"]) == 1  # an engine was left out
    got = json.loads(capsys.readouterr().out)
    assert list(got) == ["machine", "settings", "models", "warnings"]
    assert set(got["machine"]) == {"cpu", "cores", "threads", "load", "levels", "system", "versions"}
    assert got["settings"]["turns"] == 3
    (model,) = got["models"]
    assert model["failed"] == {"llama.cpp": "cannot"}
    assert model["ratios"] == {"ggufpy avx9": {}}
    assert got["warnings"] == ["some, llama.cpp: left out: cannot"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["--isa", "mmx"], "--isa mmx: this machine has "),
        (["--llama-bench", "no/such/program"], "is no program that can be run"),
        (["--llama-bench", sys.executable, "no.gguf"], "no such file: no.gguf"),
    ],
)
def test_mistakes_are_one_line(words: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert match in err
    assert err.count("\n") == 1


# -- the peers --


def program(path: Path, body: str) -> Path:
    """A Python script that can be run as a program."""
    path.write_text(f"#!{sys.executable}\n{body}", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.skipif(os.name == "nt", reason="scripts are no programs there")
def test_llama_bench(tmp_path: Path) -> None:
    """Its rows are those of llama.cpp's tools/llama-bench/README.md."""
    body = """import json, sys
open(sys.argv[0] + ".log", "a").write(" ".join(sys.argv[1:]) + "\\n")
rate = 50.0 if "64" in sys.argv else 5.0
print(json.dumps([{"build_commit": "abc", "backends": "CPU", "n_prompt": 64, "avg_ts": rate}]))"""
    peer = peers.LlamaBench(program(tmp_path / "llama-bench", body))
    peer.prepare()
    runner = peer.open(Path("m.gguf"), peers.Settings(depth=7, threads=3))
    assert runner.seconds("prompt", 64) == pytest.approx(64 / 50)
    assert runner.seconds("decode", 8) == pytest.approx(8 / 5)
    assert runner.about["build_commit"] == "abc"
    common = "-m m.gguf -t 3 -ngl 0 -r 1 -o json"
    asked = (tmp_path / "llama-bench.log").read_text("utf-8").splitlines()
    assert asked == [f"{common} -p 64 -n 0", f"{common} -p 0 -n 8 -d 7"]


@pytest.mark.skipif(os.name == "nt", reason="scripts are no programs there")
@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("import sys; sys.exit('one\\nunknown type\\n')", "it ended with status 1: unknown type"),
        ("print('no json')", "its JSON is not as expected"),
        ("print('[]')", "its JSON is not as expected"),
        ("print('[{}]')", "its JSON is not as expected: 'avg_ts'"),
        ("print('[{\"avg_ts\": 0}]')", "it reports 0.0 tokens a second"),
    ],
)
def test_llama_bench_that_fails(tmp_path: Path, body: str, match: str) -> None:
    runner = peers.LlamaBench(program(tmp_path / "llama-bench", body)).open(Path("m"), SETTINGS)
    with pytest.raises(peers.PeerError, match=match):
        runner.seconds("prompt", 8)


FAKE_XLLAMACPP = """
import json
__version__ = "9.9"

def get_system_info():
    return "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | "

class CommonParams:
    def __init__(self):
        from types import SimpleNamespace
        self.model, self.cpuparams, self.cpuparams_batch = (SimpleNamespace() for _ in range(3))

class Server:
    def __init__(self, params):
        print("noise on stdout")
        self.params = params

    def handle_completions(self, request):
        if request["n_predict"] == 13:
            return {"error": "unlucky"}
        prompt_ms = 1000.0 * len(request["prompt"]) * self.params.cpuparams_batch.n_threads
        return {"timings": {"prompt_ms": prompt_ms, "predicted_ms": 500.0 * request["n_predict"]}}
"""


def open_worker(tmp_path: Path, engine: str, settings: peers.Settings = SETTINGS) -> peers.Worker:
    """A worker whose `xllamacpp` is the one in `tmp_path`."""
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return peers.Worker([sys.executable], engine, Path("m.gguf"), settings, env)


def test_a_worker_answers_until_it_is_closed(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text(FAKE_XLLAMACPP, "utf-8")
    runner = open_worker(tmp_path, "llama-completions", peers.Settings(depth=3, threads=2))
    assert runner.about["version"] == "xllamacpp 9.9"
    assert runner.about["features"] == ["SSE3", "AVX2"]
    assert "sampling" in runner.about["decode"]
    assert runner.seconds("prompt", 5) == 10.0
    assert runner.seconds("decode", 4) == 2.0
    with pytest.raises(peers.PeerError, match="unlucky"):
        runner.seconds("decode", 13)
    with pytest.raises(peers.PeerError, match="it ended with status 1"):
        runner.seconds("decode", 4)
    runner.close()


def test_a_worker_that_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('built for another machine')", "utf-8")
    with pytest.raises(peers.PeerError, match="built for another machine"):
        open_worker(tmp_path, "llama")
    (tmp_path / "xllamacpp.py").write_text("import os, sys; print('bang', file=sys.stderr, flush=True); os._exit(7)")
    with pytest.raises(peers.PeerError, match="it ended with status 7: bang"):
        open_worker(tmp_path, "llama")


def test_the_peers_environment_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Any] = []
    status = 1

    def run(command: list[str], **options: Any) -> Any:
        made.append(command[1:])
        return SimpleNamespace(returncode=status, stderr=b"warning\nERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(peers.venv, "create", lambda home, with_pip: home.mkdir(parents=True))
    peer = peers.Xllamacpp(tmp_path, "some==1.2")
    with pytest.raises(peers.PeerError, match=r"pip cannot install some==1\.2: ERROR: no matching distribution"):
        peer.prepare()
    status = 0
    peer.prepare()  # anew: the first is half made
    peer.prepare()
    assert len(made) == 2
    assert made[0][-1] == "some==1.2"
    assert (tmp_path / "some-1.2" / "installed").is_file()
    assert capsys.readouterr().err.count("installing") == 2


# -- the worker's engines --


class FakeLlama:
    """As much of llama.cpp's C functions as the worker calls; logs (tokens of a batch) and contexts emptied."""

    def __init__(self, numbers: tuple[int, ...] = (512, 2048, 512, 1)) -> None:
        self.numbers, self.log, self.params = numbers, [], None  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        values: Mapping[str, Any] = {
            "llama_vocab_n_tokens": 400,
            "llama_print_system_info": b"CPU : AVX2 = 1 | NEON = 0 | ",
            "llama_decode": 0,
        }

        class Function:
            """What ctypes hands out: a call whose types can be set."""

            restype: Any = None
            argtypes: Any = None

            def __call__(_, *args: Any) -> Any:
                if name == "llama_context_default_params":
                    return worker._Params((worker.ctypes.c_int32 * 4)(*self.numbers))
                if name == "llama_batch_get_one":
                    self.log.append(list((worker.ctypes.c_int32 * args[1]).from_address(args[0])))
                if name == "llama_memory_clear":
                    self.log.append("clear")
                if name == "llama_init_from_model":
                    self.params = list(args[1].numbers)
                return values.get(name, 1)

        return Function()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLlama:
    fake = FakeLlama()
    module = SimpleNamespace(__version__="1", __file__="x.so")
    monkeypatch.setattr(worker.importlib, "import_module", lambda name: module)
    monkeypatch.setattr(worker.ctypes, "CDLL", lambda path: fake)
    return fake


def test_the_c_functions_are_called_as_llama_bench_does(library: FakeLlama) -> None:
    engine = worker.llama({"model": "m.gguf", "n_ctx": 3000, "threads": 2})
    assert engine.about == {"version": "xllamacpp 1", "features": ["AVX2"], "decode": "without sampling"}
    assert library.params == [3000, 2048, 512, 1]
    engine.prompt(2050)
    tokens = worker.some_tokens(2050, 400)
    assert library.log == ["clear", tokens[:2048], tokens[2048:]]
    library.log.clear()
    engine.decode(2, 5)
    assert library.log == ["clear", tokens[:5], tokens[:1], tokens[1:2]]
    assert all(200 <= token < 400 for token in tokens)


def test_another_layout_is_not_guessed_at(library: FakeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    library.numbers = (0, 512, 2048, 512)
    with pytest.raises(RuntimeError, match="do not begin as expected"):
        worker.LlamaApi({"model": "m.gguf", "n_ctx": 30, "threads": 2})
    monkeypatch.setattr(worker, "LlamaCompletions", lambda setup: "completions")
    assert worker.llama({"model": "m.gguf", "n_ctx": 30, "threads": 2}) == "completions"


def test_ours_is_measured_as_bench_does(tmp_path: Path) -> None:
    """The worker's own process around ggufpy's engine, on a tiny model, from request to answer."""
    model = compare.find_model("tiny:Q8_0", tmp_path)
    runner = peers.Ggufpy("portable").open(model, peers.Settings(prompt=8, gen=2, depth=4, threads=1))
    assert runner.about["isa"] == "portable"
    assert runner.about["type"] == "Q8_0"
    assert runner.seconds("prompt", 8) > 0
    assert runner.seconds("decode", 2) > 0
    runner.close()


def test_a_request_names_its_task() -> None:
    engine = SimpleNamespace(prompt=lambda tokens: tokens * 1.0, decode=lambda tokens, depth: tokens + depth)
    assert worker.answer(engine, {"task": "prompt", "tokens": 3, "depth": 9}) == {"seconds": 3.0}
    assert worker.answer(engine, {"task": "decode", "tokens": 3, "depth": 9}) == {"seconds": 12}


def quantizer(folder: Path, copies: str) -> Path:
    """A program called as llama-quantize is, which copies `copies` wherever it is told to write."""
    program = folder / "fake-quantize"
    body = f"import shutil, sys\nassert sys.argv[4] == '2', sys.argv\nshutil.copyfile({copies!r}, sys.argv[2])\n"
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a script with a first line")
def test_quantising_beside_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, made = tmp_path / "m.gguf", tmp_path / "made.gguf"
    write_model(model, SHAPES["tiny"], "F16")
    assert cli.main(["quantize", str(model), str(made), "Q8_0", "-t", "2"]) == 0
    words = [str(model), "--llama-quantize", str(quantizer(tmp_path, str(made))), "-t", "2", "-r", "1"]
    assert compare.main([*words, "--types", "Q8_0", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["models"][0]["types"]
    assert (row["type"], row["equal_blocks"], row["other_types"]) == ("Q8_0", 1.0, [])
    assert row["ratio"] == pytest.approx(row["their_seconds"] / row["seconds"])
    assert compare.main([*words, "--types", "Q4_0"]) == 1  # the program's file has Q8_0
    out, err = capsys.readouterr()
    assert "Q4_0" in out
    assert "other types (ours, theirs): token_embd.weight: Q4_0, Q8_0" in err
    assert [path for path in tmp_path.iterdir() if path.name.startswith("compare-")] == []


def test_a_quantising_program_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.gguf"
    write_model(model, SHAPES["tiny"], "F16")
    words = [str(model), "--llama-quantize", str(tmp_path / "none"), "--types", "Q8_0", "-r", "1", "-t", "2"]
    assert compare.main(words) == 1
    assert "none: give --llama-quantize its path" in capsys.readouterr().err
    (tmp_path / "none").write_bytes(b"no program")
    (tmp_path / "none").chmod(0o600)
    assert compare.main(words) == 1
    assert "none cannot be run: Permission denied" in capsys.readouterr().err
