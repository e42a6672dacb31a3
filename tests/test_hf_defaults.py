"""What config.json leaves out is what the configuration classes of transformers have, and what it says is read in the
names of transformers 4 and of 5."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from ggufpy import models
from ggufpy.models.checkpoint import SIZE_NAMES, HfConfig, metadata

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

# By class: its configuration's class, and what a config.json of such a model says in any case.
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "LlamaForCausalLM": ("LlamaConfig", ()),
    "MistralForCausalLM": ("MistralConfig", ()),
    "MixtralForCausalLM": ("MixtralConfig", ("num_local_experts", "num_experts_per_tok")),
    "Ministral3ForCausalLM": ("Ministral3Config", ()),
    "Qwen2ForCausalLM": ("Qwen2Config", ()),
    "Qwen2MoeForCausalLM": ("Qwen2MoeConfig", ("num_experts", "num_experts_per_tok")),
    "Qwen3ForCausalLM": ("Qwen3Config", ()),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", ("num_local_experts", "num_experts_per_tok", "norm_topk_prob")),
    "GemmaForCausalLM": ("GemmaConfig", ()),
    "Gemma2ForCausalLM": ("Gemma2Config", ()),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", ()),
    "GptOssForCausalLM": ("GptOssConfig", ("num_local_experts", "num_experts_per_tok")),
    "Phi3ForCausalLM": ("Phi3Config", ()),
    "GraniteForCausalLM": ("GraniteConfig", ()),
    "GraniteMoeForCausalLM": ("GraniteMoeConfig", ("num_local_experts", "num_experts_per_tok")),
    "Olmo2ForCausalLM": ("Olmo2Config", ()),
    "Olmo3ForCausalLM": ("Olmo3Config", ()),
    "SmolLM3ForCausalLM": ("SmolLM3Config", ()),
    "Exaone4ForCausalLM": ("Exaone4Config", ()),
    "CohereForCausalLM": ("CohereConfig", ()),
    "Cohere2ForCausalLM": ("Cohere2Config", ()),
    "Glm4ForCausalLM": ("Glm4Config", ()),
    "Glm4MoeForCausalLM": ("Glm4MoeConfig", ("n_routed_experts", "num_experts_per_tok")),
    "Ernie4_5ForCausalLM": ("Ernie4_5Config", ()),
    "Ernie4_5_MoeForCausalLM": ("Ernie4_5_MoeConfig", ()),
    "HunYuanDenseV1ForCausalLM": ("HunYuanDenseV1Config", ()),
    "FalconForCausalLM": ("FalconConfig", ()),
    "GPT2LMHeadModel": ("GPT2Config", ("n_layer", "n_head", "n_embd", "n_positions")),
    "Starcoder2ForCausalLM": ("Starcoder2Config", ()),
    "StableLmForCausalLM": ("StableLmConfig", ()),
    "BitNetForCausalLM": ("BitNetConfig", ()),
}
# What the text half of another model leaves out may be all that it is.
HALVES = ("LlamaForCausalLM", "MistralForCausalLM", "Ministral3ForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
          "Gemma3ForCausalLM", "GraniteForCausalLM", "Cohere2ForCausalLM", "Glm4ForCausalLM",
          "Exaone4ForCausalLM")  # fmt: skip


def keys_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a file says of it, and what it means where it is silent; numbers as float32 holds them."""
    name, checkpoint = models.checkpoint_of(config["architectures"], HfConfig(config))
    keys = metadata(checkpoint, name, checkpoint.completed(HfConfig(config)))
    values = {key.removeprefix(f"{name}."): typed.value for key, typed in keys.items()}
    length = values["embedding_length"] // values["attention.head_count"]
    usual = {"attention.key_length": length, "attention.value_length": length,
             "attention.head_count_kv": values["attention.head_count"]}  # fmt: skip
    values = {**usual, **values}
    return {key: float(np.float32(value)) if isinstance(value, float) else value for key, value in values.items()}


def whole(name: str) -> dict[str, Any]:
    """Everything that transformers has for a class, in the names of transformers 5."""
    config = getattr(transformers, CLASSES[name][0])()
    return {**deepcopy(config.to_dict()), "architectures": [name]}


@pytest.mark.parametrize("name", CLASSES)
def test_a_model_that_says_what_it_must(name: str) -> None:
    full = whole(name)
    said = {"architectures", "model_type", *SIZE_NAMES, *CLASSES[name][1]}
    if name == "Qwen3MoeForCausalLM":
        full["norm_topk_prob"] = True
    assert keys_of({key: value for key, value in full.items() if key in said}) == keys_of(full)


@pytest.mark.parametrize("name", HALVES)
def test_a_text_half_that_says_nothing(name: str) -> None:
    full = whole(name)
    kind = full["model_type"]
    assert keys_of({"architectures": [name], "model_type": kind, "text_config": {"model_type": kind}}) == keys_of(full)


SCALED = {
    "linear": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32},
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM", "Glm4ForCausalLM", "FalconForCausalLM"])
def test_positions_in_the_names_of_transformers_4_and_5(name: str, kind: str) -> None:
    if kind == "llama3" and name != "LlamaForCausalLM":
        pytest.skip("no file of this family says so")
    full = whole(name)
    part = full.pop("rope_parameters").get("partial_rotary_factor")
    beside = {} if part is None else {"partial_rotary_factor": part}
    newer = {"rope_parameters": {"rope_type": kind, "rope_theta": 5e4, **SCALED[kind], **beside}}
    older = {"rope_theta": 5e4, "rope_scaling": {"type": kind, **SCALED[kind]}, **beside}
    both = {"rope_theta": 5e4, "rope_scaling": {"rope_type": kind, "type": kind, **SCALED[kind]}, **beside}
    exact = keys_of({**full, **newer})
    assert exact == keys_of({**full, **older}) == keys_of({**full, **both})
    assert exact["rope.freq_base"] == 5e4
