"""Classes that stand for another's layers, what their configs and tensors are called, and configs that would be run
wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from vocabularies import made_of, small

from ggufpy import format as gguf
from ggufpy import models
from ggufpy.convert import ConvertOptions, convert
from ggufpy.errors import GGUFError
from ggufpy.models.checkpoint import HfConfig, metadata

PLAIN = ConvertOptions("F32", no_vocab=True)


def same(a: Path, b: Path) -> None:
    """Both files say the same of their architecture, and have the same tensors."""
    with gguf.open(a) as one, gguf.open(b) as two:
        prefix = f"{one.metadata['general.architecture']}."
        own, other = ({k: v for k, v in f.metadata.items() if k.startswith(prefix)} for f in (one, two))
        assert own == other
        assert set(one.tensors) == set(two.tensors)
        for name, tensor in one.tensors.items():
            np.testing.assert_array_equal(tensor.to_numpy(), two.tensors[name].to_numpy(), err_msg=name)


def written(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    """The file of a checkpoint whose config.json says this besides what is usual."""
    checkpoints.write(folder, tensors, {**checkpoints.CONFIG, **config})
    convert(folder, folder.with_suffix(".gguf"), PLAIN)
    return folder.with_suffix(".gguf")


@pytest.mark.parametrize(
    ("of", "name"),
    [
        ("LlamaForCausalLM", "InternLM3ForCausalLM"),
        ("LlamaForCausalLM", "VLlama3ForCausalLM"),
        ("LlamaForCausalLM", "IQuestCoderForCausalLM"),
        ("Qwen2ForCausalLM", "DotsOCRForCausalLM"),
        ("Qwen2ForCausalLM", "KORMoForCausalLM"),
    ],
)
def test_another_class_with_the_same_tensors(tmp_path: Path, of: str, name: str) -> None:
    tensors = checkpoints.weights()
    same(written(tmp_path / "a", tensors, architectures=[of]), written(tmp_path / "b", tensors, architectures=[name]))


def test_the_norms_of_kormo(tmp_path: Path) -> None:
    tensors = checkpoints.weights()
    names = (("post_attention_layernorm", "pre_mlp_layernorm"), ("input_layernorm", "pre_attention_layernorm"))
    own = {}
    for name, values in tensors.items():
        for usual, other in names:
            name = name.replace(usual, other)
        own[name] = values
    plain = written(tmp_path / "a", tensors, architectures=["Qwen2ForCausalLM"])
    same(plain, written(tmp_path / "b", own, architectures=["KORMoForCausalLM"], model_type="kormo"))


def test_a_text_half_that_says_what_is_not_usual_alone(tmp_path: Path) -> None:
    """As LLaVA's first checkpoints: sizes are those of the class where text_config is silent."""
    inner = {"model_type": "llama", "vocab_size": 96, "rms_norm_eps": 1e-5}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_key_value_heads": 32}
    half = {"architectures": ["LlavaForConditionalGeneration"], "text_config": {**inner, **sizes}}
    tensors = checkpoints.weights({**checkpoints.CONFIG, "num_attention_heads": 32, "num_key_value_heads": 32})
    folder = checkpoints.write(tmp_path / "llava", {f"language_model.{k}": v for k, v in tensors.items()}, half)
    convert(folder, tmp_path / "llava.gguf", PLAIN)
    with gguf.open(tmp_path / "llava.gguf") as file:
        assert file.metadata["llama.attention.head_count"] == 32
        assert file.metadata["llama.context_length"] == 2048
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"model_type": "llama"', '"x": 1'))
    with pytest.raises(GGUFError, match="LlavaForConditionalGeneration', which ggufpy does not convert"):
        convert(folder, tmp_path / "again.gguf", PLAIN)


HEADS, SHARED, WIDTH, LAYERS = 4, 2, 32, 2


