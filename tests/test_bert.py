"""BERT and its kin without PyTorch: DistilBERT's names, heads of classifiers, and files that no class is like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.backends.cpu.model import read_plan
from ggufpy.convert.export import export
from ggufpy.convert.safetensors import open_safetensors
from ggufpy.errors import GGUFError
from ggufpy.models.checkpoint import HfConfig, metadata
from ggufpy.models.interpreter import Interpreter
from ggufpy.runtime import EngineOptions

TOKENS = [2, 5, 60, 7, 7, 0, 11, 30, 31, 8, 9, 2, 44, 1, 3, 3, 21]
DISTIL: dict[str, Any] = {
    "architectures": ["DistilBertModel"], "model_type": "distilbert", "dim": 64, "hidden_dim": 96, "n_layers": 2,
    "n_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
BERT: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
RANKS = {**DISTIL, "architectures": ["DistilBertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}
NAMES = {
    "distilbert": ("transformer.layer.1.attention.q_lin.weight", "transformer.layer.1.output_layer_norm.bias"),
    "ranks": ("transformer.layer.0.ffn.lin2.bias", "pre_classifier.weight", "classifier.bias"),
    "bert": ("encoder.layer.1.attention.self.query.weight", "pooler.dense.bias", "classifier.weight"),
}


@pytest.mark.parametrize(("name", "config"), [("distilbert", DISTIL), ("ranks", RANKS), ("bert", BERT)])
def test_it_runs_and_comes_back(
    name: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "m.gguf", config, monkeypatch)
    with gguf.open(path) as file:
        plan = read_plan(file)
        weights = {tensor: stored.to_numpy() for tensor, stored in file.tensors.items()}
        exact = Interpreter(plan, weights).hidden(TOKENS)
        with runtime.load(file, EngineOptions(n_threads=1, n_ctx=32)) as engine:
            rows = engine.read(engine.sequence(), TOKENS, "all", hidden=True)
        assert np.abs(exact - rows).max() < 2e-3 * (exact.max() - exact.min())
        keys, tensors, said = families.there_and_back(file, tmp_path / "back")
        assert said["architectures"] == config["architectures"]
        assert keys == {key: pytest.approx(value) if isinstance(value, float) else value
                        for key, value in file.metadata.items() if key.startswith("bert.")}  # fmt: skip
        assert set(tensors) == set(weights)
        for tensor, stored in tensors.items():
            np.testing.assert_array_equal(stored.to_numpy().reshape(weights[tensor].shape), weights[tensor])
    assert set(NAMES[name]) <= set(open_safetensors(tmp_path / "back" / "model.safetensors").tensors)
    if plan.classifier is not None:
        assert plan.classifier.activation == ("tanh" if name == "bert" else "relu")


def made(path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a config.json; BERT's with token types."""
    families.write(path, config, "bias|cls|embd_norm|_norm", monkeypatch)
    if config is BERT:
        with gguf.open(path) as file:
            keys, tensors = file.metadata, {name: tensor.to_numpy() for name, tensor in file.tensors.items()}
            tensors["token_types.weight"] = np.ones((2, 64), np.float32)
            gguf.write(path.with_suffix(".types"), keys, tensors)
        path.with_suffix(".types").rename(path)
    return path


def test_scores_of_a_text_are_behind_relu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gguf.open(made(tmp_path / "m.gguf", RANKS, monkeypatch)) as file:
        classifier = read_plan(file).classifier
        assert classifier is not None
        t = {name: tensor.to_numpy().astype(np.float64) for name, tensor in file.tensors.items()}
        row = np.random.default_rng(3).standard_normal(64)
        exact = t["cls.output.weight"] @ np.maximum(t["cls.weight"] @ row + t["cls.bias"], 0) + t["cls.output.bias"]
        np.testing.assert_allclose(classifier.scores(row, lambda weight: t[weight.name]), exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("config", "keys", "without", "match"),
    [
        (DISTIL, {"attention.layer_norm_epsilon": 1e-5}, "", "no token types, and is not DistilBERT otherwise"),
        (RANKS, {"classifier.activation": "tanh"}, "", "no token types, and is not DistilBERT otherwise"),
        (RANKS, {}, r"cls.weight cls.bias", r"a classifier of cls\.output\.weight alone"),
        (BERT, {"classifier.activation": "relu"}, "", "relu beside token types"),
        (BERT, {"classifier.activation": "sine"}, "", r"bert\.classifier\.activation is 'sine'; ggufpy knows tanh"),
        (BERT, {"classifier.pooling_type": np.uint32(0)}, "", r"pooling_type is 0 \(none\), which is no row"),
        (BERT, {"classifier.pooling_type": np.uint32(9)}, "", r"classifier\.pooling_type is 9; ggufpy knows 0 to 4"),
        (BERT, {"classifier.output_labels": np.uint32(2)}, "", "output_labels is 2; it must have 1 to"),
    ],
)  # fmt: skip
def test_files_that_no_class_is_like(
    config: dict[str, Any], keys: dict[str, Any], without: str, match: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with gguf.open(made(tmp_path / "m.gguf", config, monkeypatch)) as file:
        tensors = {name: t.to_numpy() for name, t in file.tensors.items() if name not in without.split()}
        gguf.write(tmp_path / "a.gguf", {**file.metadata, **{f"bert.{key}": v for key, v in keys.items()}}, tensors)
    with gguf.open(tmp_path / "a.gguf") as file, pytest.raises(GGUFError, match=match):
        export(file, tmp_path / "back")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"activation": "relu"}, "hidden_act is 'relu'; ggufpy runs gelu"),
        ({"id2label": {"0": "a", "one": "b"}}, "id2label is .*; it must have texts by their numbers"),
        ({"id2label": {"0": "a", "1": 5}}, "id2label is .*; it must have texts by their numbers"),
        ({"sentence_pooling": "median", "architectures": ["DistilBertModel"]}, "sentence_pooling is 'median'"),
    ],
)
def test_configs_that_do_not_fit(changes: dict[str, Any], match: str) -> None:
    name, checkpoint, config = families.made_from({**RANKS, **changes})
    with pytest.raises(GGUFError, match=match):
        metadata(checkpoint, name, config)


def test_labels_that_are_not_named() -> None:
    name, checkpoint, config = families.made_from({**RANKS, "id2label": None})
    assert metadata(checkpoint, name, config)["bert.classifier.output_labels"].value == ["LABEL_0", "LABEL_1"]
    one = HfConfig({**config.values, "num_labels": 1})
    assert metadata(checkpoint, name, one)["bert.classifier.output_labels"].value == ["LABEL_0"]
