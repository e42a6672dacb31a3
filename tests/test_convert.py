"""Converting checkpoints: what comes out, what is kept, what is refused, and what memory it takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import storing
from checkpoints import CONFIG, HEADS, SHARED, raw_safetensors, weights, write

from ggufpy import cli
from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export
from ggufpy.convert.safetensors import open_safetensors
from ggufpy.errors import GGUFError
from ggufpy.format.rows import decoded
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
        dry = ConvertOptions("F32", replace(options, dry_run=True), no_vocab=True)
        planned = convert(folder, tmp_path / f"{name}.gguf", dry)
        report = convert(folder, tmp_path / f"{name}.gguf", ConvertOptions("F32", options, no_vocab=True))
        assert planned.bytes_out == report.bytes_out == sum(Path(file).stat().st_size for file in report.files)
        assert [(t.name, t.bytes) for t in planned.tensors] == [(t.name, t.bytes) for t in report.tensors]
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


# -- a vocabulary alone --------------------------------------------------------------------------------------------

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TOKENIZER = {
    "version": "1.0", "pre_tokenizer": BYTES, "decoder": BYTES,
    "model": {"type": "BPE", "vocab": {letter: i for i, letter in enumerate("abcĠ")}, "merges": []},
}  # fmt: skip


def with_tokenizer(folder: Path, config: Mapping[str, Any] = CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return folder


def test_a_vocabulary_alone_goes_by_all_options(tmp_path: Path) -> None:
    folder, target = with_tokenizer(tmp_path / "hf"), tmp_path / "v.gguf"
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"general.author": "me", "llama.context_length": 99}))

    def made(**how: Any) -> Any:
        return convert(folder, target, ConvertOptions(quantize=QuantizeOptions(**how), vocab_only=True, metadata=said))

    dry = made(dry_run=True)
    assert not target.exists()
    assert dry.bytes_out == made(byteorder="big").bytes_out == target.stat().st_size
    with gguf.open(target) as file:
        assert file.byteorder == "big"
        assert not file.tensors
        assert file.metadata["llama.block_count"] == 2
        assert list(file.metadata["tokenizer.ggml.tokens"])[:4] == list("abcĠ")
        assert (file.metadata["general.author"], file.metadata["llama.context_length"]) == ("me", 99)
    with pytest.raises(GGUFError, match="has no weights that an adapter"):
        ConvertOptions(vocab_only=True, lora=[("x", 1.0)])
    (folder / "tokenizer.json").unlink()
    refused(folder, "has no tokenizer", ConvertOptions(vocab_only=True))


def test_a_vocabulary_alone_has_what_classes_take_for_granted(tmp_path: Path) -> None:
    config = {**CONFIG, "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "no_rope_layers": [1, 0]}
    convert(with_tokenizer(tmp_path / "hf", config), tmp_path / "v.gguf", ConvertOptions(vocab_only=True))
    with gguf.open(tmp_path / "v.gguf") as file:
        assert file.metadata["smollm3.rope.freq_base"] == 2e6


# -- what is said of a model ---------------------------------------------------------------------------------------


def test_what_the_user_says_wins_over_config_json_too(tmp_path: Path) -> None:
    folder, said = write(tmp_path / "hf", weights()), tmp_path / "said.json"
    options = ConvertOptions("F32", no_vocab=True, metadata=said)
    said.write_text(json.dumps({"llama.context_length": 77, "llama.attention.layer_norm_rms_epsilon": 1, "x.y": 2.5}))
    convert(folder, tmp_path / "m.gguf", options)
    with gguf.open(tmp_path / "m.gguf") as file:
        values = file.metadata.typed_items()
    assert values["llama.context_length"] == gguf.Typed("uint32", 77)
    assert values["llama.attention.layer_norm_rms_epsilon"] == gguf.Typed("float32", 1.0)
    assert values["x.y"] == gguf.Typed("float32", 2.5)
    for value, match in (({"llama.block_count": 3}, "does not fit"), ({"llama.block_count": 0.5}, "is not a uint32"),
                         ({"general.architecture": "qwen2"}, "follows from config.json")):  # fmt: skip
        said.write_text(json.dumps(value))
        refused(folder, match, options)


def test_files_begin_with_a_mark_of_their_encoding(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", weights())
    (folder / "config.json").write_text("\ufeff" + json.dumps(dict(CONFIG)), "utf-8")
    convert(folder, tmp_path / "m.gguf", PLAIN)
    assert len(read(tmp_path / "m.gguf")) == len(weights())


def eight(name: str, values: Any) -> Any:
    """A matrix in 8-bit floats with one scale, no power of two; one weight in it is no number."""
    scale = np.float32(np.abs(values).max() / 300)
    finite = np.where(np.isnan(storing.E4M3), np.inf, storing.E4M3)
    codes = np.abs(values[..., None] / scale - finite).argmin(-1).astype(np.uint8)
    return {name: ("F8_E4M3", codes), f"{name}_scale_inv": ("F32", scale)}, storing.E4M3[codes] * scale


def test_the_nearest_blocks_and_what_is_said_of_them(tmp_path: Path) -> None:
    tensors, _ = storing.llama(eight, {})
    config = {**storing.CONFIG, "quantization_config": {"quant_method": "fp8"}}
    folder = storing.folder(tmp_path / "hf", tensors, config)
    dry = QuantizeOptions(dry_run=True)
    planned = convert(folder, tmp_path / "m.gguf", ConvertOptions(quantize=dry, no_vocab=True))
    report = convert(folder, tmp_path / "m.gguf", ConvertOptions(no_vocab=True))
    assert planned.bytes_out == report.bytes_out == (tmp_path / "m.gguf").stat().st_size
    with gguf.open(tmp_path / "m.gguf") as file:
        assert file.metadata["general.file_type"] == 7  # Q8_0, as most matrices are
    (said,) = [note for note in report.notes if "became the nearest" in note]
    (would,) = [note for note in planned.notes if "became the nearest" in note]
    assert "at most" in said
    assert said.startswith(would)  # what was not compared is not said to be near


def test_weights_that_are_no_numbers_are_called_so(tmp_path: Path) -> None:
    """And not blocks that are other numbers, though NaN is not the same as NaN."""
    for scale in (np.float32(0.25), np.float32(0.3)):
        tensors, _ = storing.llama(eight, {})
        name = "model.layers.0.mlp.up_proj.weight"
        codes = tensors[name][1].copy()
        codes[3, 5] = 0x7F
        tensors |= {name: ("F8_E4M3", codes), f"{name}_scale_inv": ("F32", scale)}
        config = {**storing.CONFIG, "quantization_config": {"quant_method": "fp8"}}
        folder = storing.folder(tmp_path / "hf", tensors, config)
        for outtype in ("auto", "F16", "Q8_0"):
            refused(folder, r"ffn_up.*\b(nan|NaN|finite)", ConvertOptions(outtype, no_vocab=True))
        more = QuantizeOptions(allow_nonfinite=True)
        convert(folder, tmp_path / "m.gguf", ConvertOptions("Q8_0", more, no_vocab=True))
        shutil.rmtree(folder)


# -- what cannot be ------------------------------------------------------------------------------------------------


def refused(folder: Path, match: str, options: ConvertOptions = PLAIN) -> None:
    target = folder.parent / "refused.gguf"
    with pytest.raises(GGUFError, match=match) as caught:
        convert(folder, target, options)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_files_of_a_checkpoint_are_not_written_over(tmp_path: Path) -> None:
    folder = with_tokenizer(tmp_path / "hf")
    write(folder, weights())
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "link.json").symlink_to(folder / "config.json")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for options in (PLAIN, ConvertOptions(vocab_only=True)):
        for target in (*folder.iterdir(), tmp_path / "link.json"):
            with pytest.raises(GGUFError, match="is the file that is being read"):
                convert(folder, target, options)
        with pytest.raises(GGUFError, match="it is a directory"):
            convert(folder, tmp_path, options)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for _ in range(2):  # a GGUF file within the folder may be replaced
        convert(folder, folder / "m.gguf", PLAIN)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"keep": 1}, "keep is 1; it must be True or False"), ({"outtype": "copy"}, "is called auto"),
        ({"name": 5}, "name is 5"), ({"lora": ["x"]}, "lora holds 'x'"), ({"lora": [("x", "y")]}, "the scale of"),
        ({"lora": [(5, 1.0)]}, "the adapter is 5"), ({"vocab_only": True, "no_vocab": True}, "leave out one"),
    ],
)  # fmt: skip
def test_options(how: Any, match: str) -> None:
    with pytest.raises(GGUFError, match=match):
        ConvertOptions(**how)


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
    refused(tmp_path / "empty", "is nested too deep")


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
    folder = write(tmp_path / "Tiny-70K-Instruct-v2", weights())
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: [en, no]\nbase_model: a/B-1B\n---\ntext")
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"general.license": "apache-2.0", "general.author": "me"}))
    options = ConvertOptions("F32", no_vocab=True, metadata=said)
    convert(folder, tmp_path / "m.gguf", options)
    with gguf.open(tmp_path / "m.gguf") as file:
        values = {key: value for key, value in file.metadata.items() if key.startswith("general.")}
    assert values["general.name"] == "Tiny 70K Instruct v2"
    assert (values["general.basename"], values["general.size_label"]) == ("Tiny", "70K")
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
    shapes = dict(checkpoints.shapes(config))
    folder = repeated(tmp_path / "hf", config, shapes)
    assert sum(file.stat().st_size for file in folder.iterdir()) > 450e6
    command = [sys.executable, "-c", _LIMITED, str(folder), str(tmp_path / "m.gguf"), str(400 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with gguf.open(tmp_path / "m.gguf") as file:
        assert len(file.tensors) == len(shapes)


def repeated(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Path:
    """A checkpoint in BF16 whose tensors are one MiB of numbers, again and again: quick to make, of any size."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(config)))
    block = storing.bf16(np.random.default_rng(0).normal(0, 0.02, 1 << 19)).tobytes()
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    with open(folder / "model.safetensors", "wb") as file:
        file.write(raw_safetensors(header))
        for entry in header.values():
            begin, end = entry["data_offsets"]
            for start in range(begin, end, len(block)):
                file.write(block[: end - start])
    return folder


