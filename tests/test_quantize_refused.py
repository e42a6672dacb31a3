"""`ggufpy quantize`: what it refuses, and that whatever goes wrong leaves the files that were there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantizing import COLUMNS, Weights, expect, model, options, split, tensors_of, types_of, written

from ggufpy import format as gguf
from ggufpy import quants
from ggufpy.cli import main
from ggufpy.errors import GGUFError
from ggufpy.format import Blocks, TensorInfo, Writer
from ggufpy.format.atomic import AtomicFile, check_target
from ggufpy.quantizer import quantize_file
from ggufpy.quantizer.importance import ImportanceMatrix


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("source") / "f32.gguf", model())


def refused(words: str, *arguments: Any, **chosen: Any) -> None:
    with pytest.raises(GGUFError, match=words):
        quantize_file(*arguments, options(**chosen))


def test_wrong_types_and_options(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    refused("there is no file type 'Q4_Q': did you mean", source, out, "Q4_Q")
    refused("unknown tensor type 'Q9'", source, out, "Q4_0", tensor_types=[("a", "Q9")])
    refused("Q8_1 cannot be written; types that can: F32, F16, Q4_0", source, out, "Q4_0", output_tensor_type="Q8_1")
    refused(r"pattern '\(' is not a regular expression", source, out, "Q4_0", tensor_types=[("(", "Q8_0")])
    refused("a target of -1 bits per weight cannot be", source, out, "Q4_0", target_bpw=-1.0)
    assert not os.listdir(tmp_path)


def test_missing_importance(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    refused(r"'blk.0.attn_k.weight' as IQ2_XS needs an importance matrix, which is not given", source, out, "IQ2_XS")
    some = Weights({"blk.0.attn_k.weight": np.ones((1, COLUMNS), np.float32)})
    refused(r"'blk.0.attn_output.weight' .* matrix, which has no entry for it", source, out, "IQ2_XS", imatrix=some)
    refused(r"\.weight' as Q2_K needs an importance matrix", source, out, "Q2_K_S")
    wrong = Weights({"blk.0.attn_k.weight": np.ones((1, 32), np.float32)})
    words = r"is for 1 matrices of 32 columns, the tensor has 1 of 256: .* another model"
    refused(words, source, out, "Q4_0", imatrix=wrong)
    bad = Weights({"blk.0.attn_k.weight": np.full((1, COLUMNS), np.nan, np.float32)})
    refused(r"'blk.0.attn_k.weight' has values that are not between 0 and 1e\+20", source, out, "Q4_0", imatrix=bad)
    assert not os.listdir(tmp_path)


def test_a_quantised_file_is_refused(source: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.gguf", tmp_path / "twice.gguf"
    quantize_file(source, once, "Q8_0", options())
    refused(r"is Q8_0 already, and quantising it to Q4_0 .* --allow-requantize", once, twice, "Q4_0", pure=True)
    report = quantize_file(once, twice, "Q4_0", options(allow_requantize=True, pure=True))
    with gguf.open(once) as file:
        decoded = {name: tensor.to_numpy() for name, tensor in file.tensors.items()}
    assert tensors_of(twice) == expect(decoded, types_of(report))
    quantize_file(once, twice, "Q8_0", options())  # nothing to change
    assert tensors_of(once) == tensors_of(twice)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_weights_that_are_not_finite(tmp_path: Path, value: float, kind: str) -> None:
    tensors = model(2)
    tensors["blk.1.ffn_up_exps.weight"][1, 5, 77] = value
    tensors["blk.1.ffn_up_exps.weight"][1, 9, 3] = value
    stored = {n: x if x.ndim == 1 else Blocks(quants.quantize(x, kind), kind) for n, x in tensors.items()}
    file, out = written(tmp_path / "in.gguf", stored, {"llama.block_count": 2}), tmp_path / "out.gguf"
    out.write_bytes(b"old")
    for name in ("Q4_0", "Q4_K_M", "F16", "COPY"):
        refused(rf"'blk.1.ffn_up_exps.weight': the weight at \[1, 5, 77\] is {value:g}, and a model", file, out, name)
    assert out.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["in.gguf", "out.gguf"]
    report = quantize_file(file, out, "Q4_0", options(allow_nonfinite=True))
    assert {t.name: t.nonfinite for t in report.tensors if t.nonfinite} == {"blk.1.ffn_up_exps.weight": 2}
    tensors["blk.1.ffn_up_exps.weight"][1, [5, 9], [77, 3]] = 0
    rounded = quants.dequantize(quants.quantize(tensors["blk.1.ffn_up_exps.weight"], kind), kind)
    wanted = quants.quantize(rounded, "Q4_0")
    assert tensors_of(out)["blk.1.ffn_up_exps.weight"] == ("Q4_0", wanted.tobytes())
    quantize_file(file, out, "F32", options(allow_nonfinite=True))
    with gguf.open(out) as got:
        np.testing.assert_equal(got.tensors["blk.1.ffn_up_exps.weight"].to_numpy()[1, 5, 77], np.float32(value))


def test_weights_too_large_for_f16(tmp_path: Path) -> None:
    file = written(tmp_path / "in.gguf", {"blk.0.a.weight": np.full((4, 32), 1e6, np.float32)})
    refused(r"the weight at \[0, 0\] is 1e\+06, too large for F16", file, tmp_path / "out.gguf", "F16")
    refused(r"'blk.0.a.weight': .*too large for the 16-bit", file, tmp_path / "out.gguf", "Q4_0", pure=True)


def test_weights_beyond_float32(tmp_path: Path) -> None:
    file = written(tmp_path / "in.gguf", {"blk.0.a.weight": np.full((4, 32), 1e300)})
    refused(r"is 1e\+300, too large for Q8_0: scale the weights down", file, tmp_path / "out.gguf", "Q8_0")


@pytest.mark.slow
def test_target_bits_pass_over_types_that_cannot_hold_the_weights(tmp_path: Path) -> None:
    tensors = {"blk.0.a.weight": np.full((4, 256), 3e38, np.float32), "blk.0.b.weight": np.ones((4, 256), np.float32)}
    stored = {n: Blocks(quants.quantize(x, "BF16"), "BF16") for n, x in tensors.items()}
    file, out = written(tmp_path / "in.gguf", stored), tmp_path / "out.gguf"
    report = quantize_file(file, out, "Q4_K_M", options(target_bpw=12))
    assert types_of(report)["blk.0.a.weight"] == "BF16"
    assert types_of(report)["blk.0.b.weight"] not in ("BF16", "F32")


@pytest.mark.parametrize("target_bpw", [None, pytest.param(5.5, marks=pytest.mark.slow)])  # it tries every type
def test_a_fourth_dimension_takes_the_importance_again(tmp_path: Path, target_bpw: float | None) -> None:
    rng = np.random.default_rng(2)
    name, x = "blk.0.ffn_up_exps.weight", rng.standard_normal((3, 2, 4, COLUMNS)).astype(np.float32)
    importance = rng.uniform(0.1, 4, (2, COLUMNS)).astype(np.float32)
    file, out = written(tmp_path / "in.gguf", {name: x}), tmp_path / "out.gguf"
    quantize_file(file, out, "Q4_K_M", options(imatrix=Weights({name: importance}), target_bpw=target_bpw))
    ((kind, data),) = tensors_of(out).values()
    assert kind != "F32"
    assert data == b"".join(quants.quantize(cube, kind, importance[:, None]).tobytes() for cube in x)


def test_the_source_is_not_written_over(source: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "in.gguf", model(1))
    before = file.read_bytes()
    os.symlink(file, tmp_path / "soft.gguf")
    os.link(file, tmp_path / "hard.gguf")
    for name in ("in.gguf", "soft.gguf", "hard.gguf", "../" + tmp_path.name + "/in.gguf"):
        refused("is the file that is being read", file, tmp_path / name, "Q8_0")
    assert file.read_bytes() == before
    for path in split(tmp_path):
        refused("is the file that is being read", tmp_path / "in-00001-of-00003.gguf", path, "Q8_0")


def test_the_importance_matrix_is_not_written_over(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    sums = {"blk.0.attn_q.weight": np.ones((1, COLUMNS), np.float32)}
    ImportanceMatrix(sums, {name: np.ones(1, np.float32) for name in sums}).write(path)
    before = path.read_bytes()
    refused("is the file that is being read", source, path, "Q8_0", imatrix=path)
    assert path.read_bytes() == before


def test_a_failure_leaves_the_old_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")

    def full(*_: Any) -> Any:
        return type("Usage", (), {"total": 10**12, "free": 1000})

    monkeypatch.setattr("shutil.disk_usage", full)
    refused(r"it takes .* and its disk has 1\.0 kB free, .* too little: make room", source, out, "Q8_0")
    monkeypatch.undo()
    with pytest.raises(GGUFError, match="there is no folder"):
        quantize_file(source, tmp_path / "none" / "out.gguf", "Q8_0", options())

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "quantize" and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_file(source, out, "Q8_0", options(progress=interrupt))
    assert out.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.gguf"]


# -- files that are whole or not there -----------------------------------------------------------------------


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / ".ggufpy-0123456789abcdef.tmp"
    code = f"import os; from ggufpy.format import AtomicFile; a = AtomicFile({str(tmp_path / 'x')!r}); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 9
    (left,) = os.listdir(tmp_path)
    stale.write_bytes(b"")
    (tmp_path / ".ggufpy-note.tmp").write_bytes(b"")  # not of our making
    with AtomicFile(tmp_path / "a") as first:
        first.file.write(b"1")
        with AtomicFile(tmp_path / "b") as second:  # the first one is in use
            second.file.write(b"2")
        assert left not in os.listdir(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".ggufpy-note.tmp", "a", "b"]


def test_a_file_is_checked_before_it_gets_its_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")

    def check(path: Path) -> None:
        assert path.read_bytes() == b"new"
        raise GGUFError("it is wrong")

    atomic = AtomicFile(out)
    atomic.file.write(b"new")
    with pytest.raises(GGUFError, match=r"cannot write .*out: what was written is not right: it is wrong"):
        atomic.commit(check)
    assert os.listdir(tmp_path) == ["out"]
    assert out.read_bytes() == b"old"
    atomic = AtomicFile(out)
    atomic.file.write(b"new")
    atomic.commit(lambda path: None)
    assert out.read_bytes() == b"new"


def test_a_writer_reads_its_header_again(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "out.gguf", {}, [TensorInfo("a", (4,), "F32")])
    writer.append("a", np.zeros(4, np.float32))
    os.pwrite(writer._atomic.file.fileno(), b"XXXX", 0)
    writer._atomic.file.flush()
    os.pwrite(writer._atomic.file.fileno(), b"XXXX", 0)
    with pytest.raises(GGUFError, match="what was written is not right"):
        writer.close()
    assert not os.listdir(tmp_path)


def test_targets_that_are_sources(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    check_target(tmp_path / "b", [tmp_path / "a"])
    with pytest.raises(GGUFError, match="is the file that is being read"):
        check_target(tmp_path / "a", [tmp_path / "b", tmp_path / "a"])


def test_command_says_what_is_wrong(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.gguf")
    for arguments, status, words in (
        ([str(source), out, "Q5"], 1, "there is no file type 'Q5': did you mean"),
        ([str(source), out, "Q4_0", "--tensor-type", "x"], 2, "'x' is not REGEX=TYPE, such as attn_v=Q8_0"),
        ([str(source), out, "Q4_0", "--pure", "--target-bpw", "4"], 2, "--pure is one type for all"),
        ([str(tmp_path / "none.gguf"), out, "Q4_0"], 1, "no such file"),
        ([str(source), out, "IQ1_S"], 1, "needs an importance matrix"),
    ):
        assert main(["quantize", *arguments]) == status
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1
        assert words in errors[0]
