"""Families by tiny files of their own, without other libraries: planned and run as the interpreter runs them, exported
to a checkpoint, and converted back to the same file.

A file is made of a config.json: metadata by the architecture's items, tensors as its plan asks for them, and those that
are optional as each case says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import difference, load

from ggufpy import GGUFError, models
from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export
from ggufpy.format import ArraySource
from ggufpy.models.base import Keys
from ggufpy.models.checkpoint import HfConfig, metadata
from ggufpy.models.interpreter import Interpreter
from ggufpy.runtime import EngineOptions

VOCABULARY, WIDTH, HIDDEN, LAYERS = 40, 128, 96, 2
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
}  # fmt: skip
BOTH = {"ffn_up.weight": (2 * HIDDEN, WIDTH)}
GATE = {"ffn_gate.weight": (HIDDEN, WIDTH)}
QKV_BIAS = {"attn_q.bias": (128,), "attn_k.bias": (64,), "attn_v.bias": (64,)}
HEAD_NORMS = {"attn_q_norm.weight": (32,), "attn_k_norm.weight": (32,)}
OWN_NORMS = {"attn_q_norm.weight": (4, 32), "attn_k_norm.weight": (2, 32)}
SHARED = {"ffn_gate_shexp.weight": (32, WIDTH)}


@dataclass(frozen=True)
class Family:
    """What config.json says besides SIZES, optional tensors of every layer, and those of dense layers at first."""

    config: dict[str, Any]
    layers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    first: dict[str, tuple[int, ...]] = field(default_factory=dict)


FAMILIES = {
    "phi3": Family(
        {"original_max_position_embeddings": 32, "sliding_window": 9,
         "rope_scaling": {"rope_type": "longrope", "short_factor": [1.5] * 16, "long_factor": [2.5] * 16}},
        {"attn_qkv.weight": (256, WIDTH), **BOTH},
    ),
    "gpt-oss": Family(
        {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "head_dim": 32,
         "sliding_window": 9},
        {**QKV_BIAS, "attn_output.bias": (WIDTH,), "ffn_gate_inp.bias": (4,), "ffn_gate_exps.bias": (4, 32),
         "ffn_up_exps.bias": (4, 32), "ffn_down_exps.bias": (4, WIDTH)},
    ),
    "glm4": Family({"head_dim": 32}, {**QKV_BIAS, **BOTH}),
    "glm4moe": Family(
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
         "first_k_dense_replace": 1, "head_dim": 32, "num_hidden_layers": 3},
        {**HEAD_NORMS, "exp_probs_b.bias": (4,), **SHARED},
        {**HEAD_NORMS, **GATE},
    ),
    "command-r": Family({"logit_scale": 0.25}, {**GATE, **OWN_NORMS}),
    "cohere2": Family({"logit_scale": 0.25, "sliding_window": 9, "num_hidden_layers": 4}, GATE),
    "ernie4_5": Family({"head_dim": 32}, GATE),
    "ernie4_5-moe": Family(
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1,
         "moe_layer_start_index": 1, "head_dim": 32},
        {"exp_probs_b.bias": (1, 4), "ffn_gate_inp.weight": (4, WIDTH), **SHARED},
        GATE,
    ),
    "hunyuan-dense": Family({"head_dim": 32}, {**GATE, **HEAD_NORMS}),
    "exaone4": Family({"sliding_window": 9, "sliding_window_pattern": 2}, {**GATE, **HEAD_NORMS}),
    "minicpm": Family({"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 64}, GATE),
    "bitnet": Family({"hidden_act": "relu2"}),
    "stablelm": Family({"use_parallel_residual": True}, {**GATE, **OWN_NORMS, **QKV_BIAS, "attn_norm.bias": (WIDTH,)}),
}  # fmt: skip


def tensor(rng: Any, name: str, shape: tuple[int, ...]) -> Any:
    values = rng.standard_normal(shape).astype(np.float32)
    return values / np.float32(shape[-1] ** 0.5) if name.endswith("weight") and "norm" not in name else values


def source(name: str) -> ArraySource:
    """A file of a family: whatever its plan finds missing is added, until it finds nothing."""
    family, rng = FAMILIES[name], np.random.default_rng(3)
    checkpoint = models.find(name).checkpoint
    config = checkpoint.completed(HfConfig({**SIZES, **family.config}))
    keys = {"general.architecture": name, **{k: v.value for k, v in metadata(checkpoint, name, config).items()}}
    arrays = {"token_embd.weight": tensor(rng, "token_embd.weight", (VOCABULARY, WIDTH))}
    arrays |= {rule.gguf[0]: rule.made.to_numpy() for rule in checkpoint.rules(config) if rule.made is not None}
    for i in range(config.layers):
        for some, shape in (family.first or family.layers if i == 0 else family.layers).items():
            arrays[f"blk.{i}.{some}"] = tensor(rng, some, shape)
    while True:
        made = ArraySource(keys, arrays)
        try:
            models.find(name).plan(Keys(made.metadata), made.tensors)
            return made
        except GGUFError as e:
            missing = re.fullmatch(r"tensor (\S+) is missing \(shape \(([\d, ]+)\) expected\)", str(e))
            if missing is None:
                raise
            shape = tuple(int(size) for size in missing[2].split(",") if size.strip())
            arrays[missing[1]] = tensor(rng, missing[1], shape)


def write(path: Path, name: str) -> None:
    made = source(name)
    checkpoint = models.find(name).checkpoint
    config = checkpoint.completed(HfConfig({**SIZES, **FAMILIES[name].config}))
    keys = {"general.architecture": name, **metadata(checkpoint, name, config)}
    gguf.write(path, keys, {key: value.to_numpy() for key, value in made.tensors.items()})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_runs_as_the_interpreter_does(name: str, tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", name)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 24).tolist()
    with gguf.open(tmp_path / "m.gguf") as file:
        plan = models.find(name).plan(Keys(file.metadata, 24), file.tensors)
        values = {key: value.to_numpy() for key, value in file.tensors.items()}
        exact = Interpreter(plan, values).logits(tokens)
        with load(file, EngineOptions(n_ctx=24)) as text:
            assert difference(exact, text.eval_logits(tokens)) < 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_comes_back_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", name)
    with gguf.open(tmp_path / "m.gguf") as file:
        export(file, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "again.gguf", ConvertOptions("F32", no_vocab=True))
    with gguf.open(tmp_path / "m.gguf") as a, gguf.open(tmp_path / "again.gguf") as b:
        own = {key: a.metadata[key] for key in a.metadata if key.startswith(f"{name}.")}
        for key, value in own.items():
            assert b.metadata[key] == (pytest.approx(value) if isinstance(value, float) else value), key
        assert set(a.tensors) == set(b.tensors)
        for key, value in a.tensors.items():
            np.testing.assert_array_equal(value.to_numpy(), b.tensors[key].to_numpy(), err_msg=key)


def test_layers_that_predict_further_tokens_are_not_run(tmp_path: Path) -> None:
    """llama.cpp counts them among block_count, and has their tensors behind the others."""
    made = source("glm4moe")
    keys = {**made.metadata, "glm4moe.block_count": 4, "glm4moe.nextn_predict_layers": 1}
    arrays = {key: value.to_numpy() for key, value in made.tensors.items()}
    more = {"blk.3.nextn.enorm.weight": np.ones(WIDTH, np.float32), "blk.3.attn_norm.weight": np.ones(7, np.float32)}
    other = ArraySource(keys, {**arrays, **more})
    plan, same = (models.find("glm4moe").plan(Keys(one.metadata), one.tensors) for one in (other, made))
    assert plan == same
    bare = ArraySource(dict(made.metadata), {**arrays, **more})
    with pytest.raises(GGUFError, match=r"does not use: 'blk\.3\.attn_norm\.weight"):
        models.find("glm4moe").plan(Keys(bare.metadata), bare.tensors)


def test_two_ways_to_turn_yarns_ramp() -> None:
    from ggufpy.models.ops import Rope
    from ggufpy.models.rope import frequencies

    rope = Rope(64, 150000.0, scaling="yarn", factor=32.0, original_context=4096, truncated=False)
    whole = Rope(64, 150000.0, scaling="yarn", factor=32.0, original_context=4096)
    low, high = (64 * np.log(4096 / (turns * 2 * np.pi)) / (2 * np.log(150000.0)) for turns in (32.0, 1.0))
    plain = 150000.0 ** (-np.arange(32) / 32)
    kept = 1 - np.clip((np.arange(32) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(frequencies(rope), plain / 32 * (1 - kept) + plain * kept)
    assert not np.allclose(frequencies(rope), frequencies(whole), rtol=1e-3)
