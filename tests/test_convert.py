"""Converting checkpoints: what comes out, what is kept, what is refused, and what memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from checkpoints import CONFIG, HEADS, SHARED, raw_safetensors, weights, write

from ggufpy import cli
from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export
from ggufpy.convert.safetensors import open_safetensors
from ggufpy.errors import GGUFError
from ggufpy.quantizer import QuantizeOptions

PLAIN = ConvertOptions("F32", no_vocab=True)


def paired(x: Any, heads: int) -> Any:
    """Rows of heads whose halves are put side by side."""
    return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def read(path: Path) -> dict[str, Any]:
    with gguf.open(path) as file:
        return {name: tensor.to_numpy() for name, tensor in file.tensors.items()}


@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_and_keys(tmp_path: Path, shards: int) -> None:
    tensors = weights()
    report = convert(write(tmp_path / "hf", tensors, shards=shards), tmp_path / "m.gguf", PLAIN)
    made = read(tmp_path / "m.gguf")
    assert len(made) == len(tensors) == len(report.tensors)
    np.testing.assert_array_equal(made["token_embd.weight"], tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(made["output.weight"], tensors["lm_head.weight"])
    for i in range(2):
        at = f"model.layers.{i}.self_attn."
        np.testing.assert_array_equal(made[f"blk.{i}.attn_q.weight"], paired(tensors[f"{at}q_proj.weight"], HEADS))
        np.testing.assert_array_equal(made[f"blk.{i}.attn_k.weight"], paired(tensors[f"{at}k_proj.weight"], SHARED))
        np.testing.assert_array_equal(made[f"blk.{i}.attn_v.weight"], tensors[f"{at}v_proj.weight"])
    with gguf.open(tmp_path / "m.gguf") as file:
        assert file.metadata["general.architecture"] == "llama"
        assert file.metadata["llama.attention.head_count_kv"] == SHARED
        assert file.metadata["general.file_type"] == 0


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_auto_keeps_the_type_and_comes_back(tmp_path: Path, dtype: str) -> None:
    folder = write(tmp_path / "hf", weights(), dtype=dtype)
    convert(folder, tmp_path / "m.gguf", ConvertOptions(no_vocab=True))
    with gguf.open(tmp_path / "m.gguf") as file:
        types = {name: tensor.type for name, tensor in file.tensors.items()}
        assert types["blk.0.attn_q.weight"] == dtype
        assert types["blk.0.attn_norm.weight"] == "F32"
        export(file, tmp_path / "back")
    before, after = (open_safetensors(path / "model.safetensors").tensors for path in (folder, tmp_path / "back"))
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape)
        np.testing.assert_array_equal(tensor.array, after[name].array)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: config[key] for key in CONFIG if key in config} == {k: v for k, v in CONFIG.items() if k in config}


def test_big_endian_and_split_files_have_the_same_numbers(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", weights())
    convert(folder, tmp_path / "m.gguf", PLAIN)
    expected = read(tmp_path / "m.gguf")
    limits = gguf.split.Limits(bytes=50_000)
    for name, options in (("big", QuantizeOptions(byteorder="big")), ("cut", QuantizeOptions(limits=limits))):
        report = convert(folder, tmp_path / f"{name}.gguf", ConvertOptions("F32", options, no_vocab=True))
        made = read(Path(report.files[0]))
        assert set(made) == set(expected)
        for tensor, values in expected.items():
            np.testing.assert_array_equal(made[tensor], values)
    with gguf.open(tmp_path / "big.gguf") as file:
        assert file.byteorder == "big"
    assert len(report.files) > 3


def test_names_of_tools_and_wrapped_models(tmp_path: Path) -> None:
    tensors = weights()
    convert(write(tmp_path / "plain", tensors), tmp_path / "m.gguf", PLAIN)
    expected = read(tmp_path / "m.gguf")
    wrapped: Mapping[str, Callable[[str], str]] = {
        "compiled": lambda name: f"_orig_mod.{name}",
        "ddp": lambda name: f"module.{name}",
        "peft": lambda name: f"base_model.model.{name}".replace("q_proj.", "q_proj.base_layer."),
        "body": lambda name: name.removeprefix("model."),
        "multimodal": lambda name: f"language_model.{name}",
        "newer": lambda name: name.replace("model.", "model.language_model.", 1),
    }
    for kind, rename in wrapped.items():
        folder = write(tmp_path / kind, {rename(name): values for name, values in tensors.items()})
        convert(folder, tmp_path / "other.gguf", PLAIN)
        made = read(tmp_path / "other.gguf")
        assert set(made) == set(expected), kind
        for name, values in expected.items():
            np.testing.assert_array_equal(made[name], values)


def test_what_is_left_out_of_a_multimodal_model_is_said(tmp_path: Path) -> None:
    inner = {key: value for key, value in CONFIG.items() if key not in ("architectures",)}
    config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": {**inner, "model_type": "llama"}}
    tensors = {f"language_model.{name}": values for name, values in weights().items()}
    tensors["vision_tower.encoder.layers.0.mlp.weight"] = np.ones((4, 4), np.float32)
    report = convert(write(tmp_path / "hf", tensors, config), tmp_path / "m.gguf", PLAIN)
    assert any("only the text half" in note and "vision_tower" in note for note in report.notes)
    assert len(read(tmp_path / "m.gguf")) == len(tensors) - 1


def test_a_head_that_is_tied_is_not_written(tmp_path: Path) -> None:
    tensors = weights()
    convert(write(tmp_path / "hf", tensors, {**CONFIG, "tie_word_embeddings": True}), tmp_path / "m.gguf", PLAIN)
    assert "output.weight" not in read(tmp_path / "m.gguf")


# -- what cannot be ------------------------------------------------------------------------------------------------


def refused(folder: Path, match: str, options: ConvertOptions = PLAIN) -> None:
    target = folder.parent / "refused.gguf"
    with pytest.raises(GGUFError, match=match) as caught:
        convert(folder, target, options)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_folders_that_are_no_checkpoints(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no config.json")
    (tmp_path / "empty" / "config.json").write_text(json.dumps(dict(CONFIG)))
    refused(tmp_path / "empty", "has no weights")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path / "empty", "--allow-pickle")
    (tmp_path / "empty" / "config.json").write_text("[1, 2")
    refused(tmp_path / "empty", "is not valid JSON")
    (tmp_path / "empty" / "config.json").write_text("[" * 100_000)
    refused(tmp_path / "empty", "is not valid JSON")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architectures": ["NoSuchModel"]}, "'NoSuchModel', which ggufpy does not convert; .*LlamaForCausalLM"),
        ({"architectures": None}, "architectures is nothing"),
        ({"hidden_size": "64"}, "hidden_size is '64'; it must be a whole number"),
        ({"hidden_size": None}, "config.json has no hidden_size"),
        ({"num_hidden_layers": 3}, r"model.layers.2.input_layernorm.weight' is missing"),
        ({"num_hidden_layers": 1}, "has tensors that its architecture has not"),
        ({"intermediate_size": 128}, r"does not fit .*: tensor blk.0.ffn_gate.weight has shape \(96, 64\)"),
        ({"num_attention_heads": 5}, "rows are not 5 heads"),
        ({"rope_scaling": {"rope_type": "strange", "factor": 2.0}}, "rope_type is 'strange'"),
        ({"quantization_config": {"quant_method": "secret"}}, "quantised by 'secret', which ggufpy does not know"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configs_that_do_not_fit(tmp_path: Path, changes: Any, match: str) -> None:
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    refused(write(tmp_path / "hf", weights(), config), match)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    tensors = weights()
    name = "model.layers.1.mlp.up_proj.weight"
    refused(write(tmp_path / "a", {k: v for k, v in tensors.items() if k != name}), f"{name}' is missing")
    refused(write(tmp_path / "b", {**tensors, "model.layers.0.strange.weight": tensors[name]}), "they would be lost")
    refused(write(tmp_path / "c", {**tensors, name: np.full_like(tensors[name], np.nan)}), "is nan")
    refused(write(tmp_path / "d", {**tensors, f"module.{name}": tensors[name]}), "both stand for")


def test_shards(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", weights(), shards=3)
    (folder / "model-00002-of-00003.safetensors").rename(folder / "gone")
    refused(folder, "model-00002-of-00003.safetensors, named by model.safetensors.index.json, is missing")
    index = folder / "model.safetensors.index.json"
    for bad in ("../model.safetensors", "/etc/passwd", "..", ""):
        index.write_text(json.dumps({"weight_map": {"a": bad}}))
        refused(folder, "which is no file of this folder")
    index.write_text(json.dumps({"weight_map": [1]}))
    refused(folder, "has no weight_map")


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "too few"),
        (b"\xff" * 8, "cut short, or none of safetensors"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "cut short, or none of safetensors"),
        (raw_safetensors(b"{nope"), "not valid JSON"),
        (raw_safetensors(b"\xff\xfe"), "not valid JSON"),
        (raw_safetensors(b"[" * 100_000), "not valid JSON"),
        (raw_safetensors([1]), "not an object"),
        (raw_safetensors(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
                         b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"\0" * 4), "'a' twice"),
        (raw_safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12), "overlaps"),
        (raw_safetensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12), "leaves 4 bytes before"),
        (raw_safetensors({"a": entry([1], 4, 8)}, b"\0" * 8), "leaves 4 bytes"),
        (raw_safetensors({"a": entry([2], 0, 8)}, b"\0" * 4), "cut short"),
        (raw_safetensors({"a": entry([2], 0, 8)}, b"\0" * 12), "it has"),
        (raw_safetensors({"a": entry([3], 0, 8)}, b"\0" * 8), "has 8 bytes, and F32"),
        (raw_safetensors({"a": entry([1 << 62, 1 << 62], 0, 8)}, b"\0" * 8), "has 8 bytes, and F32"),
        (raw_safetensors({"a": entry([-1], 0, 4)}, b"\0" * 4), "no list of whole numbers"),
        (raw_safetensors({"a": entry([True], 0, 4)}, b"\0" * 4), "no list of whole numbers"),
        (raw_safetensors({"a": entry([1], 8, 4)}, b"\0" * 8), "cannot be"),
        (raw_safetensors({"a": entry([1] * 9, 0, 4)}, b"\0" * 4), "cannot be"),
        (raw_safetensors({"a": entry([1], 0, 4, "Q9")}, b"\0" * 4), "dtype 'Q9'"),
        (raw_safetensors({"a": {"dtype": "F32"}}), "not described by"),
        (raw_safetensors({"a": 5}), "not described by"),
        (raw_safetensors({"__metadata__": {"a": 1}}), "__metadata__"),
    ],
)  # fmt: skip
def test_hostile_safetensors(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(GGUFError, match=match) as caught:
        open_safetensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_byte_of_a_header_may_be_wrong(tmp_path: Path) -> None:
    """A flipped byte gives tensors within the file, or one line."""
    write(tmp_path, {"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float32)})
    good = (tmp_path / "model.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(good)
        for at in rng.integers(0, len(good) - 60, rng.integers(1, 4)):
            bad[at] = rng.integers(0, 256)
        (tmp_path / "bad").write_bytes(bad)
        try:
            tensors = open_safetensors(tmp_path / "bad").tensors
        except GGUFError:
            continue
        assert sum(tensor.array.nbytes for tensor in tensors.values()) <= len(good)


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "hf", weights())
    out = tmp_path / "m-{ftype}.gguf"
    words = ["convert", str(folder), "--outfile", str(out), "--outtype", "f16", "--no-vocab", "--json"]
    assert cli.main(words) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["files"] == [str(tmp_path / "m-f16.gguf")]
    words = ["convert", str(folder), "-o", str(tmp_path / "d.gguf"), "--type", "Q8_0", "--no-vocab", "--dry-run"]
    assert cli.main(words) == 0
    assert "nothing written" in capsys.readouterr().out
    assert not (tmp_path / "d.gguf").exists()
    assert cli.main(["convert", str(tmp_path), "-o", "x.gguf"]) == 1
    assert capsys.readouterr().err == f"ggufpy convert: {tmp_path} has no config.json: give the folder of a Hugging " \
        "Face checkpoint\n"  # fmt: skip


def test_what_the_user_says_wins(tmp_path: Path) -> None:
    folder = write(tmp_path / "Tiny-1B-Instruct-v2", weights())
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: [en, no]\nbase_model: a/B-1B\n---\ntext")
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"general.license": "apache-2.0", "general.author": "me"}))
    options = ConvertOptions("F32", no_vocab=True, metadata=said)
    convert(folder, tmp_path / "m.gguf", options)
    with gguf.open(tmp_path / "m.gguf") as file:
        values = {key: value for key, value in file.metadata.items() if key.startswith("general.")}
    assert values["general.name"] == "Tiny 1B Instruct v2"
    assert (values["general.basename"], values["general.size_label"]) == ("Tiny", "1B")
    assert (values["general.finetune"], values["general.version"]) == ("Instruct", "v2")
    assert (values["general.license"], values["general.author"]) == ("apache-2.0", "me")
    assert values["general.languages"] == ["en", "no"]
    assert values["general.base_model.0.repo_url"] == "https://huggingface.co/a/B-1B"
    said.write_text(json.dumps({"general.license": {"a": 1}}))
    refused(folder, "is no text, number", options)


_LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import ggufpy.convert
from ggufpy.convert import ConvertOptions, convert
from ggufpy.quantizer import QuantizeOptions
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[3]), int(sys.argv[3])))
convert(sys.argv[1], sys.argv[2], ConvertOptions("Q8_0", QuantizeOptions(threads=2), no_vocab=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what is mapped on Linux only")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """600 MB of weights within 400 MB of data in all, the interpreter and its libraries among them."""
    config = {**CONFIG, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 3, "vocab_size": 8192,
              "num_attention_heads": 16, "num_key_value_heads": 16}  # fmt: skip
    tensors = {name: np.ones(shape, np.float32) for name, shape in checkpoints.shapes(config)}
    folder = write(tmp_path / "hf", tensors, config, dtype="BF16")
    assert sum(file.stat().st_size for file in folder.iterdir()) > 450e6
    command = [sys.executable, "-c", _LIMITED, str(folder), str(tmp_path / "m.gguf"), str(400 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "m.gguf")) == len(tensors)
