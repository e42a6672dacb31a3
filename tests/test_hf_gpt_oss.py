"""Checkpoints of gpt-oss, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import numpy as np
import pytest
from hf import VOCABULARY, safetensors_torch, torch, transformers

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
    "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 16,
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0,
                        "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 1},
        {"rope_parameters": {**SIZES["rope_parameters"], "truncate": True}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]},
    ],
    ids=["plain", "tied", "truncated", "unscaled", "layers"],
)
def test_gpt_oss(tmp_path: Path, changes: Any) -> None:
    keys = hf.check(tmp_path, transformers.GptOssConfig(**{**SIZES, **changes}), seed=1)
    assert keys["general.architecture"] == "gpt-oss"


def test_experts_in_mxfp4_keep_their_blocks(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    model = hf.checkpoint(tmp_path, transformers.GptOssConfig(**SIZES), seed=1)
    path, exact, draw = tmp_path / "model.safetensors", {}, torch.Generator().manual_seed(0)
    tensors = safetensors_torch.load_file(path)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8, generator=draw)
        scales = torch.randint(122, 126, (experts, rows, columns // 32), dtype=torch.uint8, generator=draw)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        exact[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        model.get_parameter(name).data.copy_(exact[name])
    safetensors_torch.save_file(tensors, path)
    hf.config_json(tmp_path, quantization_config={"quant_method": "mxfp4"})
    tokens = np.random.default_rng(5).integers(0, VOCABULARY, 40).tolist()
    convert(tmp_path, tmp_path / "plain.gguf", ConvertOptions("F32", no_vocab=True))
    hf.agrees(tmp_path / "plain.gguf", tokens, hf.truth(model, tokens))
    convert(tmp_path, tmp_path / "kept.gguf", ConvertOptions("auto", keep=True, no_vocab=True))
    with gguf.open(tmp_path / "kept.gguf") as file:
        both = exact["model.layers.1.mlp.experts.gate_up_proj"].numpy().swapaxes(1, 2)
        for part, name in enumerate(("gate", "up")):
            kept = file.tensors[f"blk.1.ffn_{name}_exps.weight"]
            assert kept.type == "MXFP4"
            np.testing.assert_array_equal(kept.to_numpy(), both[:, part::2])
