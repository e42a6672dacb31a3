"""Models with experts as mlx-lm itself names, stacks, quantises and saves them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storing
from test_storage_experts import MODELS, checkpoint, converted, plain
from test_storage_mxfp4 import CONFIG, GPT_OSS, gpt_oss

pytestmark = pytest.mark.oracle
mx = pytest.importorskip("mlx.core")
library = pytest.importorskip("mlx_lm.utils")
tree = pytest.importorskip("mlx.utils")

# Modules of mlx-lm, and what config.json says besides what MODELS has.
MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {}),
    "qwen2moe": ("qwen2_moe", {}),
    "qwen3moe": ("qwen3_moe", {"decoder_sparse_step": 1, "mlp_only_layers": [], "rope_theta": 1e4}),
    "granitemoe": ("granitemoe", {"attention_bias": False, "rope_theta": 1e4, "intermediate_size": 128}),
    "glm4moe": ("glm4_moe", {"n_group": 1, "topk_group": 1, "rope_theta": 1e4, "rope_scaling": None,
                             "norm_topk_prob": True, "routed_scaling_factor": 1.0, "partial_rotary_factor": 0.5}),
    "ernie4_5-moe": ("ernie4_5_moe", {"use_bias": False, "moe_capacity": [], "moe_use_aux_free": True,
                                      "rope_theta": 1e4, "moe_layer_interval": 1}),
}  # fmt: skip
MODES = {"affine": (32, 4, {}), "mxfp4": (32, 4, {}), "nvfp4": (16, 4, {"global_scale": True})}
KINDS = {"uint32": "U32", "uint8": "U8", "float32": "F32", "bfloat16": "BF16"}


def as_stored(tensors: Any) -> storing.Tensors:
    """Arrays of MLX as the tensors of a checkpoint."""
    made: storing.Tensors = {}
    for name, value in tensors:
        kind = KINDS[str(value.dtype).rpartition(".")[2]]
        made[name] = (kind, np.array(value.view(mx.uint16) if kind == "BF16" else value))
    return made


def loaded(module: str, config: dict[str, Any], tensors: dict[str, Any]) -> Any:
    """A model of mlx-lm with such weights, by the names of a checkpoint of transformers."""
    kind = importlib.import_module(f"mlx_lm.models.{module}")
    model = kind.Model(kind.ModelArgs.from_dict({**config, "model_type": module}))
    model.load_weights(list(model.sanitize(tensors).items()), strict=True)
    return model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODULES)
def test_models_with_experts(name: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, more = MODULES[name]
    asked = {**MODELS[name][0], **more}
    extras = r"_[qkv]\.bias|^output\.weight" if name == "qwen2moe" else r"^output\.weight"
    config, tensors = checkpoint((asked, extras), tmp_path, monkeypatch)
    arguments = {**asked, "vocab_size": len(tensors["model.embed_tokens.weight"]), **config}
    model = loaded(module, arguments, {key: mx.array(value) for key, value in tensors.items()})
    group, bits, options = MODES[mode] if name != "granitemoe" else (*MODES[mode][:2], {})  # it asks for affine layers
    model, said = library.quantize_model(model, config, group, bits, mode=mode, **options)
    made = as_stored(tree.tree_flatten(model.parameters()))
    assert any(".switch_mlp." in key and key.endswith(".scales") for key in made)
    whole, _, _ = converted(tmp_path / "a", plain(tensors), config)
    got, notes, _ = converted(tmp_path / "b", made, said)
    assert any("stored as MLX" in note for note in notes)
    assert set(got) == set(whole)
    for key, (_, numbers) in got.items():  # a sixth of the largest, and scales that are rounded
        exact = whole[key][1]
        assert numbers.shape == exact.shape
        assert np.abs(numbers - exact).max() <= np.abs(exact).max() / 5, key


def test_gpt_oss(tmp_path: Path) -> None:
    """Blocks of 4 bits as OpenAI published them, the other layers in 8 bits."""
    kept, _ = gpt_oss()
    tensors = {name: mx.array(x) for name, (_, x) in kept.items()}
    tensors = {name: x.view(mx.bfloat16) if x.dtype == mx.uint16 else x for name, x in tensors.items()}
    module = importlib.import_module("mlx_lm.models.gpt_oss")
    made = as_stored(module.Model.sanitize(None, tensors).items())
    said: dict[str, Any] = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert any(".experts.gate_proj.scales" in name for name in made)
    layer = "model.layers.0.self_attn.o_proj"
    w, s, b = mx.quantize(tensors[f"{layer}.weight"].astype(mx.float32), group_size=64, bits=8)
    said[layer] = {"group_size": 64, "bits": 8}
    made |= {f"{layer}.weight": ("U32", np.array(w)), f"{layer}.scales": ("F32", np.array(s)),
             f"{layer}.biases": ("F32", np.array(b))}  # fmt: skip
    kept[f"{layer}.weight"] = ("F32", np.array(mx.dequantize(w, s, b, group_size=64, bits=8)))
    wanted, _, _ = converted(tmp_path / "a", kept, GPT_OSS | CONFIG)
    got, _, _ = converted(tmp_path / "b", made, GPT_OSS | {"quantization": said, "quantization_config": said})
    assert set(got) == set(wanted)
    for key, (_, numbers) in got.items():
        np.testing.assert_allclose(numbers, wanted[key][1], rtol=0, atol=1e-6 if "attn_output" in key else 0)
