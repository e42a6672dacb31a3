"""Checkpoints of encoders against transformers: hidden states of whole texts, heads, and names that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hf
import numpy as np
import pytest
from hf import VOCABULARY, torch, transformers
from test_sentence import behind, matrices

import ggufpy
from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export
from ggufpy.generate.embeddings import Embedder
from ggufpy.generate.loop import Loop
from ggufpy.runtime import EngineOptions

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
DISTIL = {"vocab_size": VOCABULARY, "dim": 64, "hidden_dim": 96, "n_layers": 3, "n_heads": 4,
          "max_position_embeddings": 128}  # fmt: skip
MODERN = {"local_attention": 128, "reference_compile": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
          "cls_token_id": 1, "sep_token_id": 2}  # fmt: skip


def test_bert(tmp_path: Path) -> None:
    values = hf.check_encoder(tmp_path, transformers.BertConfig(**SIZES))
    assert values["bert.attention.causal"] is False


def test_roberta_has_positions_behind_its_padding(tmp_path: Path) -> None:
    values = hf.check_encoder(tmp_path, transformers.RobertaConfig(**SIZES, pad_token_id=1))
    assert values["bert.context_length"] == 126


@pytest.mark.parametrize("window", [8, 128])
def test_modern_bert(tmp_path: Path, window: int) -> None:
    hf.check_encoder(tmp_path, transformers.ModernBertConfig(**{**SIZES, **MODERN, "local_attention": window}))


def test_nomic_bert(tmp_path: Path) -> None:
    hf.check_encoder(tmp_path, transformers.NomicBertConfig(**SIZES))


def test_distilbert(tmp_path: Path) -> None:
    values = hf.check_encoder(tmp_path, transformers.DistilBertConfig(**DISTIL))
    assert values["general.architecture"] == "bert"
    hf.same_tensors(tmp_path / "hf", tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("distilbert", ["DistilBertModel"])


def test_distilbert_behind_the_head_of_its_training(tmp_path: Path) -> None:
    made = transformers.AutoModelForMaskedLM.from_config
    hf.checkpoint(tmp_path / "hf", transformers.DistilBertConfig(**DISTIL), model=made)
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    with ggufpy.open(tmp_path / "m.gguf") as file:
        assert len(file.tensors) == 4 + 16 * SIZES["num_hidden_layers"]


def test_dense_layers_behind_the_pooling(tmp_path: Path) -> None:
    config = transformers.Gemma3TextConfig(**SIZES, head_dim=16, num_key_value_heads=2, sliding_window=8,
                                           query_pre_attn_scalar=16, use_bidirectional_attention=True)  # fmt: skip
    model = hf.checkpoint(tmp_path / "hf", config, model=transformers.AutoModel.from_config)
    behind(tmp_path / "hf", ((96, 64), (64, 96)))
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    tokens = np.random.default_rng(5).integers(5, VOCABULARY, 20).tolist()
    exact = hf.hidden_truth(model, tokens).mean(axis=0)
    for matrix in matrices(tmp_path / "hf"):
        exact = matrix @ exact
    with gguf.open(tmp_path / "m.gguf") as file, runtime.load(file, EngineOptions(n_ctx=32)) as engine:
        embedder = Embedder(Loop(engine), lambda weight: file.tensors[weight.name].to_numpy())
        assert hf.difference(exact, embedder.of_tokens(tokens, "mean")[0]) <= hf.LIMIT


def test_pooling_is_what_the_folder_says(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.BertConfig(**SIZES), model=transformers.AutoModel.from_config)
    (tmp_path / "hf" / "modules.json").write_text(json.dumps([{"type": "x.Pooling", "path": "1_Pooling"}]))
    (tmp_path / "hf" / "1_Pooling").mkdir()
    for key, number in (("mean_tokens", 1), ("cls_token", 2), ("lasttoken", 3)):
        (tmp_path / "hf" / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{key}": True}))
        convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
        with ggufpy.open(tmp_path / "m.gguf") as file:
            assert file.metadata["bert.pooling_type"] == number


KINDS = {
    "Bert": SIZES, "Roberta": {**SIZES, "pad_token_id": 1}, "ModernBert": {**SIZES, **MODERN}, "DistilBert": DISTIL,
}  # fmt: skip


@pytest.mark.parametrize("labels", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_models_that_rank(tmp_path: Path, kind: str, labels: int) -> None:
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind], num_labels=labels)
    made = transformers.AutoModelForSequenceClassification
    model = hf.checkpoint(tmp_path / "hf", config, model=made.from_config)
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    tokens = np.random.default_rng(5).integers(5, VOCABULARY, 20).tolist()
    with torch.no_grad():
        exact = model(torch.tensor([tokens])).logits[0].numpy()
    with gguf.open(tmp_path / "m.gguf") as file:
        with runtime.load(file, EngineOptions(n_ctx=32)) as engine:
            embedder = Embedder(Loop(engine), lambda weight: file.tensors[weight.name].to_numpy())
            scores = embedder.of_tokens(tokens, "rank")[0]
        export(file, tmp_path / "back")
    np.testing.assert_allclose(scores, exact, atol=2e-3)
    again = made.from_pretrained(tmp_path / "back").float().eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(torch.tensor([tokens])).logits[0].numpy(), exact, atol=1e-5)
