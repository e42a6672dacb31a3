"""PEFT's adapters: merged into weights and written as GGUF, against NumPy; kinds and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored
from stored import HEADS, SHAPES, WIDTH, WORDS, Bf16

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.adapter import changed, convert_adapter
from ggufpy.convert.folder import open_folder
from ggufpy.convert.merging import Merged, with_adapters
from ggufpy.convert.peft import Pair, open_adapter
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Numbers
from ggufpy.models import lora
from ggufpy.models.changes import Chain, Join, Plus, Split, Stack, Transpose
from ggufpy.runtime import EngineOptions

LAYER = "model.layers.0."
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False, "fan_in_fan_out": False}


def half(rng: Any, rank: int, shape: tuple[int, int]) -> tuple[Any, Any]:
    return (rng.standard_normal((rank, shape[1])) / 8).astype(np.float32), rng.standard_normal(
        (shape[0], rank)).astype(np.float32)  # fmt: skip


def write(folder: Path, layers: Any, changes: Any = (), more: Any = ()) -> Path:
    """An adapter of layers by their names: (A, B), in the names of PEFT."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **dict(changes)}))
    arrays: stored.Arrays = {f"base_model.model.{name}": value for name, value in dict(more).items()}
    for name, (a, b) in layers.items():
        arrays |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    stored.write(folder / "adapter_model.safetensors", arrays)
    return folder


def base(folder: Path, **config: Any) -> dict[str, Any]:
    """A llama of floats in a folder, and its weights."""
    weights: dict[str, Any] = {}

    def make(rng: Any, out: int, columns: int) -> Any:
        weight = (rng.standard_normal((out, columns)) / columns**0.5).astype(np.float32)
        return {"weight": weight}, weight

    weights = stored.llama(folder, None, make)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    return weights


def adapted(rank: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {f"{LAYER}{name}": half(rng, rank, shape) for name, shape in SHAPES.items()}


def test_pairs_are_added_row_by_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = half(rng, 4, (10, 6))
    adapter = open_adapter(write(tmp_path / "a", {"x": (a, b)}))
    for weight in (rng.standard_normal((10, 6)).astype(np.float32), rng.standard_normal((10, 6)).astype(np.float16)):
        made = with_adapters({"x.weight": Numbers(weight), "y": Numbers(a)}, [(adapter, 0.5), (adapter, 1.0)])
        exact = weight.astype(np.float64) + 3 * b.astype(np.float64) @ a  # alpha / rank = 2
        assert made["x.weight"].type == {4: "F32", 2: "F16"}[weight.itemsize]
        np.testing.assert_allclose(made["x.weight"].to_numpy(), exact, atol=1e-5 if weight.itemsize == 4 else 2e-2)
        np.testing.assert_array_equal(made["x.weight"].floats(3, 5), made["x.weight"].to_numpy()[3:5])
    assert not made["x.weight"].quantised


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 2.0), ({"use_rslora": True}, 4.0), ({"alpha_pattern": {"z.x": 4}}, 1.0),
        ({"alpha_pattern": {"^x": 4}}, 2.0), ({"alpha_pattern": {"^y.z.x": 16, "x": 2}}, 4.0),
        ({"r": 64, "rank_pattern": {"x": 4}}, 2.0),
    ],
)  # fmt: skip
def test_scales(tmp_path: Path, changes: Any, scale: float) -> None:
    a, b = half(np.random.default_rng(0), 4, (10, 6))
    adapter = open_adapter(write(tmp_path / "a", {"y.z.x": (a, b)}, changes))
    assert adapter.pairs["y.z.x.weight"].scale == scale


