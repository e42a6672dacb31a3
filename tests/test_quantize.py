"""`ggufpy quantize`: whole files of a small model, against `quants.quantize` tensor by tensor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from quantizing import COLUMNS, LAYERS, Weights, expect, metadata, model, options, split, tensors_of, types_of, written

from ggufpy import format as gguf
from ggufpy import quants
from ggufpy.cli import main
from ggufpy.errors import GGUFError
from ggufpy.format import Blocks, TensorInfo, Typed, Writer
from ggufpy.quantizer import convert as convert_module
from ggufpy.quantizer import quantize_file
from ggufpy.quantizer import target as target_module
from ggufpy.quantizer.importance import ImportanceMatrix
from ggufpy.quantizer.rules import order_of
from ggufpy.quantizer.target import Choice, allocate


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("source") / "f32.gguf", model())


# -- what is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K_M", "F16", "BF16", "F32", "COPY"])
def test_bytes_are_those_of_quantize(source: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.gguf"
    report = quantize_file(source, out, name, options())
    got = tensors_of(out)
    assert got == expect(model(), types_of(report))
    assert list(got) == sorted(model(), key=order_of)
    assert os.listdir(tmp_path) == ["out.gguf"]
    assert report.bytes_in == source.stat().st_size
    assert report.bytes_out == out.stat().st_size
    assert report.files == [str(out)]


def test_types_of_a_mix_reach_the_file(source: Path, tmp_path: Path) -> None:
    types = types_of(quantize_file(source, tmp_path / "out.gguf", "Q4_K_M", options()))
    more = {0, 3, 6, 7}  # of 8 layers: the first and the last eighth, and every third
    assert {i for i in range(LAYERS) if types[f"blk.{i}.attn_v.weight"] == "Q6_K"} == more
    assert {i for i in range(LAYERS) if types[f"blk.{i}.ffn_down.weight"] == "Q6_K"} == more
    others = ("output.weight", "token_embd.weight", "blk.0.attn_norm.weight")
    assert [types[name] for name in others] == ["Q6_K", "Q4_K", "F32"]


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_sources_of_two_bytes(tmp_path: Path, kind: str) -> None:
    tensors = {name: x if x.ndim == 1 else Blocks(quants.quantize(x, kind), kind) for name, x in model().items()}
    file = written(tmp_path / "in.gguf", tensors)
    rounded = {name: x if isinstance(x, np.ndarray) else quants.dequantize(x.data, kind) for name, x in tensors.items()}
    for name in ("Q4_0", "Q4_K_M", "F32", "BF16"):
        report = quantize_file(file, tmp_path / "out.gguf", name, options())
        assert tensors_of(tmp_path / "out.gguf") == expect(rounded, types_of(report)), name


def test_importance_weighs_each_matrix(source: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    entries = {
        name: rng.uniform(0.01, 4, (x.shape[0] if x.ndim == 3 else 1, COLUMNS)).astype(np.float32)
        for name, x in model().items()
        if x.ndim > 1 and "attn_k" not in name
    }
    weights = Weights(entries)
    out = tmp_path / "out.gguf"
    report = quantize_file(source, out, "Q4_K_M", options(imatrix=weights))
    assert tensors_of(out) == expect(model(), types_of(report), weights)
    with gguf.open(out) as file:
        assert list(file.metadata)[-5:] == [
            "general.quantization_version",
            "general.file_type",
            "quantize.imatrix.dataset",
            "quantize.imatrix.entries_count",
            "quantize.imatrix.chunks_count",
        ]
        assert file.metadata.typed("quantize.imatrix.entries_count") == Typed("uint32", len(entries))
        assert file.metadata.typed("quantize.imatrix.chunks_count") == Typed("uint32", 7)
        assert file.metadata["quantize.imatrix.dataset"] == "calibration.txt"


def test_an_importance_matrix_is_read_from_its_file(source: Path, tmp_path: Path) -> None:
    sums = {name: np.full((1, COLUMNS), 2.0, np.float32) for name in ("blk.0.attn_q.weight",)}
    path = tmp_path / "m.gguf"
    ImportanceMatrix(sums, {name: np.ones(1, np.float32) for name in sums}, ("a.txt",), 3).write(path)
    out = tmp_path / "out.gguf"
    quantize_file(source, out, "Q4_0", options(imatrix=path))
    with gguf.open(out) as file:
        assert file.metadata["quantize.imatrix.file"] == str(path)
        got = file.tensors["blk.0.attn_q.weight"].data
        want = quants.quantize(model()["blk.0.attn_q.weight"], "Q4_0", np.full(COLUMNS, 2.0, np.float32))
        assert (got == want).all()


def test_metadata_are_those_of_llama_quantize(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize_file(source, out, "Q4_K_M", options())
    with gguf.open(out) as file:
        assert list(file.metadata) == [
            "general.architecture", "llama.block_count", "llama.attention.head_count", "llama.attention.head_count_kv",
            "general.name", "general.quantization_version", "general.file_type",
        ]  # fmt: skip
        assert file.metadata.typed("general.file_type") == Typed("uint32", 15)
        assert file.metadata.typed("general.quantization_version") == Typed("uint32", 2)
    quantize_file(source, out, "COPY", options())
    with gguf.open(out) as file:
        assert file.metadata["general.file_type"] == 1


def test_big_endian_input(source: Path, tmp_path: Path) -> None:
    big = written(tmp_path / "big.gguf", model(), byteorder="big")
    quantize_file(big, tmp_path / "a.gguf", "Q4_K_M", options())
    quantize_file(source, tmp_path / "b.gguf", "Q4_K_M", options())
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_split_set_becomes_one_file(source: Path, tmp_path: Path) -> None:
    paths = split(tmp_path)
    quantize_file(paths[1], tmp_path / "a.gguf", "Q4_K_M", options())
    quantize_file(source, tmp_path / "b.gguf", "Q4_K_M", options())
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_split_set_stays_split(tmp_path: Path) -> None:
    paths = split(tmp_path)
    report = quantize_file(paths[0], tmp_path / "out.gguf", "Q4_0", options(keep_split=True))
    files = [tmp_path / f"out-{i + 1:05d}-of-00003.gguf" for i in range(3)]
    assert report.files == [str(path) for path in files]
    with gguf.open(files[2]) as file, gguf.open(paths[0]) as old:
        assert list(file.tensors) == list(old.tensors)
        assert file.metadata["general.file_type"] == 2
    assert tensors_of(files[0]) == expect(model(), types_of(report))
    assert sum(path.stat().st_size for path in files) == report.bytes_out


def test_tensors_of_odd_shapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tensors = {
        "a.weight": np.zeros((0, 64), np.float32), "b.weight": np.float32(3), "c.weight": np.zeros((4, 0), np.float32),
        "d.weight": rng.standard_normal((2, 3, 4, 64)).astype(np.float32), "e.weight": np.ones((4, 64), np.int32),
        "f.weight": rng.standard_normal((4, 64)),
    }  # fmt: skip
    file, out = written(tmp_path / "in.gguf", tensors), tmp_path / "out.gguf"
    types = types_of(quantize_file(file, out, "Q4_0", options()))
    assert list(types.values()) == ["F32", "F32", "Q4_0", "Q4_0", "I32", "Q4_0"]
    got = tensors_of(out)
    for name in ("d.weight", "f.weight"):
        assert got[name][1] == quants.quantize(tensors[name], "Q4_0").tobytes()
    assert quantize_file(written(tmp_path / "none.gguf", {}), out, "Q4_0").bits_per_weight == 0


# -- options -------------------------------------------------------------------------------------------------


def test_options_that_name_types(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    chosen = options(
        tensor_types=[("ATTN_K", "q8_0"), ("blk\\.[01]\\.", "F16"), ("attn_k", "Q4_0")],
        output_tensor_type="q5_0",
        token_embedding_type="Q8_0",
    )
    types = types_of(quantize_file(source, out, "Q4_K_M", chosen))
    assert {types[f"blk.{i}.attn_k.weight"] for i in range(LAYERS)} == {"Q8_0"}
    assert [types[f"blk.{i}.attn_q.weight"] for i in range(3)] == ["F16", "F16", "Q4_K"]
    assert (types["output.weight"], types["token_embd.weight"]) == ("Q5_0", "Q8_0")
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_patterns_that_others_come_before_are_found_all_the_same(source: Path, tmp_path: Path) -> None:
    chosen = options(
        tensor_types=[("attn_", "Q8_0"), ("attn_q", "F16"), ("^output", "F16"), ("norm", "F16")],
        output_tensor_type="Q5_0",
        dry_run=True,
    )
    report = quantize_file(source, tmp_path / "out.gguf", "Q4_0", chosen)
    assert types_of(report)["blk.0.attn_q.weight"] == "Q8_0"
    assert types_of(report)["output.weight"] == "Q5_0"
    assert list(report.notes) == ["--tensor-type 'norm' is found in no tensor that may change its type"]


def test_pure_and_leaving_the_output(source: Path, tmp_path: Path) -> None:
    types = types_of(quantize_file(source, tmp_path / "a.gguf", "Q4_K_M", options(pure=True)))
    assert set(types.values()) == {"Q4_K", "F32"}
    types = types_of(quantize_file(source, tmp_path / "b.gguf", "Q4_0", options(leave_output_tensor=True)))
    assert types["output.weight"] == "F32"


def test_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    dry = quantize_file(source, out, "Q4_K_M", options(dry_run=True))
    assert not os.listdir(tmp_path)
    real = quantize_file(source, out, "Q4_K_M", options())
    assert (dry.bytes_in, dry.bytes_out, dry.bits_per_weight) == (real.bytes_in, real.bytes_out, real.bits_per_weight)
    assert types_of(dry) == types_of(real)
    assert all(tensor.error is None for tensor in dry.tensors)
    dry = quantize_file(source, out, "IQ2_XS", options(dry_run=True))
    assert any("need an importance matrix" in note for note in dry.notes)


def test_fallbacks_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {"blk.0.attn_q.weight": rng.standard_normal((8, 96)).astype(np.float32)}
    tensors["blk.0.odd.weight"] = rng.standard_normal((8, 20)).astype(np.float32)
    file = written(tmp_path / "in.gguf", tensors)
    report = quantize_file(file, tmp_path / "out.gguf", "Q4_K_M", options(tensor_types=[("nowhere", "F16")]))
    assert types_of(report) == {"blk.0.attn_q.weight": "Q5_0", "blk.0.odd.weight": "F16"}
    assert list(report.notes) == [
        "--tensor-type 'nowhere' is found in no tensor that may change its type",
        "1 tensor has rows that blocks of Q4_K do not divide: Q5_0 instead",
        "1 tensor has rows that blocks of Q4_K do not divide: F16 instead",
    ]


def test_errors_of_tensors_are_measured(source: Path, tmp_path: Path) -> None:
    report = quantize_file(source, tmp_path / "out.gguf", "Q4_0", options(pure=True))
    by_name = {tensor.name: tensor for tensor in report.tensors}
    assert by_name["blk.0.attn_norm.weight"].error == 0
    x = model()["blk.0.attn_q.weight"]
    y = quants.dequantize(quants.quantize(x, "Q4_0"), "Q4_0")
    exact = float(np.sqrt(((x - y) ** 2).sum() / (x**2).sum()))
    assert by_name["blk.0.attn_q.weight"].error == pytest.approx(exact, rel=1e-5)  # small: all rows are in the sample


def test_target_bits_are_met(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "LARGE", ("Q4_K", "Q6_K"))  # the others would have to be compiled
    errors = []
    for bits in (4.75, 5.5, 7.0):
        out = tmp_path / "out.gguf"
        report = quantize_file(source, out, "Q4_K_M", options(target_bpw=bits))
        assert report.bits_per_weight <= bits
        assert report.bits_per_weight > 0.98 * bits
        assert tensors_of(out) == expect(model(), types_of(report))
        errors.append(sum((tensor.error or 0) ** 2 for tensor in report.tensors))
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(GGUFError, match=r"0\.9 bits per weight cannot be met: the smallest types .* take \d\.\d{3} \("):
        quantize_file(source, tmp_path / "out.gguf", "Q4_K_M", options(target_bpw=0.9))


def test_allocation_beats_every_single_type() -> None:
    rng = np.random.default_rng(5)
    choices = []
    for _ in range(30):
        size, spread = int(rng.integers(100, 1000)), rng.uniform(0.1, 10)
        choices.append([Choice(f"Q{b}", size * b, spread * 4.0**-b) for b in (2, 3, 4, 5, 6, 8)])
    for b in (1, 2, 3, 4):
        room = sum(some[b].nbytes for some in choices)
        got = allocate(choices, room)
        assert sum(c.nbytes for c in got) <= room
        assert sum(c.error for c in got) < sum(some[b].error for some in choices)
    assert allocate(choices, 10**9) == [some[-1] for some in choices]


# -- memory and pieces ---------------------------------------------------------------------------------------


def test_pieces_cover_every_row_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "TOGETHER", 16 * COLUMNS)
    weights = np.ones((2, COLUMNS), np.float32)
    with gguf.open(source) as file:
        for name, tensor in file.tensors.items():
            for importance in (None, weights if tensor.shape[:1] == (2,) else weights[:1]):
                job = convert_module.Job(tensor, "Q4_0", importance)
                got = list(convert_module.pieces(job))
                rows = [row for piece in got for row in range(piece.start, piece.stop)]
                assert rows == list(range(convert_module.rows_of(tensor.shape))), name
                assert [piece.last for piece in got] == [False] * (len(got) - 1) + [True]
                if importance is not None and len(importance) > 1:
                    assert all(piece.matrix == piece.start // 24 for piece in got)


def test_small_pieces_give_the_same_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize_file(source, tmp_path / "a.gguf", "Q4_K_M", options())
    monkeypatch.setattr(convert_module, "TOGETHER", 16 * COLUMNS)
    quantize_file(source, tmp_path / "b.gguf", "Q4_K_M", options())
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 24 matrices of 16 MB: much less than all of it is held at once, and not three times the largest."""
    rows = (np.random.default_rng(0).standard_normal((512, 4096)) / 64).astype(np.float16)
    infos = [TensorInfo(f"blk.{i}.ffn_up.weight", (2048, 4096), "F16") for i in range(24)]
    source = tmp_path / "in.gguf"
    with Writer(source, metadata(24), infos) as writer:
        for info in infos:
            for _ in range(4):
                writer.append(info.name, rows)
    code = (
        "import sys, resource\n"
        "from ggufpy.quantizer import quantize_file, QuantizeOptions\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "o = QuantizeOptions(threads=2)\n"
        f"quantize_file({str(source)!r}, {str(tmp_path / 'dry.gguf')!r}, 'Q8_0', QuantizeOptions(dry_run=True))\n"
        "from ggufpy.quantizer.kernels import compile_kernels\n"
        "from ggufpy import quants; import numpy as np\n"
        "quants.quantize(np.ones((16, 32), np.float32), 'Q8_0')\n"
        "before = peak()\n"
        f"quantize_file({str(source)!r}, {str(tmp_path / 'out.gguf')!r}, 'Q8_0', o)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * infos[0].shape[0] * infos[0].shape[1] * 2


# -- the command ---------------------------------------------------------------------------------------------


def test_command_prints_json(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(source), "--pure", str(out), "q4_0", "-t", "2", "--json"]) == 0
    got = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"bytes_in", "bytes_out", "bits_per_weight", "seconds", "tensors"} <= set(got)
    assert got["bytes_out"] == out.stat().st_size
    first = got["tensors"][0]
    assert (first["name"], first["shape"], first["from"], first["to"]) == ("output.weight", [48, 256], "F32", "Q4_0")
    assert first["bytes"] == 48 * 256 // 32 * 18
    assert 0.05 < first["error"] < 0.15


def test_command_prints_a_table(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(source), str(tmp_path / "out.gguf"), "Q4_K_M", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["type", "Q4_K", "Q6_K", "F32", "all"]
    assert lines[-1].endswith("bits per weight, nothing written")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "Q4_K_M" in text
