"""What sentence-transformers puts behind a model: its folders to keys and tensors of a file, embeddings, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from engine import difference
from llm_fakes import VOCAB, FakeTokenizer

from ggufpy import cli, runtime
from ggufpy import format as gguf
from ggufpy.backends.cpu.model import read_plan
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export
from ggufpy.convert.safetensors import open_safetensors
from ggufpy.convert.writing import write_safetensors
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Numbers
from ggufpy.generate.loading import Later, Parts
from ggufpy.hub.hf import Wanted, checkpoint_files
from ggufpy.llm import Llama
from ggufpy.models.interpreter import Interpreter
from ggufpy.runtime import EngineOptions

WIDTH, HIDDEN, HEAD = 64, 96, 32
PLAIN = ConvertOptions("F32", no_vocab=True)
GEMMA: Mapping[str, Any] = {
    "architectures": ["Gemma3TextModel"], "model_type": "gemma3_text", "use_bidirectional_attention": True,
    "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": HEAD, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6, "sliding_window": 8, "query_pre_attn_scalar": HEAD,
}  # fmt: skip
IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"
PACKAGE = "sentence_transformers.models"
NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of EmbeddingGemma's tensors, as transformers saves a Gemma3TextModel."""
    yield "embed_tokens.weight", (VOCAB, WIDTH)
    yield "norm.weight", (WIDTH,)
    for i in range(2):
        at = f"layers.{i}."
        yield from ((f"{at}{name}.weight", (WIDTH,)) for name in NORMS)
        yield from ((f"{at}self_attn.{name}_norm.weight", (HEAD,)) for name in "qk")
        for name, rows in (("q", 2 * HEAD), ("k", HEAD), ("v", HEAD)):
            yield f"{at}self_attn.{name}_proj.weight", (rows, WIDTH)
        yield f"{at}self_attn.o_proj.weight", (WIDTH, 2 * HEAD)
        yield from ((f"{at}mlp.{name}_proj.weight", (HIDDEN, WIDTH)) for name in ("gate", "up"))
        yield f"{at}mlp.down_proj.weight", (WIDTH, HIDDEN)


def random(shape: Sequence[int], seed: int) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape)
    return (values * (0.2 if len(shape) == 1 else shape[-1] ** -0.5)).astype(np.float32)


def checkpoint(folder: Path, sizes: Sequence[tuple[int, int]] = ((96, WIDTH), (WIDTH, 96))) -> Path:
    """A small EmbeddingGemma whose dense layers have matrices of `sizes`."""
    checkpoints.write(folder, {name: random(shape, i) for i, (name, shape) in enumerate(shapes())}, GEMMA)
    behind(folder, sizes)
    return folder