def test_embeddings_whole_weights_and_layers_the_other_way_round(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = half(rng, 4, (6, 10))  # width 6, 10 words
    head = rng.standard_normal((3, 2)).astype(np.float32)
    more = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b, "lm_head.weight": head}
    c, d = half(rng, 4, (8, 8))
    e, f = half(rng, 4, (6, 10))
    folder = write(tmp_path / "a", {"square": (c, d), "wide": (e, f)}, {"fan_in_fan_out": True}, more)
    names = {"model.embed_tokens.weight": (10, 6), "lm_head.weight": (3, 2)}
    names |= {"square.weight": (8, 8), "wide.weight": (10, 6)}
    zeros = {name: Numbers(np.zeros(shape, np.float32)) for name, shape in names.items()}
    made = {name: rows.to_numpy() for name, rows in with_adapters(zeros, [(open_adapter(folder), 1.0)]).items()}
    np.testing.assert_allclose(made["model.embed_tokens.weight"], 2 * (b @ a).T, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(made["lm_head.weight"], head)
    np.testing.assert_allclose(made["square.weight"], 2 * (d @ c).T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made["wide.weight"], 2 * (f @ e).T, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["f32", "F16", "BF16", "Q8_0"])
def test_a_file(tmp_path: Path, kind: str) -> None:
    base(tmp_path / "base")
    layers = adapted()
    name = f"{LAYER}self_attn.v_proj"
    changes = {"base_model_name_or_path": str(tmp_path / "base"), "alpha_pattern": {"v_proj": 2}}
    folder = write(tmp_path / "a", layers, changes)
    assert len(convert_adapter(folder, tmp_path / "a.gguf", outtype=kind)) == 7
    with gguf.open(tmp_path / "a.gguf") as file:
        assert file.metadata["general.type"] == "adapter"
        assert file.metadata["adapter.type"] == "lora"
        assert file.metadata["adapter.lora.alpha"] == 8
        adapter = lora.read(file)
        for full, (a, b) in layers.items():
            last = full.removeprefix(LAYER)
            pair = adapter.pairs[f"blk.0.{stored.NAMES[last]}.weight"]
            heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": stored.SHARED}.get(last)
            wanted = b if heads is None else stored.turned(b, heads)
            wanted = wanted / 4 if full == name else wanted
            limit = {"f32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 200}[kind]
            assert np.abs(pair.a.to_numpy() - a).max() <= limit * np.abs(a).max()
            assert np.abs(pair.b.to_numpy() - wanted).max() <= limit * np.abs(wanted).max()
            assert pair.a.type == kind.upper()
            assert pair.b.type == ("F16" if kind == "Q8_0" else kind.upper())  # 4 columns are no block


def test_a_file_of_embeddings_and_the_head(tmp_path: Path) -> None:
    base(tmp_path / "base")
    rng = np.random.default_rng(1)
    a, b = half(rng, 4, (WIDTH, WORDS))
    more = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    c, d = half(rng, 4, (WORDS, WIDTH))
    folder = write(tmp_path / "a", {"lm_head": (Bf16(c), Bf16(d))}, {"use_rslora": True}, more)
    convert_adapter(folder, tmp_path / "a.gguf", tmp_path / "base")
    with gguf.open(tmp_path / "a.gguf") as file:
        assert file.metadata["adapter.lora.alpha"] == 16  # · √rank, for readers that divide by the rank
        np.testing.assert_array_equal(file.tensors["token_embd.weight.lora_a"].to_numpy(), a.T)
        np.testing.assert_array_equal(file.tensors["token_embd.weight.lora_b"].to_numpy(), b)
        np.testing.assert_array_equal(file.tensors["output.weight.lora_b"].to_numpy(), Bf16(d).floats)


def test_merged_is_what_the_adapter_does(tmp_path: Path) -> None:
    base(tmp_path / "base")
    folder = write(tmp_path / "a", adapted(), {"use_rslora": True})
    adapter = open_adapter(folder)
    path, _ = stored.converted(tmp_path / "base", "F32")
    convert_adapter(folder, tmp_path / "a.gguf", tmp_path / "base")
    checkpoint = open_folder(tmp_path / "base")
    made = with_adapters(checkpoint.tensors, [(adapter, 1.0)])
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "config.json").write_text((tmp_path / "base" / "config.json").read_text())
    stored.write(tmp_path / "merged" / "model.safetensors", {name: rows.to_numpy() for name, rows in made.items()})
    merged, _ = stored.converted(tmp_path / "merged", "F32")
    logits = []
    for file, adapters in ((path, []), (path, [tmp_path / "a.gguf"]), (merged, [])):
        with gguf.open(file) as weights, runtime.load(weights, EngineOptions(n_ctx=8), *arguments(adapters)) as engine:
            sequence = engine.sequence()
            if adapters:
                sequence.scales = (1.0,)
            logits.append(engine.read(sequence, [1, 2, 3], "all"))
    assert np.abs(logits[1] - logits[2]).max() < 1e-3 * np.ptp(logits[2])
    assert np.abs(logits[0] - logits[2]).max() > 1e-2 * np.ptp(logits[2])


def arguments(adapters: Any) -> Any:
    return [None, [lora.read(gguf.open(path)) for path in adapters]]


def test_pairs_of_weights_that_are_joined() -> None:
    rng = np.random.default_rng(4)
    halves = [half(rng, rank, (rows, 6)) for rank, rows in ((2, 4), (3, 5))]
    pairs = [Pair(Numbers(a), Numbers(b), scale) for (a, b), scale in zip(halves, (0.5, 2.0), strict=True)]
    (made,) = changed(Join((4, 7, 5)), [pairs[0], None, pairs[1]])
    exact = [0.5 * halves[0][1] @ halves[0][0], np.zeros((7, 6)), 2 * halves[1][1] @ halves[1][0]]
    np.testing.assert_allclose(made.scale * made.b.to_numpy() @ made.a.to_numpy(), np.concatenate(exact), atol=1e-6)
    (made,) = changed(Chain((Transpose(), Split((1, 3)), Join((1, 3)))), [pairs[0]])
    np.testing.assert_allclose(made.scale * made.b.to_numpy() @ made.a.to_numpy(), exact[0], atol=1e-6)
    for change, message in ((Join((4, 8, 6)), "of 6 rows"), (Plus(1.0), "as no pair can follow"), (Stack(), "no pair")):
        with pytest.raises(GGUFError, match=message):
            changed(change, [pairs[0], None, pairs[1]])


def refused(tmp_path: Path, message: str, layers: Any = None, changes: Any = (), more: Any = ()) -> None:
    if not (tmp_path / "base").is_dir():
        base(tmp_path / "base")
    folder = write(tmp_path / "a", adapted() if layers is None else layers, changes, more)
    with pytest.raises(GGUFError, match=r"^[^\n]*$") as error:
        convert_adapter(folder, tmp_path / "a.gguf", tmp_path / "base")
    assert message in str(error.value)
    assert not (tmp_path / "a.gguf").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    ones = np.ones((4, 4), np.float32)
    for message, changes in (
        ("peft_type is 'IA3'; ggufpy knows LORA", {"peft_type": "IA3"}), ("DoRA", {"use_dora": True}),
        ("init_lora_weights 'pissa' changes", {"init_lora_weights": "pissa"}),
        ("lora_alpha is 'x'", {"lora_alpha": "x"}),
        ("alpha_pattern has '(a+)+'", {"alpha_pattern": {"(a+)+": 1}}), ("alpha_pattern is", {"alpha_pattern": [1]}),
        ("target_parameters is ['x']", {"target_parameters": ["x"]}),
    ):  # fmt: skip
        refused(tmp_path, message, changes=changes)
    for message, more in (
        ("'base_model.model.x.lora_magnitude_vector' is no half", {"x.lora_magnitude_vector": ones}),
        ("'base_model.model.x.bias' is no half", {"x.bias": ones}),
        ("whole (modules_to_save)", {"lm_head.weight": ones}),
        ("tensor 'x.lora_B' is missing", {"x.lora_A.weight": ones}), ("[4]; a matrix", {"x.lora_A.weight": ones[0]}),
        ("there twice", {"x.lora_A.default.weight": ones, "x.lora_A.weight": ones}),
    ):  # fmt: skip
        refused(tmp_path, message, more=more)
    refused(tmp_path, "of no rank in common", {"x": (ones[:3], ones)})
    refused(tmp_path, "changes 'x.weight', which models of its base have not", {"x": (ones, ones)})
    refused(tmp_path, "9 rows are not 4 heads", {f"{LAYER}self_attn.q_proj": (ones, np.ones((9, 4), np.float32))})
    refused(tmp_path, "the adapter has no tensors", {})
    base(tmp_path / "base", tie_word_embeddings=True)
    refused(tmp_path, "the model's head is its embedding", {"lm_head": (ones, ones)})
    with pytest.raises(GGUFError, match=r"is no folder here: give the folder of its base model with --base"):
        convert_adapter(write(tmp_path / "a", adapted()), tmp_path / "a.gguf")
    with pytest.raises(GGUFError, match=r"outtype is 'Q4_0'; an adapter is written as"):
        convert_adapter(tmp_path / "a", tmp_path / "a.gguf", tmp_path / "base", "Q4_0")
    with pytest.raises(GGUFError, match=r"has no adapter_config\.json"):
        convert_adapter(tmp_path / "base", tmp_path / "a.gguf")


def test_what_does_not_fit_the_model(tmp_path: Path) -> None:
    adapter = open_adapter(write(tmp_path / "a", {"x": half(np.random.default_rng(0), 4, (10, 6))}))
    for shape, name in (((10, 7), "x.weight"), ((10, 6), "y.weight"), ((2, 10, 6), "x.weight")):
        with pytest.raises(GGUFError, match=r"'x\.weight'[^\n]*(which the model has not|of shape \[10, 6\], not)"):
            with_adapters({name: Numbers(np.zeros(shape, np.float32))}, [(adapter, 1.0)])
    whole = open_adapter(write(tmp_path / "b", {}, more={"y.weight": np.ones((2, 2), np.float32)}))
    with pytest.raises(GGUFError, match=r"replaces 'y\.weight', which no scale but 1 can"):
        with_adapters({"y.weight": Numbers(np.zeros((2, 2), np.float32))}, [(whole, 0.5)])
    with pytest.raises(GGUFError, match=r"replaces 'y\.weight' \[2, 2\], which the model has not"):
        with_adapters({"y.weight": Numbers(np.zeros((2, 3), np.float32))}, [(whole, 1.0)])


def test_what_one_adapter_changes_no_other_replaces(tmp_path: Path) -> None:
    """The first one's change would be lost."""
    rng = np.random.default_rng(0)
    weight, other = (rng.standard_normal((10, 6)).astype(np.float32) for _ in range(2))
    a, b = half(rng, 4, (10, 6))
    pair = open_adapter(write(tmp_path / "a", {"x": (a, b)}))
    whole = open_adapter(write(tmp_path / "b", {}, more={"x.weight": other}))
    tensors = {"x.weight": Numbers(weight)}
    for first in (pair, whole):
        with pytest.raises(GGUFError, match=rf"/b replaces 'x\.weight', which .*/{first.folder.name} changes: merge"):
            with_adapters(tensors, [(first, 1.0), (whole, 1.0)])
    made = with_adapters(tensors, [(whole, 1.0), (pair, 1.0)])["x.weight"]
    np.testing.assert_allclose(made.to_numpy(), other + 2 * b @ a, atol=1e-5)


def test_weights_that_pairs_were_trained_on(tmp_path: Path) -> None:
    """PEFT saves embeddings beside their pairs, since a vocabulary may have grown before it was trained."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((10, 6)).astype(np.float16)
    a, b = half(rng, 4, (6, 10))
    pairs = {"x.lora_embedding_A": a, "x.lora_embedding_B": b}
    change = 2 * (b @ a).T
    for trained in (weight.astype(np.float32), rng.standard_normal((10, 6)).astype(np.float32)):
        folder = write(tmp_path / "a", {}, more={**pairs, "x.base_layer.weight": trained})
        adapter = open_adapter(folder)
        made = with_adapters({"x.weight": Numbers(weight)}, [(adapter, 0.5)])["x.weight"]
        np.testing.assert_allclose(made.to_numpy(), trained + change / 2, atol=5e-3)
        assert made.type == ("F16" if np.array_equal(trained, weight) else "F32")  # a copy changes no type
    others = [(open_adapter(write(tmp_path / "b", {}, more=pairs)), 1.0), (adapter, 1.0)]
    with pytest.raises(GGUFError, match=r"replaces 'x\.weight', which .* changes"):
        with_adapters({"x.weight": Numbers(weight)}, others)
    grown = open_adapter(write(tmp_path / "c", {}, more={**pairs, "x.base_layer.weight": np.ones((11, 6), np.float32)}))
    with pytest.raises(GGUFError, match=r"replaces 'x\.weight' \[11, 6\], which the model has not"):
        with_adapters({"x.weight": Numbers(weight)}, [(grown, 1.0)])


def test_nothing_of_a_pair_is_kept_once_its_weight_is_written(tmp_path: Path) -> None:
    a, b = half(np.random.default_rng(0), 4, (10, 6))
    adapter = open_adapter(write(tmp_path / "a", {"x": (a, b)}))
    made = with_adapters({"x.weight": Numbers(np.zeros((10, 6), np.float32))}, [(adapter, 1.0)])["x.weight"]
    assert isinstance(made, Merged)
    before = made.to_numpy()
    assert "_a" in vars(made)
    made.release()
    assert "_a" not in vars(made)
    np.testing.assert_array_equal(made.to_numpy(), before)


def merged(folder: Path, target: Path, adapter: Path) -> tuple[dict[str, Any], Any]:
    report = convert(folder, target, ConvertOptions("F32", no_vocab=True, lora=[(adapter, 1.0)]))
    with gguf.open(target) as file:
        return {name: tensor.to_numpy() for name, tensor in file.tensors.items()}, report


def test_a_head_that_is_the_embedding(tmp_path: Path) -> None:
    """A tied checkpoint may have a head all the same, which goes unused: what changes it would be lost."""
    base(tmp_path / "base", tie_word_embeddings=True)
    rng = np.random.default_rng(1)
    head = half(rng, 4, (WORDS, WIDTH))
    for number, (layers, more) in enumerate(
        (({"lm_head": head}, {}), ({}, {"lm_head.weight": np.ones((WORDS, WIDTH), np.float32)}))
    ):
        folder = write(tmp_path / f"a{number}", layers, more=more)
        with pytest.raises(GGUFError, match=r"changes 'lm_head\.weight', and the model's head is its embedding"):
            merged(tmp_path / "base", tmp_path / "m.gguf", folder)
    a, b = half(rng, 4, (WIDTH, WORDS))
    more = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    _, report = merged(tmp_path / "base", tmp_path / "m.gguf", write(tmp_path / "e", {}, more=more))
    assert any("changes the embedding, and with it the head" in note for note in report.notes)
    base(tmp_path / "other")
    _, report = merged(tmp_path / "other", tmp_path / "m.gguf", tmp_path / "e")
    assert not any("head" in note for note in report.notes)


def test_classes_whose_head_is_the_embedding_where_config_json_is_silent(tmp_path: Path) -> None:
    base(tmp_path / "base", architectures=["SmolLM3ForCausalLM"], model_type="smollm3", no_rope_layers=[1, 1])
    folder = write(tmp_path / "a", {"lm_head": half(np.random.default_rng(1), 4, (WORDS, WIDTH))})
    with pytest.raises(GGUFError, match=r"changes 'lm_head\.weight', and the model's head is its embedding"):
        convert_adapter(folder, tmp_path / "a.gguf", tmp_path / "base")


def test_an_adapter_of_a_body_without_its_head(tmp_path: Path) -> None:
    """Trained on the model that gives no logits, it has names that lack what all names of the whole begin with."""
    base(tmp_path / "base")
    whole = write(tmp_path / "a", adapted())
    body = write(tmp_path / "b", {name.removeprefix("model."): pair for name, pair in adapted().items()})
    one, other = (merged(tmp_path / "base", tmp_path / "m.gguf", folder)[0] for folder in (whole, body))
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])
    for folder in (whole, body):
        convert_adapter(folder, tmp_path / f"{folder.name}.gguf", tmp_path / "base")
    with gguf.open(tmp_path / "a.gguf") as first, gguf.open(tmp_path / "b.gguf") as second:
        assert list(first.tensors) == list(second.tensors)


@pytest.mark.parametrize("alpha", [-8.0, 1e9, 0.0, 8.0])
@pytest.mark.parametrize("rslora", [False, True])
def test_any_alpha_gives_a_file_that_can_be_read(tmp_path: Path, alpha: float, rslora: bool) -> None:
    base(tmp_path / "base")
    folder = write(tmp_path / "a", adapted(), {"lora_alpha": alpha, "use_rslora": rslora})
    convert_adapter(folder, tmp_path / "a.gguf", tmp_path / "base")
    adapter = open_adapter(folder)
    with gguf.open(tmp_path / "a.gguf") as file:
        made = lora.read(file)
        name = f"blk.0.{stored.NAMES['self_attn.v_proj']}.weight"
        pair, wanted = made.pairs[name], adapter.pairs[f"{LAYER}self_attn.v_proj.weight"]
        change = made.factor(name) * pair.b.to_numpy() @ pair.a.to_numpy()
        exact = wanted.scale * wanted.b.to_numpy() @ wanted.a.to_numpy()
        np.testing.assert_allclose(change, exact, rtol=1e-4, atol=1e-6 * max(np.abs(exact).max(), 1))


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (np.nan, "F32", "'blk.0.attn_v.weight.lora_b' has a value that is not finite"),
        (np.inf, "Q8_0", "has a value that is not finite"), (1e6, "F16", "too large for F16: choose BF16 or F32"),
        (1e6, "Q8_0", "too large for F16"),
    ],
)  # fmt: skip
def test_values_that_no_file_holds(tmp_path: Path, value: float, kind: str, said: str) -> None:
    base(tmp_path / "base")
    layers = adapted()
    layers[f"{LAYER}self_attn.v_proj"][1][2, 3] = value
    folder = write(tmp_path / "a", layers)
    with pytest.raises(GGUFError, match=said):
        convert_adapter(folder, tmp_path / "a.gguf", tmp_path / "base", kind)
    assert not (tmp_path / "a.gguf").exists()


def test_files_of_an_adapter_and_its_model_are_not_written_over(tmp_path: Path) -> None:
    base(tmp_path / "base")
    folder = write(tmp_path / "a", adapted())
    before = {path: path.read_bytes() for place in ("a", "base") for path in (tmp_path / place).iterdir()}
    for target in before:
        with pytest.raises(GGUFError, match="is the file that is being read"):
            convert_adapter(folder, target, tmp_path / "base")
        with pytest.raises(GGUFError, match="is the file that is being read"):
            merged(tmp_path / "base", target, folder)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800", "a\nb", ""])
def test_names_of_models_that_no_folder_has(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a", adapted(), {"base_model_name_or_path": name})
    with pytest.raises(GGUFError, match=r"^[^\n]*give the folder of its base model with --base[^\n]*$"):
        convert_adapter(folder, tmp_path / "a.gguf")
