"""Importance matrices: the kernel, collecting against a forward pass in NumPy, files of both formats, the command."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import LEVELS, Room, attend, frequencies, half, load, rotate, run, synthetic
from measuring import BOS, TEXT, write_model

from ggufpy import cli
from ggufpy import format as gguf
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import kernel
from ggufpy.measure.imatrix import CollectOptions, collect
from ggufpy.measure.perplexity import windows
from ggufpy.quantizer.importance import ImportanceMatrix
from ggufpy.runtime import EngineOptions
from ggufpy.runtime.engine import Chunk
from ggufpy.simd.isa import Level

N_CTX = 24


# -- the kernel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize(("exact", "first", "bulk"), [(0, 0, 40), (7, 8, 32), (1, 0, 0), (33, 0, 0), (3, 4, 17)])
def test_kernel(level: Level, exact: int, first: int, bulk: int) -> None:
    rng = np.random.default_rng(exact)
    x = Room((rng.standard_normal((40, 96)) * np.exp(rng.normal(0, 3, 96))).astype(np.float32))
    sums, lows = Room(np.zeros(96, np.float32)), Room(np.zeros(96, np.float32))
    count = Room(np.zeros(1, np.int64))
    given = {"exact_ptr": Room(np.array([exact])), "bulk_ptr": Room(np.array([first, bulk])), "x_ptr": x,
             "x_stride": 4 * 96, "count_ptr": count}  # fmt: skip
    for _ in range(60):  # a running sum in float32 alone would be off by more than this
        run(kernel("collect"), level, 3, **given, n_columns=96, sums_ptr=sums, lows_ptr=lows)
    rows = [*range(exact), *range(first, first + bulk)]
    wanted = 60 * (x.array[rows].astype(np.float64) ** 2).sum(axis=0)
    np.testing.assert_allclose(sums.array.astype(np.float64) + lows.array, wanted, rtol=3e-7)
    assert count.array[0] == 60 * (exact + bulk)


# -- collecting --------------------------------------------------------------------------------------------


def inputs(file: Any, tokens: Any) -> dict[str, Any]:
    """What every matrix of a llama file is multiplied by, (tokens, columns), in float64 (cf. engine.reference)."""
    keys = {k.removeprefix("llama."): v for k, v in file.metadata.items() if k.startswith("llama.")}
    tensors = {name: np.asarray(t.to_numpy(), np.float64) for name, t in file.tensors.items()}
    heads, shared = keys["attention.head_count"], keys["attention.head_count_kv"]
    key = keys["embedding_length"] // heads
    theta, magnitude = frequencies(keys, key)
    n, found = len(tokens), {}

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * tensors[name]

    def project(x: Any, name: str) -> Any:
        found[f"{name}.weight"] = x
        return x @ tensors[f"{name}.weight"].T

    x = tensors["token_embd.weight"][np.asarray(tokens)]
    for i in range(keys["block_count"]):
        at = f"blk.{i}."
        h = norm(x, at + "attn_norm.weight")
        q, k, v = (project(h, at + name) for name in ("attn_q", "attn_k", "attn_v"))
        q = rotate(q.reshape(n, heads, key), np.arange(n), theta, magnitude) / math.sqrt(key)
        k = half(rotate(k.reshape(n, shared, key), np.arange(n), theta, magnitude))
        y = attend(q, k, half(v.reshape(n, shared, -1)))
        x = x + project(y.reshape(n, -1), at + "attn_output")
        h = norm(x, at + "ffn_norm.weight")
        gate = project(h, at + "ffn_gate")
        x = x + project(gate / (1 + np.exp(-gate)) * project(h, at + "ffn_up"), at + "ffn_down")
    project(norm(x, "output_norm.weight"), "output")
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf")


def chunks(count: int) -> Any:
    return windows([BOS, *(3 + byte for byte in TEXT)], N_CTX, BOS, count)


@pytest.mark.parametrize("n_batch", [5, N_CTX])
@pytest.mark.parametrize("output", [False, True])
def test_collect(path: Path, n_batch: int, output: bool) -> None:
    heard: list[Any] = []
    saved: list[Any] = []
    options = CollectOptions(
        "a text", output, None, lambda m, n: saved.append((m, n)), lambda n: n == 2, lambda *a: heard.append(a)
    )
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=2, n_ctx=N_CTX, n_batch=n_batch)) as session:
        before = session.eval_logits(chunks(1)[0])
        session.truncate(0)
        matrix = collect(session.engine, chunks(3), options)
        np.testing.assert_array_equal(session.eval_logits(chunks(1)[0]), before)  # nothing is left of it
        parts = [inputs(file, tokens) for tokens in chunks(3)]
    wanted = {n for n in parts[0] if output or n != "output.weight"}
    assert set(matrix.names) == wanted
    for name in wanted:
        squares = sum((part[name] ** 2).sum(axis=0) for part in parts)
        np.testing.assert_allclose(matrix.sums[name], squares[None], rtol=2e-3, atol=1e-5 * squares.max())
        assert matrix.counts[name].tolist() == [3 * N_CTX]
        found = matrix.weights(name)
        assert found is not None
        np.testing.assert_allclose(found[0], matrix.sums[name][0] / (3 * N_CTX), rtol=1e-6)
    assert (matrix.datasets, matrix.chunks, matrix.chunk_size) == (("a text",), 3, N_CTX)
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert [n for _, n in saved] == [2]
    assert saved[0][0].chunks == 2
    assert matrix.weights("no such") is None


@pytest.mark.parametrize("lengths", [(3, 40, 1), (21, 1, 22)])
def test_logits_stay_and_fillers_are_left_out(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    """Steps of several sequences, with bulk rows where the machine has them: logits as ever, real rows summed."""
    shapes, path = synthetic(), tmp_path / "m.gguf"
    shapes.write_model(path, shapes.Shape(1, 64, 96, 2, 1, 320, 128), "F16")
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 320, n).tolist() for n in lengths]
    with gguf.open(path) as file:
        options = EngineOptions(n_threads=2, n_ctx=64, n_batch=64, n_parallel=3)
        with load(file, options) as session:
            engine = session.engine
            plain = engine.step([Chunk(engine.sequence(), text, "all") for text in texts])
            with engine.collect(output=True) as collector:
                again = engine.step([Chunk(engine.sequence(), text, "all") for text in texts])
                for a, b in zip(plain, again, strict=True):
                    np.testing.assert_array_equal(a, b)
            found = collector.squares()
            alone = []
            for text in texts:
                with engine.collect() as one:
                    engine.step([Chunk(engine.sequence(), text, "none")])
                alone.append(one.squares())
    assert {tuple(rows) for _, rows in found.values()} == {(sum(lengths),)}
    for name in alone[0]:
        total = sum(each[name][0] for each in alone)
        np.testing.assert_allclose(found[name][0], total, rtol=1e-5)


def test_one_collector_at_a_time(path: Path) -> None:
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=2, n_ctx=N_CTX)) as session:
        engine, sequence = session.engine, session.engine.sequence()
        with engine.collect() as collector:
            with pytest.raises(GGUFError, match="is being summed already"), engine.collect():
                pass
            engine.step([Chunk(sequence, [5, 6], "none")])  # the first goes on
        assert {tuple(rows) for _, rows in collector.squares().values()} == {(2,)}
        before = {name: total.copy() for name, (total, _) in collector.squares().items()}
        with pytest.raises(ZeroDivisionError), engine.collect():
            engine.visit(Chunk(sequence, [7]), lambda at, rows: 1 // 0)
        engine.step([Chunk(sequence, [8], "none")])
        for name, (total, rows) in collector.squares().items():
            np.testing.assert_array_equal(total, before[name])
            assert rows.tolist() == [2]


def test_ranges_of_logits(path: Path) -> None:
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=2, n_ctx=N_CTX)) as session:
        engine, tokens = session.engine, chunks(1)[0].tolist()
        sequence = engine.sequence()
        whole = engine.step([Chunk(sequence, tokens, "all")])[0].copy()
        for wanted in (range(3, 9), range(0), range(23, 24), range(24)):
            sequence.truncate(0)
            part = whole[wanted.start : wanted.stop]
            np.testing.assert_array_equal(engine.step([Chunk(sequence, tokens, wanted)])[0], part)
            sequence.truncate(0)
            seen: list[Any] = []
            chunk = Chunk(sequence, tokens, wanted)
            engine.visit(chunk, lambda at, rows, seen=seen: seen.append((at, rows.values.copy())))
            assert [at for at, _ in seen] == [0] * bool(wanted)
            if wanted:
                np.testing.assert_array_equal(seen[0][1], part)
        for wrong in (range(20, 25), range(0, 8, 2), range(-1, 3)):
            sequence.truncate(0)
            with pytest.raises(ValueError, match="are wanted, of 24 tokens"):
                engine.step([Chunk(sequence, tokens, wrong)])


def test_activations_that_are_no_numbers(tmp_path: Path) -> None:
    path = write_model(tmp_path / "bad", tensors={"blk.1.ffn_norm.weight": np.full(64, 1e30, np.float32)})
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=1, n_ctx=N_CTX)) as session:
        with pytest.raises(GGUFError, match=r"'blk.1.ffn_gate.weight' is multiplied by is not finite"):
            collect(session.engine, chunks(2), CollectOptions())
        assert session.engine.free_pages == 1


# -- files -------------------------------------------------------------------------------------------------


def some_matrix(columns: int = 6, experts: int = 1, seed: int = 0) -> ImportanceMatrix:
    rng = np.random.default_rng(seed)
    names = ("blk.1.b.weight", "blk.0.a.weight")
    sums = {name: rng.random((experts, columns)).astype(np.float32) for name in names}
    counts = {name: np.full(experts, 1024.0, np.float32) for name in names}
    return ImportanceMatrix(sums, counts, (f"text {seed}",), 2, 512)


def same(a: ImportanceMatrix, b: ImportanceMatrix) -> None:
    assert a.names == b.names
    for name in a.names:
        np.testing.assert_array_equal(a.sums[name], b.sums[name])
        np.testing.assert_array_equal(a.counts[name], b.counts[name])
    assert (a.datasets, a.chunks, a.chunk_size) == (b.datasets, b.chunks, b.chunk_size)


@pytest.mark.parametrize("experts", [1, 4])
def test_gguf_layout(tmp_path: Path, experts: int) -> None:
    """As tools/imatrix/imatrix.cpp writes it, seen by another reader."""
    reader = pytest.importorskip("gguf")
    matrix, path = some_matrix(experts=experts), tmp_path / "a.gguf"
    matrix.write(path)
    same(ImportanceMatrix.read(path), matrix)
    file = reader.GGUFReader(path)
    fields = {key: field.contents() for key, field in file.fields.items() if not key.startswith("GGUF.")}
    assert fields == {
        "general.type": "imatrix",
        "imatrix.datasets": ["text 0"],
        "imatrix.chunk_count": 2,
        "imatrix.chunk_size": 512,
    }
    assert file.fields["imatrix.chunk_count"].types == [reader.GGUFValueType.UINT32]
    names = [f"{n}{end}" for n in ("blk.0.a.weight", "blk.1.b.weight") for end in (".in_sum2", ".counts")]
    assert [t.name for t in file.tensors] == names
    assert [t.shape.tolist() for t in file.tensors[:2]] == [[6, experts], [1, experts]]  # ggml's order
    assert {t.tensor_type.name for t in file.tensors} == {"F32"}
    np.testing.assert_array_equal(file.tensors[0].data, matrix.sums["blk.0.a.weight"])


def test_without_a_text(tmp_path: Path) -> None:
    empty = ImportanceMatrix(some_matrix().sums, some_matrix().counts)
    empty.write(tmp_path / "a")
    assert ImportanceMatrix.read(tmp_path / "a").datasets == ()


def test_weights_of_experts_that_saw_nothing() -> None:
    """All 1, as llama-quantize takes them."""
    sums = np.array([[2.0, 4.0], [0.0, 0.0]], np.float32)
    matrix = ImportanceMatrix({"a": sums}, {"a": np.array([2.0, 0.0], np.float32)})
    found = matrix.weights("a")
    assert found is not None
    assert found.tolist() == [[1.0, 2.0], [1.0, 1.0]]
    assert found.dtype == np.float32


def test_merging() -> None:
    a, b = some_matrix(seed=1), some_matrix(seed=2)
    extra = ImportanceMatrix({"c": np.ones((1, 3), np.float32)}, {"c": np.array([512.0], np.float32)}, ("more",))
    found = a.merged([b, extra])
    assert found.datasets == ("text 1", "text 2", "more")
    assert found.chunks == 4
    np.testing.assert_allclose(found.sums["blk.0.a.weight"], a.sums["blk.0.a.weight"] + b.sums["blk.0.a.weight"])
    assert found.counts["blk.0.a.weight"].tolist() == [2048.0]
    assert found.counts["c"].tolist() == [512.0]
    with pytest.raises(GGUFError, match="6 columns in one importance matrix and 7 columns in another"):
        a.merged([some_matrix(7)])
    with pytest.raises(GGUFError, match="6 columns in 3 matrices in one"):
        some_matrix(6, 3).merged([some_matrix(6, 2)])
    vast = ImportanceMatrix({"c": np.full((1, 3), 3e38, np.float32)}, extra.counts)
    with pytest.raises(GGUFError, match="the merged importance matrix: 'c' has a value that is no sum of squares"):
        vast.merged([vast])
    flat = {name: sums.reshape(1, -1) for name, sums in some_matrix(6, 3).sums.items()}
    old = ImportanceMatrix(flat, {name: np.array([512.0], np.float32) for name in flat})
    for first, second in ((some_matrix(6, 3), old), (old, some_matrix(6, 3))):  # one count for all experts
        both = first.merged([second])
        assert both.counts["blk.1.b.weight"].tolist() == [1536.0] * 3
        np.testing.assert_allclose(both.sums["blk.1.b.weight"], 2 * some_matrix(6, 3).sums["blk.1.b.weight"])


def dat(entries: list[tuple[bytes, int, list[float]]], tail: bytes = b"") -> bytes:
    out = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        out += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
        out += struct.pack(f"<{len(values)}f", *values)
    return out + tail


def test_dat(tmp_path: Path) -> None:
    entries = [(b"blk.0.a.weight", 3, [1.5, 3.0, 0.0]), (b"blk.0.b.weight", 6, [6.0])]
    for tail, texts in (
        (b"", ()),
        (struct.pack("<i", 3), ()),
        (struct.pack("<ii", 3, 5) + b"a.txt", ("a.txt",)),
    ):
        (tmp_path / "a.dat").write_bytes(dat(entries, tail))
        found = ImportanceMatrix.read(tmp_path / "a.dat", chunk_size=128)
        assert found.names == ("blk.0.a.weight", "blk.0.b.weight")
        means = found.weights("blk.0.a.weight")
        assert means is not None
        assert means.tolist() == [[0.5, 1.0, 0.0]]  # sums of mean squares by call, over calls
        assert found.counts["blk.0.a.weight"].tolist() == [3 * 128]
        assert (found.datasets, found.chunks, found.chunk_size) == (texts, 6, 128)


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    whole = dat([(b"a", 3, [1.0, 2.0]), (b"b", 1, [3.0])], struct.pack("<ii", 3, 2) + b"ab")
    for count in range(len(whole)):
        path.write_bytes(whole[:count])
        if count not in (len(whole) - 10, len(whole) - 6):  # where older files end
            with pytest.raises(GGUFError, match="not an importance matrix"):
                ImportanceMatrix.read(path)
    for data, match in (
        (whole + b"x", "1 bytes follow"),
        (struct.pack("<i", 1 << 30), "the number of entries is"),
        (struct.pack("<ii", 1, -1), "the length of a name"),
        (dat([(b"a", 1, [1.0]), (b"a", 1, [1.0])]), "there twice"),
        (dat([(b"a", 1, [-1.0])]), "no sum of squares"),
        (dat([(b"a", 1, [math.nan])]), "no sum of squares"),
        (dat([(b"a", 1, [3e38])]), "no sum of squares"),
        (struct.pack("<ii", 1, 0) + struct.pack("<ii", 1 << 30, 1) + bytes(4) + bytes(3), "ends too early"),
        (struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 1 << 29), "ends too early"),
        (b"", "ends too early"),
    ):
        path.write_bytes(data)
        with pytest.raises(GGUFError, match=match):
            ImportanceMatrix.read(path)
    with path.open("wb") as file:  # any large file may be taken for one: it is not read to its end
        file.truncate(1 << 37)
    with pytest.raises(GGUFError, match="the number of entries is 0"):
        ImportanceMatrix.read(path)
    path.unlink()
    with pytest.raises(GGUFError, match="cannot read the importance matrix"):
        ImportanceMatrix.read(path)


@pytest.mark.parametrize(
    ("tensors", "metadata", "match"),
    [
        ({"a.in_sum2": np.ones((1, 4), np.float32)}, {}, "no .counts"),
        ({"a.in_sum2": np.ones((1, 4), np.float16), "a.counts": np.ones((1, 1), np.float32)}, {}, "F16 and F32"),
        ({"a.in_sum2": np.ones((1, 4), np.float32), "a.counts": np.ones((3, 1), np.float32)}, {}, "4 sums and 3"),
        ({"a.in_sum2": -np.ones((1, 4), np.float32), "a.counts": np.ones((1, 1), np.float32)}, {}, "no sum of squares"),
        ({"a.in_sum2": np.ones((1, 4), np.float32), "a.counts": -np.ones((1, 1), np.float32)}, {}, "no number of rows"),
        ({"a.in_sum2": np.ones((1, 4), np.float32), "a.counts": np.full((1, 1), 1e-9, np.float32)}, {}, "no number of"),
        ({"a.in_sum2": np.ones((1, 4), np.float32), "a.counts": np.full((1, 1), 3e38, np.float32)}, {}, "no number of"),
        ({"a": np.ones((1, 4), np.float32)}, {}, "not an importance matrix"),
        ({"a.in_sum2": np.ones((1, 4), np.float32)}, {"general.type": "model"}, "not an importance matrix"),
    ],
)
def test_gguf_files_that_are_none(tmp_path: Path, tensors: Any, metadata: Any, match: str) -> None:
    gguf.write(tmp_path / "a", metadata, tensors)
    with pytest.raises(GGUFError, match=match):
        ImportanceMatrix.read(tmp_path / "a")


def test_other_tensors_and_odd_keys_are_passed_over(tmp_path: Path) -> None:
    """Newer files have sums of the activations too (.in_sum)."""
    one = np.ones((1, 4), np.float32)
    tensors = {"a.in_sum2": one, "a.counts": np.full((1, 1), 600, np.float32), "a.in_sum": one}
    gguf.write(tmp_path / "a", {"imatrix.chunk_size": "many", "imatrix.datasets": 3}, tensors)
    found = ImportanceMatrix.read(tmp_path / "a")
    assert (found.names, found.chunks, found.chunk_size, found.datasets) == (("a",), 1, 512, ())
    numbers = {f"imatrix.chunk_{name}": gguf.Typed("uint64", 1 << 60) for name in ("size", "count")}
    gguf.write(tmp_path / "a", numbers, tensors)
    found = ImportanceMatrix.read(tmp_path / "a")
    assert (found.chunks, found.chunk_size) == (1, 512)
    tensors["a.counts"] = np.full((1, 1), 2.0**47, np.float32)  # more chunks than a file can say
    gguf.write(tmp_path / "a", {"imatrix.chunk_size": 8}, tensors)
    ImportanceMatrix.read(tmp_path / "a").write(tmp_path / "b")
    assert ImportanceMatrix.read(tmp_path / "b").chunks == (1 << 32) - 1


# -- the command -------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    status = cli.main(["imatrix", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def test_command(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_bytes(TEXT)
    shared = ["-f", "text", "-c", str(N_CTX), "-t", "2"]
    status, out, _ = command(capsys, path, *shared, "-o", "a.gguf", "--save-frequency", "3", "--json")
    found = json.loads(out.splitlines()[-1])
    assert status == 0
    assert {k: found[k] for k in ("entries", "chunks", "chunk_size", "datasets")} == {
        "entries": 14, "chunks": 8, "chunk_size": 24, "datasets": ["text"],
    }  # fmt: skip
    files = {p.name: ImportanceMatrix.read(p) for p in tmp_path.glob("a.gguf*")}
    assert {name: m.chunks for name, m in files.items()} == {"a.gguf": 8, "a.gguf.at_3": 3, "a.gguf.at_6": 6}
    status, out, _ = command(capsys, path, *shared, "--chunks", "3", "-o", "b.gguf", "--process-output")
    assert (status, out) == (0, "b.gguf: 15 matrices, 3 chunks of 24 tokens\n")
    three = ImportanceMatrix.read("b.gguf")
    name = "blk.1.ffn_down.weight"
    np.testing.assert_array_equal(three.sums[name], files["a.gguf.at_3"].sums[name])
    status, out, _ = command(capsys, "-o", "c.gguf", "--in-file", "a.gguf", "--in-file", "b.gguf", "-c", str(N_CTX))
    assert (status, out) == (0, "c.gguf: 15 matrices, 11 chunks of 24 tokens\n")
    status, _, _ = command(capsys, path, *shared, "--chunks", "3", "-o", "d.gguf", "--in-file", "a.gguf")
    merged, added = ImportanceMatrix.read("c.gguf"), ImportanceMatrix.read("d.gguf")
    assert status == 0
    np.testing.assert_array_equal(added.sums[name], merged.sums[name])
    assert added.datasets == ("text", "text")
    assert added.chunks == 11


@pytest.mark.parametrize(
    ("words", "status", "match"),
    [
        (["-o", "a.gguf"], 2, "nothing to measure"),
        (["-f", "text", "-o", "a.dat"], 2, "only read: name the output .gguf"),
        (["-f", "text"], 2, "required: -o"),
        (["-f", "text", "-o", "no/a.gguf"], 1, "there is no folder"),
        (["-f", "text", "-o", "."], 1, "it is a directory"),
        (["-f", "text", "-o", "./text"], 1, "is the file that is being read"),
        (["-f", "text", "-o", "a.gguf", "-c", "60"], 1, "want at least 120"),
        (["-f", "text", "-o", "a.gguf", "--in-file", "text"], 1, "not an importance matrix"),
        (["-o", "a.gguf", "--in-file", "nothing"], 1, "cannot read the importance matrix"),
    ],
)
def test_errors(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], status: int, match: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("text").write_bytes(TEXT[:80])
    found, out, err = command(capsys, path, *words, "-t", "1")
    assert (found, out) == (status, "")
    assert match in err
    lines = [line for line in err.splitlines() if "compiling kernels" not in line]  # it may be the first to want them
    assert len(lines) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["text"]