def falcon() -> dict[str, Any]:
    """Tensors of a small Falcon with a norm each for attention and feed-forward."""
    rng = np.random.default_rng(3)
    shapes = {"transformer.word_embeddings.weight": (61, WIDTH)}
    vectors = ["transformer.ln_f"]
    for i in range(LAYERS):
        at = f"transformer.h.{i}."
        vectors += [f"{at}ln_attn", f"{at}ln_mlp"]
        shapes[f"{at}self_attention.query_key_value.weight"] = ((HEADS + 2 * SHARED) * WIDTH // HEADS, WIDTH)
        shapes[f"{at}self_attention.dense.weight"] = (WIDTH, WIDTH)
        shapes[f"{at}mlp.dense_h_to_4h.weight"] = (4 * WIDTH, WIDTH)
        shapes[f"{at}mlp.dense_4h_to_h.weight"] = (WIDTH, 4 * WIDTH)
    shapes |= {f"{name}.{end}": (WIDTH,) for name in vectors for end in ("weight", "bias")}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_the_first_config_of_falcon_40b(tmp_path: Path) -> None:
    """It has no new_decoder_architecture: the number of key heads says it."""
    newer = {"architectures": ["FalconForCausalLM"], "model_type": "falcon", "hidden_size": WIDTH,
             "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_kv_heads": SHARED,
             "new_decoder_architecture": True, "vocab_size": 61}  # fmt: skip
    first = {"architectures": ["RWForCausalLM"], "model_type": "RefinedWeb", "hidden_size": WIDTH, "n_layer": LAYERS,
             "n_head": HEADS, "n_head_kv": SHARED, "parallel_attn": True, "alibi": False, "bias": False,
             "vocab_size": 61}  # fmt: skip
    for name, config in (("a", newer), ("b", first)):
        checkpoints.write(tmp_path / name, falcon(), config)
        convert(tmp_path / name, tmp_path / f"{name}.gguf", PLAIN)
    same(tmp_path / "a.gguf", tmp_path / "b.gguf")


SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 64,
}  # fmt: skip
MINICPM = {"max_position_embeddings": 64, "rms_norm_eps": 1e-5}


def keys(name: str, **config: Any) -> dict[str, Any]:
    """What a file says of a class's config.json, without the architecture's prefix."""
    said = HfConfig({**SIZES, "architectures": [name], **config})
    architecture, checkpoint = models.checkpoint_of([name], said)
    made = metadata(checkpoint, architecture, checkpoint.completed(said))
    return {key.removeprefix(f"{architecture}."): typed.value for key, typed in made.items()}


@pytest.mark.parametrize(
    ("name", "config", "match"),
    [
        ("GPT2LMHeadModel", {"activation_function": "relu"}, "hidden_act is 'relu'"),
        ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "no file can say"),
        ("GPT2LMHeadModel", {"scale_attn_weights": False}, "no file can say"),
        ("FalconForCausalLM", {"activation": "relu"}, "activation is 'relu'; this architecture has gelu alone"),
        ("FalconForCausalLM", {"alibi": True}, "does not run for Falcon"),
        ("FalconForCausalLM", {"rope_scaling": {"rope_type": "llama3"}}, "does not run with"),
        ("Starcoder2ForCausalLM", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("MiniCPMForCausalLM", {**MINICPM, "hidden_act": "relu"}, "this architecture has silu alone"),
        ("MiniCPMForCausalLM", {**MINICPM, "rope_scaling": {"rope_type": "llama3"}}, "does not run with"),
        ("Phi3ForCausalLM", {"hidden_act": "relu"}, "this architecture has silu alone"),
        ("Phi3ForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear', which"),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type is 'longrope', which"),
        ("GemmaForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Gemma2ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("CohereForCausalLM", {"hidden_act": "gelu"}, "this architecture has silu alone"),
        ("HunYuanDenseV1ForCausalLM", {"hidden_act": "gelu"}, "this architecture has silu alone"),
    ],
)
def test_what_would_run_wrongly_is_refused(name: str, config: dict[str, Any], match: str) -> None:
    with pytest.raises(GGUFError, match=match) as caught:
        keys(name, **config)
    assert "\n" not in str(caught.value)


def test_positions_of_older_stablelm() -> None:
    made = keys("StableLMEpochForCausalLM", rope_pct=0.5, norm_eps=1e-6, rope_theta=10000)
    assert made["rope.dimension_count"] == 8
    assert made["attention.layer_norm_epsilon"] == 1e-6


def test_layers_without_positions_may_be_listed_for_more_than_there_are() -> None:
    made = keys("SmolLM3ForCausalLM", no_rope_layers=[1, 0, 1, 0])
    assert made["attention.rope_pattern"] == [True, False]


def test_the_counts_of_glm4moe_that_are_left_out() -> None:
    made = keys("Glm4MoeForCausalLM", n_routed_experts=4, num_experts_per_tok=2)
    assert (made["leading_dense_block_count"], made["expert_shared_count"]) == (1, 1)


def test_a_vocabulary_alone_of_a_text_half_that_says_nothing(tmp_path: Path) -> None:
    made_of(tmp_path, small())
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"model_type": "gemma3_text"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    convert(tmp_path, tmp_path / "v.gguf", ConvertOptions(vocab_only=True))
    with gguf.open(tmp_path / "v.gguf") as file:
        assert file.metadata["gemma3.attention.head_count"] == 8
        assert file.metadata["gemma3.attention.key_length"] == 256
