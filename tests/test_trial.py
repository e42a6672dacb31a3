"""The known-answer check: right kernels pass it with room to spare, broken ones are found and their level left out."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from engine import compile_ahead, load, synthetic, write_model

from ggufpy import cli, quants
from ggufpy import format as gguf
from ggufpy.backends.cpu.model import load_kernels, read_plan
from ggufpy.errors import GGUFError
from ggufpy.jit import cache, verdicts
from ggufpy.jit.cache import Library, library
from ggufpy.jit.compile import target_machine
from ggufpy.jit.spec import Kernel, code_level, kernel
from ggufpy.models.op import Weight
from ggufpy.models.ops import Add, Attend, Heads, MatMul, Norm, StoreKv
from ggufpy.quants import trial as codecs
from ggufpy.runtime import EngineOptions, trial
from ggufpy.runtime.trial import LARGEST_ERROR, LARGEST_OF_4_BITS, Trial, common, error_of, fault_here, fault_of
from ggufpy.simd import isa
from ggufpy.simd.isa import Level

LEVELS = (*isa.available(), isa.EMULATED)
PLAIN = common("portable", ["Q4_0"], Heads(4, 2, 64, 64))


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_every_level_is_far_from_the_limit(level: Any) -> None:
    assert error_of(replace(PLAIN, level=level.name)) < LARGEST_ERROR / 5


@pytest.mark.parametrize("kinds", [("bf16", "bf16"), ("q8_0", "q8_0"), ("q4_0", "q4_0")], ids=lambda kinds: kinds[0])
def test_coarse_caches_are_within_it(kinds: tuple[str, str]) -> None:
    assert error_of(replace(PLAIN, level=isa.available()[0].name, cache_types=kinds)) < LARGEST_ERROR / 2


def test_coarse_caches_are_no_fault_where_norms_come_after_attention() -> None:
    """Gemma 3's layers: a cache of 4 bits was taken for broken kernels, and every level was left out for good."""
    plan = PLAIN.plan
    layer = list(plan.layers[0])
    at = next(i for i, op in enumerate(layer) if isinstance(op, MatMul) and op.x == "attn")
    behind = Norm("attn_out", Weight("behind.weight", (trial.WIDTH,)), "attn_out", 1e-6)
    layer[at : at + 1] = [replace(layer[at], y="attn_out", add=False), behind, Add("attn_out", "x", trial.WIDTH)]
    layers = [[replace(op, layer=i) if isinstance(op, StoreKv | Attend) else op for op in layer] for i in range(4)]
    tried = replace(PLAIN, level=isa.available()[0].name, plan=replace(plan, layers=tuple(map(tuple, layers))))
    for kinds in (("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0")):
        limit = LARGEST_OF_4_BITS if "q4_0" in kinds else LARGEST_ERROR
        assert error_of(replace(tried, cache_types=kinds)) < limit / 2, kinds
        assert not fault_here(replace(tried, cache_types=kinds))


def test_rounding_is_that_of_the_block_types() -> None:
    x = np.random.default_rng(2).standard_normal((5, 2, 64))
    x[0, 0, :32] = 0.0
    for kind, kept in (("q8_0", "Q8_0"), ("q4_0", "Q4_0")):
        blocks = quants.quantize(x.astype(np.float32), kept)
        ours = trial._in_blocks(x.astype(np.float32).astype(np.float64), kind)
        np.testing.assert_allclose(ours, quants.dequantize(blocks, kept), atol=1e-6)


def test_every_type_gives_weights_of_a_sensible_size() -> None:
    for name in quants.names():
        if not name.startswith("I") or name.startswith("IQ"):
            blocks = trial._matrix(name, 16, 256, np.random.default_rng(1))
            values = quants.dequantize(blocks.data, name)
            assert np.isfinite(values).all(), name
            assert 0.001 < values.std() < 6 * trial.SPREAD, name


def test_a_trial_runs_every_kernel_of_a_model(tmp_path: Path) -> None:
    shapes = synthetic()
    shapes.write_model(tmp_path / "m", shapes.Shape(6, 256, 512, 4, 2, 320, 400), "Q4_K_M")
    with gguf.open(tmp_path / "m") as file:
        plan, options, kernels = read_plan(file), EngineOptions(cache_type_v="q8_0"), library(isa.available()[0])
        wanted = load_kernels(file, plan, options, kernels)
        tried = Trial(kernels.level.name, *trial.small(plan, {n: t.type for n, t in file.tensors.items()}))
        assert 1 < len(tried.plan.layers) < 6  # some are of other types
        found = set(load_kernels(trial.source_of(tried), tried.plan, options, kernels))
        assert found == {code for code in wanted if code.source != "decode"}  # tried by itself, when it is first used


