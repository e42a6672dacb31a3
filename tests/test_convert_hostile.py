"""Checkpoints that are made to do harm, by their names, shapes and counts: one clear line each, and soon."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CONFIG, raw_safetensors, weights, write

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.names import canonical
from ggufpy.errors import GGUFError
from ggufpy.quantizer import QuantizeOptions, quantize_file

PLAIN = ConvertOptions("F32", no_vocab=True)
DIGITS = "9" * 5000  # more than Python makes a number of


def refused(folder: Path, match: str, options: ConvertOptions = PLAIN) -> None:
    target = folder.parent / "refused.gguf"
    with pytest.raises(GGUFError, match=match) as caught:
        convert(folder, target, options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert not target.exists()


class OneLine(Exception):
    """A GGUFError whose message is one line."""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Whatever goes wrong within is a GGUFError of one line."""
    try:
        yield
    except GGUFError as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error
        raise OneLine from None


def mixtral(experts: int = 2, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A mixture of experts in a layer, and its config.json."""
    config = {**CONFIG, "architectures": ["MixtralForCausalLM"], "num_hidden_layers": 1, "num_local_experts": experts,
              "num_experts_per_tok": 1, **changes}  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = {name: value for name, value in weights({**CONFIG, "num_hidden_layers": 1}).items() if "mlp" not in name}
    at = "model.layers.0.block_sparse_moe."
    tensors[f"{at}gate.weight"] = rng.standard_normal((experts, 64)).astype(np.float32)
    for i in range(experts):
        for name, shape in (("w1", (96, 64)), ("w2", (64, 96)), ("w3", (96, 64))):
            tensors[f"{at}experts.{i}.{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
    return tensors, config


def test_numbers_in_names_that_python_does_not_read(tmp_path: Path) -> None:
    tensors, config = mixtral()
    convert(write(tmp_path / "good", tensors, config), tmp_path / "m.gguf", PLAIN)
    name = f"model.layers.0.block_sparse_moe.experts.{DIGITS}.w1.weight"
    refused(write(tmp_path / "bad", {**tensors, name: np.ones((96, 64), np.float32)}, config), "they would be lost")
    refused(write(tmp_path / "b", {**tensors, f"model.layers.{DIGITS}.x": np.ones(4, np.float32)}, config), "be lost")


def test_layers_of_a_file_that_no_number_names(tmp_path: Path) -> None:
    """Quantising goes by layers too."""
    convert(write(tmp_path / "hf", weights()), tmp_path / "m.gguf", PLAIN)
    with gguf.open(tmp_path / "m.gguf") as file:
        tensors = {**file.tensors, f"blk.{DIGITS}.ffn_up.weight": np.ones((64, 64), np.float32)}
        gguf.write(tmp_path / "odd.gguf", file.metadata, tensors)
    report = quantize_file(tmp_path / "odd.gguf", tmp_path / "q.gguf", "Q8_0", QuantizeOptions(threads=1))
    assert len(report.tensors) == len(tensors)


def test_wrappers_within_wrappers_without_end() -> None:
    """Each that is taken off may let another show, and the name be gone through again."""
    name = "base_model." * 2000 + "model." * 2000 + "x"
    (made,) = canonical({name: 1}, "model.|embed_tokens.weight")
    assert made.count("base_model.") > 1900
    (made,) = canonical({"base_model.module.model._orig_mod.module.x": 1}, "model.|embed_tokens.weight")
    assert made == "x"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_hidden_layers": 2**32 - 1}, "4294967295 layers, more than any model has"),
        ({"num_hidden_layers": 8000}, "is missing"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is"),
        ({"num_hidden_layers": 1e300}, "num_hidden_layers is"),
        ({"num_attention_heads": 2**32 - 1}, "rows are not"),
        ({"hidden_size": 2**32 - 1}, "does not fit"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"max_position_embeddings": 2**40}, "max_position_embeddings"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is nothing"),
        ({"architectures": [["x"], 5, None]}, "architectures is nothing"),
        ({"text_config": []}, ""),
        ({"rope_scaling": [1]}, "a mapping"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_counts(tmp_path: Path, changes: Any, match: str) -> None:
    tensors, config = mixtral()
    folder = write(tmp_path / "hf", tensors, {**config, **changes})
    if match:
        refused(folder, match)
    else:
        convert(folder, tmp_path / "m.gguf", PLAIN)


def test_experts_that_no_tensor_has(tmp_path: Path) -> None:
    tensors, config = mixtral()
    fused = {name: value for name, value in tensors.items() if "block_sparse_moe" not in name}
    fused["model.layers.0.mlp.gate.weight"] = np.ones((2, 64), np.float32)
    fused["model.layers.0.mlp.experts.gate_up_proj"] = np.ones((2, 192, 64), np.float32)
    fused["model.layers.0.mlp.experts.down_proj"] = np.ones((2, 64, 96), np.float32)
    convert(write(tmp_path / "good", fused, config), tmp_path / "m.gguf", PLAIN)
    many = {**config, "num_local_experts": 2**32 - 1}
    report = convert(write(tmp_path / "pruned", fused, many), tmp_path / "m.gguf", PLAIN)
    assert "the model was pruned: 2 experts of 4294967295 are there" in report.notes
    none = {name: value for name, value in fused.items() if "experts" not in name}
    refused(write(tmp_path / "bad", none, many), "says that there are 4294967295 experts, and no tensor is of so many")
    for shape in ((384, 64), (8,), (), (1, 2, 192, 64)):
        bad = {**fused, "model.layers.0.mlp.experts.gate_up_proj": np.ones(shape, np.float32)}
        refused(write(tmp_path / "bad", bad, {**config, "num_local_experts": 2}), "gate_up_proj|does not fit|no tensor")


def test_pruned_experts_beside_those_that_predict_further_tokens(tmp_path: Path) -> None:
    """Who prunes may leave the layer alone that predicts the token after the next."""
    tensors, config = mixtral(2)
    more = {name.replace("model.layers.0.", "mtp.layers.0."): value
            for name, value in mixtral(3)[0].items() if "layers.0." in name}  # fmt: skip
    folder = write(tmp_path / "hf", {**tensors, **more}, {**config, "num_local_experts": 3})
    report = convert(folder, tmp_path / "m.gguf", PLAIN)
    assert "the model was pruned: 2 experts of 3 are there" in report.notes
    assert any("MTP" in note for note in report.notes)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", []), ("model.embed_tokens.weight", [0]),
        ("model.layers.0.self_attn.q_proj.weight", [1 << 40, 0]), ("model.layers.0.self_attn.q_proj.weight", []),
        ("model.layers.0.self_attn.q_proj.weight", [0, 1 << 40]), ("model.layers.0.mlp.up_proj.weight", [1 << 40, 0]),
        ("model.norm.weight", [0]), ("model.norm.weight", [64, 1]), ("lm_head.weight", [1 << 62, 0]),
    ],
)  # fmt: skip
def test_shapes(tmp_path: Path, name: str, shape: list[int]) -> None:
    """A tensor of no numbers may say that it has any number of rows."""
    folder = write(tmp_path / "hf", weights())
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    begin, end = header[name]["data_offsets"]
    size = 4 * int(np.prod(shape, dtype=np.float64)) if 0 not in shape else 0
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] > begin:
            entry["data_offsets"] = [at - (end - begin) + size for at in entry["data_offsets"]]
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + size]}
    (folder / "model.safetensors").write_bytes(raw_safetensors(header, data[: begin + size] + data[end:]))
    refused(folder, "no numbers|does not fit|rows are not")


def test_names_of_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", weights(), shards=2)
    index = folder / "model.safetensors.index.json"
    for bad in ("a" * 300, "é" * 200, "a\nb.safetensors", "\x1b[31m", "\ud800", "a\0b", "..", "b/../a"):
        index.write_text(json.dumps({"weight_map": {"a": bad}}))
        refused(folder, "which is no file of this folder")
    index.write_text(json.dumps({"weight_map": {"a": "gone" * 60}}))
    refused(folder, "missing: download")


def test_a_pickle_is_read_with_leave_alone_whatever_names_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", weights(), shards=2)
    (folder / "weights.bin").write_bytes(b"PK\3\4")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "weights.bin"}}))
    refused(folder, "weights.bin, a pickle of PyTorch: pass --allow-pickle")
    refused(folder, "no whole zip file", ConvertOptions("F32", no_vocab=True, allow_pickle=True))


def test_what_is_said_of_parts_that_are_left_out_is_on_one_line(tmp_path: Path) -> None:
    tensors = {**weights(), "vision\n\x1b[31m.vision.layers.0.w": np.ones((4, 4), np.float32)}
    report = convert(write(tmp_path / "hf", tensors), tmp_path / "m.gguf", PLAIN)
    (note,) = [note for note in report.notes if "only the text half" in note]
    assert note.isprintable()


@pytest.mark.slow
def test_any_value_of_config_json_gives_a_file_or_one_line(tmp_path: Path) -> None:
    """Each value of config.json in turn becomes something else."""
    tensors, config = mixtral()
    config |= {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "head_dim": 16, "quantization_config": None,
               "sliding_window": 8, "attention_bias": False, "text_config": None, "torch_dtype": "float32"}  # fmt: skip
    folder = write(tmp_path / "hf", tensors, config)
    odd = [None, True, -1, 0, 1, 0.5, 1e300, 10**30, "", "x", [], [1], {}, {"a": 1}, [[]], float("nan"), "16"]
    for key in config:
        for value in odd:
            (folder / "config.json").write_text(json.dumps({**config, key: value}))
            for options in (PLAIN, ConvertOptions(quantize=QuantizeOptions(dry_run=True), no_vocab=True)):
                with contextlib.suppress(OneLine), one_line():
                    convert(folder, tmp_path / "m.gguf", options)
