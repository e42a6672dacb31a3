"""Checkpoints of encoders against transformers: hidden states of whole texts, heads, and names that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hf
import numpy as np
import pytest
from hf import VOCABULARY, torch, transformers

import ggufpy
from ggufpy.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip


def test_bert(tmp_path: Path) -> None:
    values = hf.check_encoder(tmp_path, transformers.BertConfig(**SIZES))
    assert values["bert.attention.causal"] is False


def test_roberta_has_positions_behind_its_padding(tmp_path: Path) -> None:
    values = hf.check_encoder(tmp_path, transformers.RobertaConfig(**SIZES, pad_token_id=1))
    assert values["bert.context_length"] == 126


@pytest.mark.parametrize("window", [8, 128])
def test_modern_bert(tmp_path: Path, window: int) -> None:
    hf.check_encoder(tmp_path, transformers.ModernBertConfig(
        **SIZES, local_attention=window, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
        sep_token_id=2, reference_compile=False))  # fmt: skip


def test_nomic_bert(tmp_path: Path) -> None:
    hf.check_encoder(tmp_path, transformers.NomicBertConfig(**SIZES))


def test_pooling_is_what_the_folder_says(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.BertConfig(**SIZES), model=transformers.AutoModel.from_config)
    (tmp_path / "hf" / "modules.json").write_text(json.dumps([{"type": "x.Pooling", "path": "1_Pooling"}]))
    (tmp_path / "hf" / "1_Pooling").mkdir()
    for key, number in (("mean_tokens", 1), ("cls_token", 2), ("lasttoken", 3)):
        (tmp_path / "hf" / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{key}": True}))
        convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
        with ggufpy.open(tmp_path / "m.gguf") as file:
            assert file.metadata["bert.pooling_type"] == number


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "ModernBert"])
def test_scores_of_models_that_rank(tmp_path: Path, kind: str) -> None:
    extra = {"Bert": {}, "Roberta": {"pad_token_id": 1}}.get(
        kind, {"local_attention": 128, "reference_compile": False, "pad_token_id": 0, "bos_token_id": 1,
               "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2})  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**SIZES, **extra, num_labels=1)
    made = transformers.AutoModelForSequenceClassification.from_config
    model = hf.checkpoint(tmp_path / "hf", config, model=made)
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    tokens = np.random.default_rng(5).integers(5, VOCABULARY, 20).tolist()
    with torch.no_grad():
        exact = model(torch.tensor([tokens])).logits[0].numpy()
    from ggufpy import format as gguf
    from ggufpy import runtime
    from ggufpy.models.classifier import Classifier
    from ggufpy.runtime import EngineOptions

    with gguf.open(tmp_path / "m.gguf") as file, runtime.load(file, EngineOptions(n_ctx=32)) as engine:
        rows = engine.read(engine.sequence(), tokens, "all", hidden=True)
        classifier = engine.model.plan.classifier
        assert isinstance(classifier, Classifier)
        row = rows.mean(axis=0) if classifier.pooled == "mean" else rows[0]
        scores = classifier.scores(row.astype(np.float64), lambda weight: file.tensors[weight.name].to_numpy())
    np.testing.assert_allclose(scores, exact, atol=2e-3)
