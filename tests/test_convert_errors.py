"""Checkpoints that cannot be converted, on the command line: one line with file, reason and remedy, and no file left.

What may be wrong within a header, a tokenizer.json or a pickle in detail: test_convert.py,
test_convert_vocabulary_hostile.py, test_pickles.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkpoints import CONFIG, raw_safetensors, weights, write

from ggufpy import cli

Damage = Callable[[Path], object]
CONFIGURED, MODEL, WORDS = "config.json", "model.safetensors", "tokenizer.json"
INDEX, SECOND = "model.safetensors.index.json", "model-00002-of-00003.safetensors"
LOST = "model.layers.1.mlp.up_proj.weight"
AGAIN = "download the file again"


@dataclass(frozen=True)
class Case:
    """What is done to a good checkpoint, and what the line has: file, reason, what to do."""

    damage: Damage
    file: str
    reason: str
    remedy: str
    options: tuple[str, ...] = ("--no-vocab",)


def replaced(name: str, content: str | bytes) -> Damage:
    """A file of this content in place of what is there."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut(left: int) -> Damage:
    """The first `left` bytes of the weights; of a number below 0 all but the last."""
    return lambda folder: (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:left])


def config(reason: str, remedy: str, **changes: Any) -> Case:
    """config.json with other values, without those that are None."""
    values = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    return Case(replaced(CONFIGURED, json.dumps(values)), CONFIGURED, reason, remedy)


def header(reason: str, content: Any, data: bytes = b"", remedy: str = AGAIN) -> Case:
    """Weights with this header, an object or bytes."""
    return Case(replaced(MODEL, raw_safetensors(content, data)), MODEL, reason, remedy)


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def tokenizer(reason: str, content: Any) -> Case:
    """A tokenizer.json, a text or an object."""
    text = content if isinstance(content, str) else json.dumps(content)
    return Case(replaced(WORDS, text), WORDS, reason, "; --no-vocab converts without the tokenizer", ())


def model(vocab: Any, **more: Any) -> dict[str, Any]:
    """Parts of a tokenizer.json with a vocabulary of BPE."""
    return {"model": {"type": "BPE", "vocab": vocab, "merges": []}, **more}


def without_a_shard(folder: Path) -> None:
    (write(folder, weights(), shards=3) / SECOND).unlink()


def outside(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {LOST: "../../secret.safetensors"}}))


def pickled(folder: Path) -> None:
    (folder / MODEL).rename(folder / "pytorch_model.bin")


def without_a_tensor(folder: Path) -> None:
    write(folder, {name: values for name, values in weights().items() if name != LOST})


