"""Files on disk: split sets, mapping and closing, writing whole or not at all, `inspect`, the tools."""

from __future__ import annotations

import gc
import json
import mmap
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ggufpy import quants
from ggufpy.cli import main
from ggufpy.errors import GGUFError
from ggufpy.format import AtomicFile, Blocks, TensorInfo, Typed, Writer, from_bytes, write
from ggufpy.format import open as open_gguf

TOOLS = Path(__file__).resolve().parent.parent / "tools"
EXAMPLES = TOOLS.parent / "examples"


def rows(n: int, start: float = 0) -> np.ndarray:
    return np.arange(start, start + n, dtype=np.float32)


def write_split(folder: Path, counts: tuple[int, ...] = (2, 1, 2), **changes: object) -> list[Path]:
    paths = []
    for i, count in enumerate(counts):
        path = folder / f"m-{i + 1:05d}-of-{len(counts):05d}.gguf"
        metadata = {
            "split.no": Typed("uint16", i),
            "split.count": Typed("uint16", len(counts)),
            "split.tensors.count": Typed("int32", sum(counts)),
        }
        metadata.update(changes if i == 1 else {})
        first = {"general.name": "split"} if i == 0 else {}
        write(path, {**first, **metadata}, {f"t{i}.{j}": rows(8, 10 * i + j) for j in range(count)})
        paths.append(path)
    return paths


def test_a_split_set_opens_from_any_of_its_files(tmp_path: Path) -> None:
    for path in write_split(tmp_path):
        with open_gguf(path) as f:
            assert f.metadata["general.name"] == "split"
            assert list(f.tensors) == ["t0.0", "t0.1", "t1.0", "t2.0", "t2.1"]
            assert len(f.files) == 3
            np.testing.assert_array_equal(f.tensors["t2.1"].to_numpy(), rows(8, 21))