def test_the_same_trial_is_the_same_every_time() -> None:
    assert error_of(PLAIN) == error_of(PLAIN)


NORM = kernel("norm")


def sharing(of: Kernel) -> list[Level]:
    """Levels that run a kernel in the code of the best one: `amx` shares it with `avx512`."""
    best = code_level(of, isa.available()[0])
    return [level for level in isa.available() if code_level(of, level) == best]


@pytest.fixture
def ready(tmp_path: Path) -> None:
    """Every level that others are left out for has its kernels compiled, so that a fresh cache has them too."""
    second = isa.available()[len(sharing(NORM))]
    with gguf.open(write_model(tmp_path / "ready")) as file, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUFPY_ISA", second.name)
        load(file, EngineOptions(n_threads=1)).close()


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache in which no verdict is known yet; compiled kernels are those that there are already."""
    kernels, made = cache.folder(), tmp_path / "cache" / "kernels"
    made.mkdir(parents=True)
    for path in kernels.glob("*.o"):
        os.link(path, made / path.name)
    monkeypatch.setenv("GGUFPY_CACHE", str(made.parent))
    monkeypatch.delenv("GGUFPY_ISA", raising=False)
    monkeypatch.setattr("ggufpy.runtime.choice.library", functools.cache(Library))  # nothing is loaded yet


BROKEN = {"wrong": ("ret void", "off by"), "dies": ("call void @llvm.trap()\n  unreachable", "ended with SIG")}


def put_broken(how: str, level: Level, of: Kernel = NORM) -> None:
    """Code that does nothing, or kills, in place of a compiled kernel."""
    machine = target_machine(level)
    text = f'target triple = "{machine.triple}"\ndeclare void @llvm.trap()\n'
    text += f"define void @{of.symbol}(i64 %a, i64 %b, i64 %c) {{\n  {BROKEN[how][0]}\n}}"
    path = cache.cache_path(of, level)
    path.unlink(missing_ok=True)  # it may be a link to the real one
    cache._write(path, bytes(machine.emit_object(llvm.parse_assembly(text))))


@pytest.mark.skipif(len(isa.available()) < 2, reason="there is no level to fall back to")
@pytest.mark.parametrize("how", list(BROKEN))
def test_a_level_with_a_broken_kernel_is_left_out(
    how: str,
    ready: None,
    fresh: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    best = isa.available()[0]
    wrong = sharing(NORM)
    second = isa.available()[len(wrong)]
    put_broken(how, best)
    with gguf.open(write_model(tmp_path / "m")) as file:
        with load(file, EngineOptions(n_threads=1)) as session:
            assert session.engine.isa == second.name
            assert np.isfinite(session.eval_logits([1, 2, 3])).all()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == len(wrong)
        for line, level in zip(lines, wrong, strict=True):
            assert line.startswith(f"ggufpy: the {level.name} kernels are wrong on this machine (")
            assert BROKEN[how][1] in line
            assert "report" in line
        with load(file, EngineOptions(n_threads=1)) as session:  # known now
            assert session.engine.isa == second.name
        assert capsys.readouterr().err == ""
        monkeypatch.setenv("GGUFPY_ISA", best.name)
        with pytest.raises(GGUFError, match=f"level {best.name} .*ISA.* wrong on this machine .* one of .*portable"):
            load(file, EngineOptions(n_threads=1))
    monkeypatch.delenv("GGUFPY_ISA")
    assert cli.main(["doctor", "--quick", "--json"]) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    verdict = {level["name"]: level["verdict"] for level in report["levels"]}
    assert verdict[best.name].startswith("wrong: ")
    assert [level["name"] for level in report["levels"] if level["current"]] == [second.name]


def test_a_forced_level_that_turns_out_broken_is_an_error(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = isa.available()[0]
    put_broken("wrong", best)
    monkeypatch.setenv("GGUFPY_ISA", best.name)
    with gguf.open(write_model(tmp_path / "m")) as file, pytest.raises(GGUFError, match="wrong on this machine"):
        load(file, EngineOptions(n_threads=1))


def test_right_kernels_are_tried_once(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Trial] = []

    def counted(of: Trial) -> str:
        tried.append(of)
        return fault_of(of)

    monkeypatch.setattr("ggufpy.runtime.trial.fault_of", counted)
    with gguf.open(write_model(tmp_path / "m")) as file:
        for _ in range(2):
            with load(file, EngineOptions(n_threads=1)) as session:
                assert session.engine.isa == isa.available()[0].name
    assert len(tried) == 1
    assert set(tried[0].types.values()) == {"F32"}


# -- encoders and decoders --

CODECS = [
    kernel("encode_lanes", type="q8_0", weighted=0),
    kernel("encode_lanes", type="q2_k", weighted=1),
    kernel("decode", type="q4_k"),
    kernel("decode", type="f16"),
]


@pytest.fixture(scope="module")
def _codecs() -> None:
    compile_ahead([(code, level) for code in CODECS for level in LEVELS])


@pytest.mark.usefixtures("_codecs")
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_codecs_pass_at_every_level(level: Level) -> None:
    listed = [{"source": code.source, **code.parameters} for code in CODECS]
    assert codecs.fault_here({"level": level.name, "codecs": listed}) == ""


@pytest.mark.usefixtures("_codecs")
@pytest.mark.skipif(len(isa.available()) < 2, reason="there is no level to fall back to")
@pytest.mark.parametrize("how", list(BROKEN))
@pytest.mark.parametrize("of", [CODECS[0], CODECS[2]], ids=lambda of: of.source)
def test_a_level_with_a_broken_codec_is_left_out(
    of: Kernel, how: str, fresh: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best, wrong = isa.available()[0], sharing(of)
    monkeypatch.setattr("ggufpy.quants.trial.library", functools.cache(Library))  # nothing is loaded yet
    put_broken(how, best, of)
    name, x = str(of.parameters["type"]), np.random.default_rng(9).standard_normal((260, 512)).astype(np.float32)
    exact = quants.quantize(x, name)
    lines = capsys.readouterr().err.splitlines()
    values = quants.dequantize(exact, name)  # more than NumPy decodes
    assert np.sqrt(((values - x) ** 2).mean()) < 0.1
    lines += capsys.readouterr().err.splitlines()
    assert len(lines) == len(wrong)
    for line, level in zip(lines, wrong, strict=True):
        assert line.startswith(f"ggufpy: the {level.name} kernels are wrong on this machine (")
        if how == "dies":
            assert BROKEN[how][1] in line
    assert [verdicts.fault(level) == "" for level in isa.available()] == [
        level not in wrong for level in isa.available()
    ]
    monkeypatch.setenv("GGUFPY_ISA", best.name)
    with pytest.raises(GGUFError, match=f"level {best.name} .*wrong on this machine"):
        quants.dequantize(exact, name) if of.source == "decode" else quants.quantize(x, name)


def test_codecs_are_tried_once(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(codecs, "fault_in_child", lambda module, trial: tried.append(trial) or "")
    for _ in range(2):
        assert codecs.tried(CODECS[:2]) is isa.available()[0]
    assert codecs.tried(CODECS[:3]) is isa.available()[0]
    assert [[one["type"] for one in trial["codecs"]] for trial in tried] == [["q8_0", "q2_k"], ["q4_k"]]


def test_a_trial_that_cannot_be_made_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GGUFError, match=r"could not be tried: .*no SIMD level nothing"):
        fault_of(replace(PLAIN, level="nothing"))


def test_new_kernels_are_tried_again(fresh: None, tmp_path: Path) -> None:
    level = isa.available()[0]
    assert not verdicts.was_right([kernel("norm")], level)
    verdicts.record_right([kernel("norm")], level)
    assert verdicts.was_right([kernel("norm")], level)
    assert not verdicts.was_right([kernel("norm"), kernel("add")], level)


def test_a_verdict_that_cannot_be_read_is_none(fresh: None) -> None:
    level = isa.available()[0]
    verdicts.record_fault(level, "it is off")
    assert verdicts.fault(level) == "it is off"
    for path in cache.folder().glob("wrong-*"):
        path.write_text("{")
    assert verdicts.fault(level) == ""


# -- doctor --------------------------------------------------------------------------------------------------


def test_doctor_says_what_a_report_needs(fresh: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--quick", "--json"]) == 0
    shown = capsys.readouterr().out
    report = json.loads(shown.splitlines()[-1])
    wanted = {"cpu", "levels", "threads", "machine_gb_per_s", "peak_tflops", "cache", "versions", "missing"}
    assert wanted <= set(report)
    assert [level["name"] for level in report["levels"]] == [level.name for level in isa.LEVELS]
    present = {level.name for level in isa.available()}
    for level in report["levels"]:
        assert (level["verdict"] == "not tried") == (level["name"] in present)
        assert level["verdict"] in ("not tried",) or level["verdict"].startswith("not here: ")
    assert {"ggufpy", "python", "numpy", "numba", "llvmlite"} <= set(report["versions"])
    assert report["cache"]["writable"]
    for text in (report["cpu"], report["cache"]["folder"], report["versions"]["numba"], "(in use)"):
        assert text in shown


@pytest.mark.slow
def test_doctor_tries_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    present = {level.name for level in isa.available()}
    assert {level["name"] for level in report["levels"] if level["verdict"] == "right"} == present
    assert report["machine_gb_per_s"] > 0
    assert report["peak_tflops"] > 0