ONE = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
SPLIT = {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": False}
HALF = '{"model": {"type": "BPE", "vocab": {"\\ud800": 0}, "merges": []}}'

CASES = {
    "no folder": Case(shutil.rmtree, "hf", "is no folder", "a checkpoint is a folder with config.json"),
    "no config.json": Case(gone(CONFIGURED), "hf", "has no config.json", "give the folder of a Hugging Face"),
    "no weights": Case(gone(MODEL), "hf", "has no weights", "neither .safetensors nor pytorch_model.bin is there"),
    "no tokenizer": Case(gone("README.md"), "hf", "has no tokenizer", "download the missing files", ()),
    "no such type": Case(gone("README.md"), "Q4_Q", "there is no file type", "did you mean", ("--type", "Q4_Q")),
    "a config of half a line": Case(replaced(CONFIGURED, '{"model'), CONFIGURED, "is not valid JSON", "hf"),
    "an unknown architecture": config(
        "architectures is 'NoSuchModel', which ggufpy does not", "it converts: Be", architectures=["NoSuchModel"]
    ),
    "no architecture": config("architectures is nothing, which", "LlamaForCausalLM", architectures=None),
    "no width": config("has no hidden_size", "which this architecture needs", hidden_size=None),
    "a width in words": config("hidden_size is '64'", "it must be a whole number", hidden_size="64"),
    "a shape against the config": config(
        "tensor blk.0.ffn_gate.weight has shape (96, 64); (128, 64) expected", "take both from one model",
        intermediate_size=128,
    ),
    "a tensor that is missing": Case(without_a_tensor, LOST, "is missing from the checkpoint", "download it again"),
    "a shard that is missing": Case(without_a_shard, SECOND, f"named by {INDEX}, is missing", "download"),
    "a shard elsewhere": Case(outside, INDEX, "names '../../secret.safetensors'", "which is no file of this folder"),
    "a pickle without leave": Case(pickled, "pytorch_model.bin", "a pickle of PyTorch", "pass --allow-pickle"),
    "a pickle that is none": Case(
        pickled, "pytorch_model.bin", "its pickle has the instruction", "do not need", ("--no-vocab", "--allow-pickle")
    ),
    "weights that are cut short": Case(cut(-100), MODEL, "it is cut short", AGAIN),
    "a header that is cut short": Case(cut(40), MODEL, "its header would take", AGAIN),
    "an empty file": Case(cut(0), MODEL, "it has 0 bytes", AGAIN),
    "a header of a huge length": Case(replaced(MODEL, b"\xff" * 8 + b"{}"), MODEL, "its header would take", AGAIN),
    "a header that is no JSON": header("its header is not valid JSON", b"{nope"),
    "a header of brackets": header("its header is not valid JSON", b"[" * 100_000),
    "tensors that overlap": header(
        "tensor 'b' overlaps what is before it", {"a": entry(0, 8, 2), "b": entry(4, 12, 2)}, b"\0" * 12
    ),
    "a gap between tensors": header(
        "tensor 'b' leaves 4 bytes before it unused", {"a": entry(0, 4, 1), "b": entry(8, 12, 1)}, b"\0" * 12
    ),
    "a gap behind tensors": header("its tensors take", {"a": entry(0, 4, 1)}, b"\0" * 12),
    "a tensor beyond the file": header("it is cut short", {"a": entry(0, 1 << 40, 1 << 38)}, b"\0" * 8),
    "a shape beyond numbers": header("tensor 'a' has 8 bytes", {"a": entry(0, 8, 1 << 62, 1 << 62)}, b"\0" * 8),
    "a name twice": header("its header has 'a' twice", f"{{{ONE}, {ONE}}}".encode(), b"\0" * 4),
    "a name with control characters": header("has 8 bytes", {"\n\x1b[31m\u202e": entry(0, 8, 1)}, b"\0" * 8),
    "a dtype of the future": header(
        "tensor 'a' is of dtype 'F1'", {"a": entry(0, 4, 1, dtype="F1")}, b"\0" * 4, "which ggufpy does not know"
    ),
    "a tokenizer of half a line": tokenizer("is not valid JSON", '{"model'),
    "a tokenizer of brackets": tokenizer("is nested too deep", "[" * 100_000),
    "a tokenizer without a model": tokenizer("the kind 'None'", {}),
    "a token of an enormous id": tokenizer("has a token 1000000000", model({"a": 0, "b": 10**9})),
    "tokens of one id": tokenizer("'a' and 'b' both have the id 0", model({"a": 0, "b": 0})),
    "more tokens than rows": tokenizer(
        "the embedding has 96 rows", model({chr(256 + i): i for i in range(97)})
    ),
    "half a character": tokenizer("token 0 is not valid Unicode", HALF),
    "an expression that is none": tokenizer("end of char-class", model({"a": 0}, pre_tokenizer=SPLIT)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_converted_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, folder, out = CASES[name], write(tmp_path / "hf", weights()), tmp_path / "out"
    (folder / "README.md").write_text("A model.")
    case.damage(folder)
    out.mkdir()
    (out / "there.gguf").write_bytes(b"old")
    for target in ("new.gguf", "there.gguf"):
        assert cli.main(["convert", str(folder), "-o", str(out / target), *case.options]) == 1
        printed, line = capsys.readouterr()
        assert (printed, line.count("\n"), line[-1]) == ("", 1, "\n")
        assert line.startswith("ggufpy convert: ")
        assert line[:-1].isprintable()
        assert len(line) < 4000  # the classes that there are take half of it
        for part in (case.file, case.reason, case.remedy):
            assert part in line
    assert os.listdir(out) == ["there.gguf"]
    assert (out / "there.gguf").read_bytes() == b"old"