def test_a_split_set_that_does_not_fit_together(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    paths[1].rename(tmp_path / "gone")
    with pytest.raises(GGUFError, match=r"m-00002-of-00003\.gguf is missing"):
        open_gguf(paths[2])
    paths[0].rename(tmp_path / "model.gguf")
    with pytest.raises(GGUFError, match=r"give it back its name, which ends in -00001-of-00003\.gguf"):
        open_gguf(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").rename(tmp_path / "m-00001-of-00009.gguf")
    with pytest.raises(GGUFError, match=r"is one of 3 files .*, but its name says 9"):
        open_gguf(tmp_path / "m-00001-of-00009.gguf")
    wrong = {
        "split.no": (Typed("uint16", 2), r"00002-of-00003\.gguf: is file 3 of its set .*, its name says 2"),
        "split.tensors.count": (Typed("int32", 4), "'split.tensors.count' is 4, its files hold 5"),
    }
    for key, (value, message) in wrong.items():
        with pytest.raises(GGUFError, match=message):
            open_gguf(write_split(tmp_path, **{key: value})[0])
    paths = write_split(tmp_path)
    body = paths[1].read_bytes()
    paths[1].write_bytes(body.replace(b"t1.0", b"t0.0"))
    with pytest.raises(GGUFError, match=r"00002-of-00003\.gguf: tensor 't0\.0' is also in .*00001-of"):
        open_gguf(paths[0])
    with pytest.raises(GGUFError, match="one file of a split set; open it by its path"):
        from_bytes(body)
    with open_gguf(write_split(tmp_path)[0]) as f, pytest.raises(GGUFError, match="leave the split"):
        write(tmp_path / "one.gguf", f.metadata, f.tensors)


def test_views_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path, {"k": ["a", "b"]}, {"t": rows(1000)})
    f = open_gguf(path)
    view, tensor, metadata = f.tensors["t"].data, f.tensors["t"], f.metadata
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    f.close()
    f.close()
    path.unlink()
    gc.collect()
    np.testing.assert_array_equal(view.view(np.float32), rows(1000))
    np.testing.assert_array_equal(tensor.to_numpy(), rows(1000))
    assert metadata["k"] == ["a", "b"]
    for name in ("metadata", "tensors"):
        with pytest.raises(GGUFError, match="was closed"):
            getattr(f, name)


def test_missing_names(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", {"k": 1}, {})
    with open_gguf(tmp_path / "a.gguf") as f:
        assert f.metadata.get("x") is None
        assert "x" not in f.tensors
        with pytest.raises(KeyError, match=r"^there is no metadata key 'x' in the file$"):
            f.metadata["x"]
        with pytest.raises(GGUFError, match="no tensor 'x'"):
            f.tensors["x"]
        with pytest.raises(GGUFError, match="is uint32, not array"):
            f.metadata.strings("k")


def resident() -> int:
    """Bytes of files that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@on_linux
def test_release_drops_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path, {}, {"a": rows(100), "t": rows(4 << 20), "b": rows(100)})
    with open_gguf(path) as f:
        before = resident()
        total = int(f.tensors["t"].data.sum(dtype=np.int64))
        assert resident() - before > 15 << 20
        f.tensors["t"].release()
        assert resident() - before < 2 << 20
        assert int(f.tensors["t"].data.sum(dtype=np.int64)) == total


@on_linux
def test_opening_reads_only_the_header(tmp_path: Path) -> None:
    tensors = {f"blk.{i}.w": rows(1 << 14) for i in range(300)}
    write(tmp_path / "a.gguf", {f"k{i}": i for i in range(30)}, tensors)
    before = resident()
    with open_gguf(tmp_path / "a.gguf") as f:
        assert resident() - before < 2 << 20
        assert len(f.tensors) == 300
        before = resident()
        assert sum(int(t.data.sum()) for t in f.tensors.values()) > 0
        assert resident() - before > 15 << 20


def test_a_vocabulary_is_not_copied_when_its_file_is_opened(shared: Path) -> None:
    path = shared / "vocab/ggml-vocab-llama-bpe.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    open_gguf(path).close()  # loads the compiled walker
    tracemalloc.start()
    f = open_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size
    tokens, merges = f.metadata.strings("tokenizer.ggml.tokens"), f.metadata.strings("tokenizer.ggml.merges")
    assert (len(tokens), len(merges)) == (128_256, 280_147)
    assert f.metadata.count("tokenizer.ggml.tokens") == 128_256
    assert (merges[0], merges[-1], merges[1:3]) == (list(merges)[0], list(merges)[-1], list(merges)[1:3])  # noqa: RUF015
    assert tokens[128_000] == b"<|begin_of_text|>"
    assert f.metadata["tokenizer.ggml.tokens"][128_000] == "<|begin_of_text|>"
    both = [bytes(tokens.buffer[s : s + n]) for s, n in zip(tokens.starts[:99], tokens.lengths[:99], strict=True)]
    assert both == tokens[:99]


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    infos = [TensorInfo("t", (4,), "F32"), TensorInfo("u", (4,), "F32")]

    def fail() -> None:
        with Writer(path, {}, infos) as writer:
            writer.append("t", rows(4))
            assert len(files(tmp_path)) == 2
            raise RuntimeError

    def stop_early() -> None:
        with Writer(path, {}, infos) as writer:
            writer.append("t", rows(4))
            writer.append("u", rows(2))

    with pytest.raises(RuntimeError):
        fail()
    assert files(tmp_path) == ["a.gguf"]
    with pytest.raises(GGUFError, match="tensor 'u' has 8 of its 16 bytes"):
        stop_early()
    writer = Writer(path, {}, infos)
    del writer
    gc.collect()
    assert files(tmp_path) == ["a.gguf"]
    assert path.read_bytes() == b"old"
    with AtomicFile(path) as atomic:
        atomic.file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    atomic.abort()
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="limits file sizes as Unix does")
def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    code = (
        "import resource, sys, signal, numpy as np; from ggufpy.format import write\n"
        "from ggufpy.errors import GGUFError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write(sys.argv[1], {}, {'t': np.zeros(1_000_000, np.float32)})\n"
        "except GGUFError as e: print(e)\n"
    )
    path = tmp_path / "a.gguf"
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert out.startswith(f"cannot write {path}: ")
    assert files(tmp_path) == []


def test_writing_over_the_file_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path, {"k": 1}, {"t": rows(5)})
    with open_gguf(path) as f:
        write(path, {**f.metadata.typed_items(), "more": "x"}, f.tensors)
        np.testing.assert_array_equal(f.tensors["t"].to_numpy(), rows(5))
    with open_gguf(path) as f:
        assert dict(f.metadata) == {"k": 1, "more": "x"}


def test_alignment_of_metadata_and_large_holes(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path, {"general.alignment": 1 << 24}, {"t": rows(5), "u": rows(3)})
    with open_gguf(path) as f:
        assert (f.alignment, f.tensors["t"].offset, f.tensors["u"].offset) == (1 << 24, 1 << 24, 2 << 24)
        write(path, f.metadata, f.tensors, alignment=16)
    assert path.stat().st_blocks * 512 <= 65536
    with open_gguf(path) as f:
        assert f.alignment == 16
        np.testing.assert_array_equal(f.tensors["u"].to_numpy(), rows(3))


WRITE_ERRORS = {
    "unknown value": ({"k": object()}, {}, {}, "metadata 'k': a object cannot be written"),
    "none": ({"k": None}, {}, {}, "metadata 'k': a NoneType cannot be written"),
    "huge int": ({"k": 2**64}, {}, {}, "fit no 64-bit type"),
    "endless int": ({"k": 10**9999}, {}, {}, "fit no 64-bit type"),
    "range": ({"k": Typed("uint8", 256)}, {}, {}, "metadata 'k': 256 does not fit uint8"),
    "element range": (
        {"k": Typed("array[int8]", [0, 128])},
        {},
        {},
        "metadata 'k': 0 to 128 does not fit int8",
    ),
    "type of value": ({"k": Typed("uint8", 1.5)}, {}, {}, "metadata 'k': 1.5 \\(float\\) is not a uint8"),
    "bool is no int": ({"k": Typed("array[uint8]", [1, True])}, {}, {}, "metadata 'k'\\[1\\]: True"),
    "type name": ({"k": Typed("uint9", 1)}, {}, {}, "'uint9' is not a GGUF value type"),
    "element name": ({"k": Typed("array[float]", [1])}, {}, {}, "'float' is not a GGUF value type"),
    "array": ({"k": Typed("array[string]", "abc")}, {}, {}, "takes a list, not str"),
    "mixed": ({"k": ["a", 1]}, {}, {}, "one array cannot hold string and uint32"),
    "matrix": ({"k": np.zeros((2, 2))}, {}, {}, "array of 2 dimensions"),
    "complex": ({"k": np.zeros(2, complex)}, {}, {}, "no type for NumPy's complex128"),
    "depth": ({"k": eval("[" * 17 + "1" + "]" * 17)}, {}, {}, "nested more than 16 deep"),
    "empty key": ({"": 1}, {}, {}, "metadata key has 0 bytes"),
    "key": ({1: 1}, {}, {}, "metadata key must be a string"),
    "key text": ({"\ud800": 1}, {}, {}, "is not valid Unicode"),
    "long key": ({"k" * 65536: 1}, {}, {}, "metadata key has 65536 bytes"),
    "tensor name": ({}, {"": rows(1)}, {}, "tensor name has 0 bytes"),
    "dimensions": ({}, {"t": np.zeros((1,) * 5, np.float32)}, {}, "more than 4 dimensions"),
    "dtype": ({}, {"t": np.zeros(2, np.uint16)}, {}, "no type for uint16"),
    "object": ({}, {"t": [1.0]}, {}, "a list is not an array, Blocks or Tensor"),
    "blocks": ({}, {"t": Blocks(np.zeros(33, np.uint8), "Q8_0")}, {}, "not rows of whole Q8_0 blocks"),
    "blocks type": ({}, {"t": Blocks(np.zeros(34, np.uint8), "Q8_9")}, {}, "Q8_9"),
    "blocks shape": ({}, {"t": Blocks(np.zeros(34, np.uint8), "Q8_0", (64,))}, {}, "34 of its 68 bytes"),
    "too many bytes": (
        {},
        {"t": Blocks(np.zeros(68, np.uint8), "Q8_0", (32,))},
        {},
        "68 bytes, but its shape takes 34",
    ),
    "version": ({}, {}, {"version": 1}, "version 1 cannot be written"),
    "byteorder": ({}, {}, {"byteorder": "middle"}, "must be 'little' or 'big'"),
    "alignment": ({}, {}, {"alignment": 24}, "alignment is 24; it must be a power of two"),
    "alignment key": ({"general.alignment": Typed("uint64", 32)}, {}, {}, "must be a uint32"),
}


@pytest.mark.parametrize("case", WRITE_ERRORS)
def test_what_cannot_be_written(tmp_path: Path, case: str) -> None:
    metadata, tensors, options, message = WRITE_ERRORS[case]
    with pytest.raises(GGUFError, match=message):
        write(tmp_path / "a.gguf", metadata, tensors, **options)
    assert files(tmp_path) == []


def test_writer_order_and_sizes(tmp_path: Path) -> None:
    infos = [TensorInfo("t", (4,), "F32"), TensorInfo("u", (64,), "Q8_0")]
    with pytest.raises(GGUFError, match="declared twice"):
        Writer(tmp_path / "a.gguf", {}, [infos[0], infos[0]])
    for shape in ((-1,), (1.5,), (True,), (2**62, 2)):
        with pytest.raises(GGUFError, match="tensor 't': shape"):
            Writer(tmp_path / "a.gguf", {}, [TensorInfo("t", shape, "F32")])
    with pytest.raises(GGUFError, match="rows of 40 values"):
        Writer(tmp_path / "a.gguf", {}, [TensorInfo("t", (40,), "Q8_0")])
    with Writer(tmp_path / "a.gguf", {}, infos) as writer:
        for name, data, message in (
            ("u", bytes(34), "the data of 't' come next"),
            ("t", rows(5), "20 bytes, but its shape takes 16"),
            ("t", bytes(3), "3 bytes are not whole F32 blocks"),
            ("t", np.zeros(4), "data of float64 are not F32"),
        ):
            with pytest.raises(GGUFError, match=message):
                writer.append(name, data)
        writer.append("t", rows(4))
        writer.append("u", bytes(68))
        with pytest.raises(GGUFError, match="has its data already"):
            writer.append("u", bytes(34))
    assert files(tmp_path) == ["a.gguf"]
    with pytest.raises(GGUFError, match="there is no folder"):
        write(tmp_path / "no" / "a.gguf", {}, {})
    with pytest.raises(GGUFError, match="is a directory"):
        write(tmp_path, {}, {})


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.gguf"
    metadata = {
        "general.name": "a \x1b[31mname\n",
        "nan": [float("nan"), float("inf"), -1.5],
        "odd": b"\xff",
        "tokens": [f"t{i}" for i in range(1000)],
        "nested": [[1], ["a"]],
    }
    write(path, metadata, {"w": Blocks(np.zeros((3, 34), np.uint8), "Q8_0"), "s": np.float32(1)})
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["metadata"]["nan"] == ["NaN", "Infinity", -1.5]
    assert found["metadata"]["odd"] == "\udcff"
    assert found["metadata"]["tokens"][999] == "t999"
    assert (found["version"], found["byteorder"], found["alignment"]) == (3, "little", 32)
    with open_gguf(path) as f:
        assert found["tensors"] == [
            {"name": "w", "shape": [3, 32], "type": "Q8_0", "nbytes": 102, "offset": f.tensors["w"].offset},
            {"name": "s", "shape": [], "type": "F32", "nbytes": 4, "offset": f.tensors["s"].offset},
        ]
    assert main(["inspect", str(path), "--tensors"]) == 0
    out = capsys.readouterr().out
    assert '1,000: ["t0", "t1", "t2", "t3", ...]' in out
    assert r'"a \x1b[31mname\n"' in out
    assert "\x1b" not in out
    assert "3 x 32" in out
    assert main(["inspect", str(tmp_path / "x.gguf")]) == 1
    assert "no such file" in capsys.readouterr().err


def run_tool(*args: str | Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("type_name", ["F16", "Q4_0", "IQ1_M", "Q4_K_M"])
def test_synthetic_model(tmp_path: Path, type_name: str) -> None:
    path = tmp_path / "m.gguf"
    run_tool(TOOLS / "synthetic.py", path, "--shape", "tiny", "--type", type_name, "--layers", "3")
    with open_gguf(path) as f:
        assert f.metadata["llama.block_count"] == 3
        assert len(f.metadata.strings("tokenizer.ggml.tokens")) == 320 == len(set(f.metadata["tokenizer.ggml.tokens"]))
        assert f.metadata.type("tokenizer.ggml.token_type") == "array[int32]"
        assert {t.type for t in f.tensors.values()} == (
            {"Q4_K", "Q6_K", "F32"} if type_name == "Q4_K_M" else {type_name, "F32"}
        )
        for tensor in f.tensors.values():
            weights = tensor.to_numpy()
            assert np.isfinite(weights).all()
            if weights.ndim == 2:
                assert 0.8 < weights.std() * weights.shape[1] ** 0.5 < 1.25


def test_synthetic_models_of_a_seed_are_the_same(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_tool(TOOLS / "synthetic.py", tmp_path / name, "--type", "Q8_0", "--seed", str(seed))
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_fuzz_a_little(tmp_path: Path) -> None:
    assert "fuzz: 3,000 cases" in run_tool(TOOLS / "fuzz.py", "--count", "3000", "--seed", "5")


@pytest.mark.slow
def test_fuzz_at_length() -> None:
    assert "fuzz: 100,000 cases" in run_tool(TOOLS / "fuzz.py", "--count", "100000", "--seed", "6")


def test_examples(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, {"general.architecture": "llama"}, {"w": rows(4).reshape(2, 2), "v": rows(2)})
    assert "general.architecture" in run_tool(EXAMPLES / "inspect_file.py", path)
    assert "shape (2, 2)" in run_tool(EXAMPLES / "read_tensor.py", path, "w")
    write(path, {"general.architecture": "llama", "llama.block_count": 1}, {"output.weight": rows(64).reshape(2, 32)})
    out = run_tool(EXAMPLES / "quantise_file.py", path, tmp_path / "q.gguf", "Q8_0")
    assert "output.weight: F32 -> Q8_0, 68 bytes" in out


def test_every_type_that_quants_know_has_its_layout() -> None:
    from ggufpy.format.blocktypes import by_id, by_name

    for name in quants.names():
        block = quants.get(name)
        assert by_name(name) == by_id(block.id)
        assert (by_name(name).weights, by_name(name).nbytes) == (block.weights, block.nbytes)
