"""config.json of tiny models of llama, its relatives, and of older families: what `families.py` makes files of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BASE: Mapping[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4, "rope_theta": 1e4}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GEMMA = {"head_dim": 24, "num_key_value_heads": 1, "query_pre_attn_scalar": 24, "sliding_window": 5}
FACTORS = {"attention_multiplier": 0.1, "embedding_multiplier": 6.0, "residual_multiplier": 0.3, "logits_scaling": 3.0}


def _of(name: str, extras: str = "^output.weight", **changes: Any) -> tuple[dict[str, Any], str]:
    return {**BASE, "architectures": [name], **changes}, extras


# By what it is: config.json, and a pattern of those optional tensors that are there.
FAMILIES: Mapping[str, tuple[dict[str, Any], str]] = {
    "llama": _of("LlamaForCausalLM", "none", head_dim=24),
    "mixtral": _of("MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2, sliding_window=5),
    "mistral3": _of("Ministral3ForCausalLM", model_type="ministral3", rope_parameters={
        **YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.2}),
    "qwen2": _of("Qwen2ForCausalLM", "attn_[qkv].bias", rope_parameters=YARN),
    "qwen2 windows": _of("Qwen2ForCausalLM", use_sliding_window=True, max_window_layers=1, sliding_window=5),
    "qwen3": _of("Qwen3ForCausalLM", head_dim=32),
    "qwen2moe": _of("Qwen2MoeForCausalLM", "_[qkv].bias|output", **EXPERTS, shared_expert_intermediate_size=40),
    "qwen3moe": _of("Qwen3MoeForCausalLM", **EXPERTS, head_dim=32, norm_topk_prob=True),
    "gemma": _of("GemmaForCausalLM", head_dim=24),
    "gemma2": _of("Gemma2ForCausalLM", **GEMMA, attn_logit_softcapping=3.0, final_logit_softcapping=2.0),
    "gemma3": _of("Gemma3ForCausalLM", **GEMMA, sliding_window_pattern=2, rope_local_base_freq=2e3,
                  rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "gemma-embedding": _of("Gemma3TextModel", "none", **GEMMA, use_bidirectional_attention=True,
                           sentence_pooling="mean"),
    "smollm3": _of("SmolLM3ForCausalLM", no_rope_layers=[1, 0, 1]),
    "olmo2": _of("Olmo2ForCausalLM"),
    "olmo3": _of("Olmo3ForCausalLM", sliding_window=5, num_hidden_layers=4, rope_scaling=YARN, rope_theta=1e4),
    "granite": _of("GraniteForCausalLM", "bias", **FACTORS),
    "granitemoe": _of("GraniteMoeForCausalLM", **FACTORS, num_local_experts=4, num_experts_per_tok=2),
    "granitemoeshared": _of("GraniteMoeSharedForCausalLM", **FACTORS, num_local_experts=4, num_experts_per_tok=2,
                            shared_intermediate_size=40),
    "gpt2": ({"architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64,
              "n_inner": None, "layer_norm_epsilon": 1e-5}, "bias"),
    "starcoder2": _of("Starcoder2ForCausalLM", r"(attn_\w+|ffn_\w+|_norm)\.bias", norm_epsilon=1e-5, sliding_window=5),
    "falcon": ({"architectures": ["FalconForCausalLM"], "hidden_size": 64, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True, "bias": False,
                "parallel_attn": True, "multi_query": True, "max_position_embeddings": 64,
                "layer_norm_epsilon": 1e-5}, r"_norm(_2)?\.(weight|bias)"),
}  # fmt: skip