def behind(folder: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Pooling, Dense of `sizes`, Normalize."""
    kinds = ["Transformer", "Pooling", *["Dense"] * len(sizes), "Normalize"]
    write_modules(folder, kinds)
    modes = {f"pooling_mode_{name}": name == "mean_tokens" for name in ("mean_tokens", "cls_token", "lasttoken")}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, **modes})
    for i, (rows, columns) in enumerate(sizes):
        said = {"in_features": columns, "out_features": rows, "bias": False, "activation_function": IDENTITY}
        write(folder / f"{i + 2}_Dense" / "config.json", said)
        matrix = Numbers(random((rows, columns), 50 + i))
        write_safetensors(folder / f"{i + 2}_Dense" / "model.safetensors", {"linear.weight": matrix})


def write_modules(folder: Path, kinds: Sequence[str]) -> None:
    paths = [f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds)]
    write(folder / "modules.json", [{"idx": i, "name": str(i), "path": path, "type": f"{PACKAGE}.{kind}"}
                                    for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))])  # fmt: skip


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def matrices(folder: Path) -> list[Any]:
    return [np.array(open_safetensors(file).tensors["linear.weight"].array)
            for file in sorted(folder.glob("*_Dense/model.safetensors"))]  # fmt: skip


def opened(path: Path) -> Llama:
    file = gguf.open(path)
    tokenizer: Any = Later(FakeTokenizer)
    nothing: Any = Later(lambda: None)
    engine = runtime.load(file, EngineOptions(n_threads=1, n_ctx=32))
    return Llama.from_parts(Parts("m.gguf", engine, file, tokenizer, nothing))


def hidden(path: Path, text: str) -> Any:
    """The final hidden state of a text, in float64."""
    with gguf.open(path) as file:
        weights = {name: tensor.to_numpy() for name, tensor in file.tensors.items()}
        return Interpreter(read_plan(file), weights).hidden(FakeTokenizer().encode(text, add_special=True))


@pytest.mark.parametrize("sizes", [((96, WIDTH), (WIDTH, 96)), ((40, WIDTH),), ()])
def test_embeddings_go_through_the_dense_layers(tmp_path: Path, sizes: Any) -> None:
    folder = checkpoint(tmp_path / "hf", sizes)
    report = convert(folder, tmp_path / "m.gguf", PLAIN)
    assert not any("left out" in note for note in report.notes)
    with gguf.open(tmp_path / "m.gguf") as file:
        values = {key: file.metadata.get(f"gemma-embedding.{key}") for key in (
            "pooling_type", "dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out",
            "embedding_length_out")}  # fmt: skip
        for i, matrix in enumerate(matrices(folder)):
            np.testing.assert_array_equal(file.tensors[f"dense_{i + 2}.weight"].to_numpy(), matrix)
    flat = [size for rows, columns in sizes for size in (columns, rows)] + [None] * 4
    assert list(values.values()) == [1, *flat[:4], 40 if len(sizes) == 1 else None]
    rows = hidden(tmp_path / "m.gguf", "hello")
    with opened(tmp_path / "m.gguf") as llm:
        for pooling, x in (("mean", rows.mean(axis=0)), ("cls", rows[0]), ("last", rows[-1]), ("none", rows)):
            exact = x
            for matrix in matrices(folder):
                exact = exact @ matrix.T.astype(np.float64)
            made = np.array(llm.embed("hello", pooling=pooling))
            assert difference(exact, made) < 0.01
            np.testing.assert_allclose(llm.embed("hello"), llm.embed(["hello", "h"])[0], rtol=1e-6)
        answer = llm.create_embedding("hello")["data"][0]["embedding"]
        mean = np.array(llm.embed("hello"))
        assert len(answer) == (sizes[-1][0] if sizes else WIDTH)
        np.testing.assert_allclose(answer, mean / np.linalg.norm(mean), rtol=1e-12)


def test_everything_comes_back(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "hf")
    convert(folder, tmp_path / "m.gguf", PLAIN)
    with gguf.open(tmp_path / "m.gguf") as file:
        report = export(file, tmp_path / "back")
    files = [*folder.rglob("*.safetensors")]
    stored = [tensor for path in files for tensor in open_safetensors(path).tensors.values()]
    assert report.bytes_out == sum(tensor.nbytes for tensor in stored)
    for name in ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "3_Dense/config.json"):
        assert read(tmp_path / "back" / name) == read(folder / name), name
    assert not [key for key in read(tmp_path / "back" / "config.json") if "sentence" in key]
    for path in files:
        both = (path, tmp_path / "back" / path.relative_to(folder))
        before, after = (open_safetensors(one).tensors for one in both)
        assert set(after) == {name if "linear" in name else f"model.{name}" for name in before}
        for name, tensor in before.items():
            same = after[name if "linear" in name else f"model.{name}"]
            rounded = 1e-6 if "norm" in name else 0.0  # they are kept with 1 added
            np.testing.assert_allclose(same.array, tensor.array, rtol=0, atol=rounded, err_msg=name)
    convert(tmp_path / "back", tmp_path / "again.gguf", PLAIN)
    with gguf.open(tmp_path / "m.gguf") as one, gguf.open(tmp_path / "again.gguf") as other:
        assert set(one.tensors) == set(other.tensors)
        own = [{key: value for key, value in made.metadata.items() if "gemma-" in key} for made in (one, other)]
        assert own[0] == own[1]
        assert own[0]["gemma-embedding.pooling_normalized"] is True


@pytest.mark.parametrize("outtype", ["Q8_0", "Q4_K_M", "BF16"])
def test_quantised(tmp_path: Path, outtype: str) -> None:
    folder = checkpoint(tmp_path / "hf")
    convert(folder, tmp_path / "m.gguf", ConvertOptions(outtype, no_vocab=True))
    with gguf.open(tmp_path / "m.gguf") as file:
        types = [file.tensors[f"dense_{i}.weight"].type for i in (2, 3)]
        stored = [file.tensors[f"dense_{i}.weight"].to_numpy().astype(np.float64) for i in (2, 3)]
    assert types == {"Q4_K_M": ["Q5_0", "Q5_0"]}.get(outtype, [outtype] * 2)  # rows of 64 and 96 are no blocks of Q4_K
    exact = stored[1] @ stored[0] @ hidden(tmp_path / "m.gguf", "hello").mean(axis=0)
    with opened(tmp_path / "m.gguf") as llm:
        assert difference(exact, np.array(llm.embed("hello"))) < 0.03


# -- what is left out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bias": True}, r"'2_Dense' \(64 to 96, a bias\), '3_Dense' \(96 to 64\)"),
        ({"activation_function": TANH}, r"'2_Dense' \(64 to 96, 'Tanh'\), '3_Dense' \(96 to 64\)"),
        ({"activation_function": None, "bias": None}, r"'2_Dense' \(64 to 96, a bias, 'Tanh'\), '3_Dense'"),
    ],
)
def test_what_no_file_can_say_is_left_out_by_name(tmp_path: Path, changes: Mapping[str, Any], named: str) -> None:
    folder = checkpoint(tmp_path / "hf")
    write(folder / "2_Dense" / "config.json", {**read(folder / "2_Dense" / "config.json"), **changes})
    assert_left_out(folder, tmp_path / "m.gguf", named, "gemma-embedding")


def test_more_layers_than_a_file_has_names_for(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "hf", [(WIDTH, WIDTH)] * 3)
    assert_left_out(folder, tmp_path / "m.gguf", "'2_Dense' .*, '3_Dense' .*, '4_Dense'", "gemma-embedding")


def test_other_modules_are_named(tmp_path: Path) -> None:
    """What follows one of them is left out, too: it would be applied to something else."""
    folder = checkpoint(tmp_path / "hf", [(WIDTH, WIDTH)])
    for i, kinds in enumerate((("Pooling", "LayerNorm", "Dense"), ("Pooling", "Normalize", "Dense"))):
        write_modules(folder, ["Transformer", *kinds, "Dropout"])
        named = "'2_LayerNorm', '3_Dense'" if i == 0 else "'3_Dense'"
        assert_left_out(folder, tmp_path / f"{i}.gguf", named, "gemma-embedding")


def test_other_architectures_have_no_dense_layers(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "hf", checkpoints.weights())
    behind(folder, [(32, WIDTH)])
    notes = convert(folder, tmp_path / "m.gguf", PLAIN).notes
    assert "left out: the pooling, mean; ask for it where you embed (ggufpy embed --pooling mean)" in notes
    assert_left_out(folder, tmp_path / "m.gguf", r"'2_Dense' \(64 to 32\)", "llama")


def assert_left_out(folder: Path, path: Path, named: str, architecture: str) -> None:
    notes = [note for note in convert(folder, path, PLAIN).notes if "sentence-transformers" in note]
    assert len(notes) == 1
    pattern = rf"left out: {named}.*, which sentence-transformers applies .* no file of {architecture} can say"
    with pytest.raises(GGUFError, match=pattern):
        raise GGUFError(notes[0])
    with gguf.open(path) as file:
        assert not any("dense" in name for name in [*file.tensors, *file.metadata])


def test_they_are_left_out_where_one_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = checkpoint(tmp_path / "hf"), tmp_path / "m.gguf"
    words = ["convert", str(folder), "-o", str(path), "--type", "F32", "--no-vocab"]
    for option, count in (([], 2), (["--sentence-transformers-dense-modules"], 2),
                          (["--no-sentence-transformers-dense-modules"], 0)):  # fmt: skip
        assert cli.main([*words, *option]) == 0
        with gguf.open(path) as file:
            assert sum(name.startswith("dense_") for name in file.tensors) == count
            assert file.metadata["gemma-embedding.pooling_type"] == 1
        assert "left out" not in capsys.readouterr().err


# -- what is refused -------------------------------------------------------------------------------------------------


def refused(folder: Path, match: str) -> None:
    with pytest.raises(GGUFError, match=match):
        convert(folder, folder.parent / "m.gguf", PLAIN)
    assert not (folder.parent / "m.gguf").exists()


def test_folders_that_are_damaged(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "hf")
    dense, config = folder / "2_Dense" / "model.safetensors", folder / "2_Dense" / "config.json"
    good, said, modules = dense.read_bytes(), read(config), read(folder / "modules.json")
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    refused(folder, "1_Pooling/config.json asks for a pooling that is none of mean, cls and last")
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    dense.unlink()
    refused(folder, "2_Dense/model.safetensors is missing, .*--no-sentence-transformers-dense-modules")
    write_safetensors(dense, {"linear.weight": Numbers(random((96, WIDTH), 0)), "bias": Numbers(random((96,), 0))})
    refused(folder, "2_Dense/model.safetensors must have linear.weight alone; it has")
    write_safetensors(dense, {"linear.weight": Numbers(random((96, 32), 0))})
    refused(folder, r"tensor dense_2\.weight has shape \(96, 32\); \(96, 64\) expected")
    dense.write_bytes(good)
    write(config, {**said, "out_features": "many"})
    refused(folder, "2_Dense: config.json: out_features is 'many'; it must be a whole number")
    write(config, said)
    for path in ("../2_Dense", "", "."):
        write(folder / "modules.json", [*modules[:2], {**modules[2], "path": path}])
        refused(folder, f"modules.json names .*{path}.*, which is no folder of this one")
    write(folder / "modules.json", [3])
    refused(folder, "modules.json has .*3.* where a module is due")
    write(folder / "modules.json", modules)
    convert(folder, tmp_path / "m.gguf", PLAIN)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    convert(checkpoint(tmp_path / "hf"), tmp_path / "m.gguf", PLAIN)
    with gguf.open(tmp_path / "m.gguf") as file:
        tensors = {name: tensor.to_numpy() for name, tensor in file.tensors.items()}
        keys = dict(file.metadata)
    without = {key: value for key, value in keys.items() if not key.endswith("dense_2_feat_out")}
    gguf.write(tmp_path / "a.gguf", without, tensors)
    with gguf.open(tmp_path / "a.gguf") as file, pytest.raises(GGUFError, match=r"has no gemma\S+dense_2_feat_out"):
        read_plan(file)
    square = random((WIDTH, WIDTH), 3)
    second = {**{name: array for name, array in tensors.items() if name != "dense_2.weight"}, "dense_3.weight": square}
    gguf.write(tmp_path / "b.gguf", keys, second)
    exact = square.astype(np.float64) @ hidden(tmp_path / "b.gguf", "h").mean(axis=0)
    with opened(tmp_path / "b.gguf") as llm:
        assert difference(exact, np.array(llm.embed("h"))) < 0.01
    with gguf.open(tmp_path / "b.gguf") as file, pytest.raises(GGUFError, match=r"dense_3\.weight without dense_2"):
        export(file, tmp_path / "back")
    gguf.write(tmp_path / "c.gguf", keys, {**tensors, "dense_3.weight": np.full((WIDTH, 96), np.inf, np.float32)})
    with opened(tmp_path / "c.gguf") as llm, pytest.raises(GGUFError, match="the model's embeddings are not finite"):
        llm.embed("h")


def test_their_weights_are_fetched() -> None:
    files = ["config.json", "model.safetensors", "modules.json", "2_Dense/config.json", "2_Dense/model.safetensors",
             "2_Dense/pytorch_model.bin", "onnx/model.safetensors", "openvino/Dense/model.safetensors"]  # fmt: skip
    assert set(checkpoint_files("owner/repo", files, Wanted())) == set(files[:5])
