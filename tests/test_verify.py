"""`verify`: scales and floats that are not finite are found where they are, and metadata that contradict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufpy import quants
from ggufpy.cli import main
from ggufpy.format import Blocks, Typed, blocktypes, verification, write
from ggufpy.format import open as open_gguf

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.block_count": 2,
    "llama.attention.head_count": 2,
    "llama.feed_forward_length": 16,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.scores": [0.0, 1.0, 2.0],
    "tokenizer.ggml.token_type": Typed("array[int32]", [1, 1, 1]),
    "tokenizer.ggml.eos_token_id": 2,
}
TENSORS = {
    "token_embd.weight": np.ones((3, 8), np.float32),
    "blk.0.w": np.ones((2, 8), np.float16),
    "blk.1.w": np.ones(4, np.float32),
}
# Types whose decoded values say something else: a field that decoding does not need, a NaN that ggml decodes as a
# number, and a float32 scale that overflows only when it is multiplied.
PARTICULAR = ("Q8_1", "MXFP4", "Q8_K")


def verify(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> dict[str, Any]:
    status = main(["verify", str(path), *words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["ok"] == (not found["problems"]) == (status == 0)
    return found


def messages(found: dict[str, Any]) -> list[str]:
    return [problem["message"] for problem in found["problems"]]


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("name", quants.names())
def test_random_blocks_are_bad_where_they_decode_to_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, byteorder: str
) -> None:
    monkeypatch.setattr(verification, "PIECE", 1000)
    layout, rows, blocks = blocktypes.by_name(name), 6, 40
    data = np.random.default_rng(layout.id).integers(0, 256, (rows, blocks * layout.nbytes), dtype=np.uint8)
    path = tmp_path / "m.gguf"
    metadata = {"general.architecture": "none", "general.type": "other"}
    write(path, metadata, {"first": np.ones(3, np.float32), "t": Blocks(data, name)}, byteorder=byteorder)
    with open_gguf(path) as file:
        values = file.tensors["t"].to_numpy()
        offset = file.tensors["t"].offset
    if name in PARTICULAR:
        record = data.reshape(-1, layout.nbytes).view(quants.get(name).record).reshape(-1)
        fields = [record[f.name].astype(np.float32) for f in quants.get(name).layout if f.dtype in ("f16", "f32")]
        bad = ~np.isfinite(fields).all(axis=0) if fields else record["e"] == 255
    else:
        bad = ~np.isfinite(values.reshape(rows * blocks, layout.weights)).all(axis=1)
    found = verify(capsys, path, "-t", "2")
    if not bad.any():
        assert found["ok"]
        return
    (problem,) = found["problems"]
    first = int(bad.argmax())
    assert (problem["tensor"], problem["count"]) == ("t", int(bad.sum()))
    assert problem["index"] == [first // blocks, first % blocks * layout.weights]
    assert problem["offset"] == offset + first * layout.nbytes


@pytest.mark.parametrize("name", [name for name in quants.names() if name[0] not in "IF" or name[:2] == "IQ"])
def test_one_bad_scale_among_good_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    block = quants.get(name)
    data = np.ones((5, 4 * block.nbytes), np.uint8)
    path = tmp_path / "m.gguf"
    write(path, METADATA, {**TENSORS, "t": Blocks(data, name)})
    assert verify(capsys, path)["ok"]
    if name == "NVFP4":  # every byte of its scales is a number
        return
    record = data[3, 2 * block.nbytes : 3 * block.nbytes].view(block.record)
    if name == "IQ1_M":
        record["scales"][0] = [0, 0, 0xC000, 0x7000]
    elif name == "MXFP4":
        record["e"] = 255
    else:
        record[next(f.name for f in block.layout if f.dtype in ("f16", "bf16", "f32"))] = (
            0x7F80 if name == "BF16" else np.inf
        )
    write(path, METADATA, {**TENSORS, "t": Blocks(data, name)})
    found = verify(capsys, path)
    (problem,) = found["problems"]
    assert (problem["count"], problem["index"]) == (1, [3, 2 * block.weights])
    if block.weights > 1:
        assert problem["message"].startswith(f"tensor 't': 1 of 20 {name} blocks have an infinite or NaN scale (")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_floats_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: type) -> None:
    array = np.full((3, 4, 5), np.finfo(dtype).max, dtype)
    array[1, 2, 3], array[2, 0, 0], array[2, 3, 4] = np.nan, -np.inf, np.inf
    write(tmp_path / "m.gguf", METADATA, {**TENSORS, "t": array, "one": np.array(np.nan, dtype)})
    found = verify(capsys, tmp_path / "m.gguf")
    size = np.dtype(dtype).itemsize
    with open_gguf(tmp_path / "m.gguf") as file:
        first = file.tensors["t"].offset + size * 33
        single = file.tensors["one"].offset
    assert messages(found) == [
        f"tensor 't': 3 of 60 values are infinite or NaN, the first at [1, 2, 3], byte {first}",
        f"tensor 'one': 1 of 1 values are infinite or NaN, the first at [], byte {single}",
    ]


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    write(path, METADATA, TENSORS)
    found = verify(capsys, path)
    assert (found["ok"], found["files"], found["tensors"], found["bytes"]) == (True, 1, 3, 96 + 32 + 16)
    assert (found["problems"], found["warnings"]) == ([], [])
    assert main(["verify", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: ok (1 file, 3 tensors, 144 B in ")
    main(["split", str(path), str(tmp_path / "s"), "--split-max-tensors", "2"])
    capsys.readouterr()
    assert verify(capsys, tmp_path / "s-00002-of-00002.gguf")["files"] == 2


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no architecture": ({"general.architecture": None}, {}, "there is no general.architecture"),
    "architecture is a number": ({"general.architecture": 3}, {}, "there is no general.architecture"),
    "missing key": ({"llama.context_length": None}, {}, "there is no llama.context_length"),
    "missing key of llama": ({"llama.attention.head_count": None}, {}, "there is no llama.attention.head_count"),
    "scores": ({"tokenizer.ggml.scores": [1.0]}, {}, "scores has 1 elements, and tokenizer.ggml.tokens has 3"),
    "token types": (
        {"tokenizer.ggml.token_type": ["a", "b", "c"]},
        {},
        "token_type is array[string], not array[int32]",
    ),
    "tokens": ({"tokenizer.ggml.tokens": [1, 2, 3]}, {}, "tokenizer.ggml.tokens is array[uint32], not array[string]"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, {}, "there is no tokenizer.ggml.tokens"),
    "special token": ({"tokenizer.ggml.eos_token_id": 3}, {}, "eos_token_id is 3, and there are 3 tokens"),
    "special text": ({"tokenizer.ggml.bos_token_id": "x"}, {}, "bos_token_id is 'x', and there are 3 tokens"),
    "rows": (
        {},
        {"token_embd.weight": np.ones((4, 8), np.float32)},
        "token_embd.weight has 4 rows, and tokenizer.ggml.tokens has 3",
    ),
    "width": ({"llama.embedding_length": 9}, {}, "rows of 8, and llama.embedding_length is 9"),
    "dimensions": ({}, {"token_embd.weight": np.ones(8, np.float32)}, "token_embd.weight has shape [8]"),
    "fewer layers": ({"llama.block_count": 3}, {}, "there is no tensor of layer 2 (blk.2.), and the block_count is 3"),
    "more layers": ({"llama.block_count": 1}, {}, "there are tensors of layer 1, and the block_count is 1"),
    "huge count": ({"llama.block_count": 2**32 - 1}, {}, "there is no tensor of layer 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_metadata_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    changes, tensors, message = WRONG[case]
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    write(tmp_path / "m.gguf", metadata, {**TENSORS, **tensors})
    found = messages(verify(capsys, tmp_path / "m.gguf"))
    assert len(found) == 1
    assert message in found[0]
    assert main(["verify", str(tmp_path / "m.gguf")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == found[0]
    assert ": 1 problem (1 file" in lines[1]


@pytest.mark.parametrize("changes", [
    {"tokenizer.ggml.eos_token_id": 2**32 - 1},
    {"tokenizer.ggml.token_type": Typed("array[uint32]", [1, 1, 1])},
    {"general.type": "adapter", "llama.context_length": None},
])  # fmt: skip
def test_metadata_that_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]) -> None:
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    write(tmp_path / "m.gguf", metadata, TENSORS)
    assert verify(capsys, tmp_path / "m.gguf")["ok"]
    write(tmp_path / "v.gguf", {k: v for k, v in METADATA.items() if k[:6] != "llama."}, {})  # a vocabulary
    assert verify(capsys, tmp_path / "v.gguf")["ok"]


def test_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    write(path, METADATA, {**TENSORS, "bare": np.zeros(40, np.float32), "small": np.zeros(4, np.float32)})
    with path.open("ab") as file:
        file.write(bytes(100))
    found = verify(capsys, path)
    assert found["ok"]
    assert len(found["warnings"]) == 2
    assert found["warnings"][0].endswith("bytes follow the last tensor")
    assert found["warnings"][1] == "tensor 'bare' is all zeros; was the file fetched to its end?"
    main(["verify", str(path)])
    assert capsys.readouterr().out.startswith("warning: ")


def test_many_problems_are_shown_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "m.gguf", METADATA, {**TENSORS, **{f"t{i}": np.full(2, np.nan, np.float32) for i in range(30)}})
    assert len(verify(capsys, tmp_path / "m.gguf")["problems"]) == 30
    assert main(["verify", str(tmp_path / "m.gguf")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert lines[20] == "and 10 more (--json lists them)"


def test_files_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    write(path, METADATA, TENSORS)
    path.write_bytes(path.read_bytes()[:-60])
    (message,) = messages(verify(capsys, path))
    assert "pass the end of the file" in message
    assert main(["verify", str(path)]) == 1
    assert capsys.readouterr().err == f"ggufpy verify: {message}\n"