def dense() -> tuple[dict[str, Any], dict[str, Sequence[int]]]:
    """A llama of one layer, whose embedding takes 256 MiB."""
    config = {**CONFIG, "hidden_size": 2048, "intermediate_size": 512, "num_hidden_layers": 1, "vocab_size": 1 << 16,
              "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True}  # fmt: skip
    return config, {name: shape for name, shape in checkpoints.shapes(config) if name != "lm_head.weight"}


def mixture() -> tuple[dict[str, Any], dict[str, Sequence[int]]]:
    """A mixture of experts of one layer: gate and up of all 32 take 256 MiB in one tensor."""
    config, shapes = dense()
    config |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 256,
               "num_local_experts": 32, "num_experts_per_tok": 2, "intermediate_size": 1024}  # fmt: skip
    shapes = {name: shape for name, shape in shapes.items() if "mlp" not in name}
    at = "model.layers.0.mlp."
    shapes |= {"model.embed_tokens.weight": (256, 2048), f"{at}gate.weight": (32, 2048),
               f"{at}experts.gate_up_proj": (32, 2048, 2048), f"{at}experts.down_proj": (32, 2048, 1024)}  # fmt: skip
    return config, shapes


def private(pid: int) -> tuple[int, int]:
    """KiB of a process: what it has in memory less what is mapped of files, and what of its own is mapped at all."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return sizes.get("RssAnon", 0), sizes.get("VmData", 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what is mapped on Linux only")
@pytest.mark.parametrize("kind", [dense, mixture])
def test_a_gibibyte_of_memory_will_do(tmp_path: Path, kind: Callable[[], Any]) -> None:
    """The command converts to Q4_K_M within 1 GiB in all, with a tensor of 256 MiB, and never holds as much as that.

    RLIMIT_DATA is the limit: it counts all private memory that may be written to, touched or not: arrays, compiled
    code, the stacks of threads, the interpreter. RLIMIT_AS counts what is mapped of files as well, which is the
    system's cache and is there or not as it likes; RLIMIT_RSS limits nothing on Linux.
    """
    config, shapes = kind()
    folder, target = repeated(tmp_path / "hf", config, shapes), tmp_path / "m.gguf"
    assert max(2 * int(np.prod(shape)) for shape in shapes.values()) == 1 << 28
    words = ["sh", "-c", 'ulimit -d 1048576 && exec "$@"', "sh", sys.executable, "-m", "ggufpy", "convert"]
    words += [str(folder), "-o", str(target), "--type", "Q4_K_M", "--no-vocab", "-t", "2"]
    most = (0, 0)
    with (
        open(tmp_path / "said", "w+") as said,
        subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, cwd=Path(cli.__file__).parent.parent) as child,
    ):
        while child.poll() is None:
            here = private(child.pid)
            most = (max(most[0], here[0]), max(most[1], here[1]))
            time.sleep(0.02)
        said.seek(0)
        peak = (
            f"peak of resident memory less pages of files: {most[0] >> 10} MiB, of private memory mapped: "
            f"{most[1] >> 10} MiB, of 1024 MiB. {said.read()}"
        )
        assert child.returncode == 0, peak
        assert 0 < most[0] < 256 << 10, peak
    with gguf.open(target) as file:
        types = {name: tensor.type for name, tensor in file.tensors.items()}
        big = "token_embd.weight" if kind is dense else "blk.0.ffn_gate_exps.weight"
        assert types[big] == ("Q6_K" if kind is dense else "Q4_K")
        row = decoded(file.tensors[big].rows(0, 1), types[big])[0]
    wanted = storing.bf16(np.random.default_rng(0).normal(0, 0.02, 1 << 19))[:2048]
    assert np.abs(row - storing.of_bf16(wanted)).max() < 0.01
