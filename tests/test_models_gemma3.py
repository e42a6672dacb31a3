"""Gemma 3: its plan, and logits against a forward pass written out here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BEST, VOCABULARY, attend, difference, half, load

from ggufpy import format as gguf
from ggufpy.backends.cpu.model import load_kernels, read_plan
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import library
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.ops import Attend, MatMul, Norm, Rotate
from ggufpy.models.plan import Plan
from ggufpy.runtime import EngineOptions, trial
from ggufpy.simd import isa

SIZES: Mapping[str, Any] = {
    "context_length": 64, "embedding_length": 40, "block_count": 7, "feed_forward_length": 52,
    "attention.head_count": 2, "attention.head_count_kv": 1, "attention.key_length": 20, "attention.value_length": 20,
    "attention.layer_norm_rms_epsilon": 1e-6, "attention.sliding_window": 3, "rope.freq_base": 1e6,
}  # fmt: skip
TOKENS = [2, 5, 60, 7, 7, 0, 11, 30, 31]


def write_model(path: Path, changes: Mapping[str, Any]) -> Path:
    """A tiny model of random weights. `changes` to SIZES or further keys."""
    sizes, rng = {**SIZES, **changes}, np.random.default_rng(4)
    width, hidden, heads, key = 40, 52, 2, sizes["attention.key_length"]

    def matrix(rows: int, columns: int) -> Any:
        return (rng.standard_normal((rows, columns)) / math.sqrt(columns)).astype(np.float32)

    def norm(length: int) -> Any:
        return (1.0 + 0.2 * rng.standard_normal(length)).astype(np.float32)

    made = {"token_embd.weight": matrix(VOCABULARY, width), "output_norm.weight": norm(width)}
    for i in range(sizes["block_count"]):
        at = f"blk.{i}."
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            made[f"{at}{name}.weight"] = norm(width)
        made |= {f"{at}attn_q_norm.weight": norm(key), f"{at}attn_k_norm.weight": norm(key)}
        made |= {f"{at}attn_q.weight": matrix(heads * key, width), f"{at}attn_k.weight": matrix(key, width)}
        made |= {f"{at}attn_v.weight": matrix(key, width), f"{at}attn_output.weight": matrix(width, heads * key)}
        made |= {f"{at}ffn_gate.weight": matrix(hidden, width), f"{at}ffn_up.weight": matrix(hidden, width)}
        made[f"{at}ffn_down.weight"] = matrix(width, hidden)
    metadata = {"general.architecture": "gemma3", **{f"gemma3.{k}": v for k, v in sizes.items() if v is not None}}
    gguf.write(path, metadata, made)
    return path


def forward(file: Any, near: list[bool], window: int = 3) -> Any:
    """Logits (tokens, vocabulary) in float64; keys and values are kept as f16."""
    t = {name: tensor.to_numpy().astype(np.float64) for name, tensor in file.tensors.items()}
    n, places = len(TOKENS), np.arange(len(TOKENS))

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * t[f"{name}.weight"]

    def turned(x: Any, base: float) -> Any:
        angle = places[:, None, None] * base ** (-np.arange(10) / 10)
        first, second = x[..., :10], x[..., 10:]
        return np.concatenate(
            [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
        )

    x = t["token_embd.weight"][TOKENS] * np.sqrt(np.float32(40))
    for i, local in enumerate(near):
        at, base = f"blk.{i}.", 10000.0 if local else 1e6
        h = norm(x, at + "attn_norm")
        q = turned(norm((h @ t[at + "attn_q.weight"].T).reshape(n, 2, 20), at + "attn_q_norm"), base)
        k = half(turned(norm((h @ t[at + "attn_k.weight"].T).reshape(n, 1, 20), at + "attn_k_norm"), base))
        v = half((h @ t[at + "attn_v.weight"].T).reshape(n, 1, 20))
        y = attend(q / math.sqrt(20), k, v, window if local else 0).reshape(n, -1)
        x = x + norm(y @ t[at + "attn_output.weight"].T, at + "post_attention_norm")
        h = norm(x, at + "ffn_norm")
        g = h @ t[at + "ffn_gate.weight"].T
        g = g / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
        y = (g * (h @ t[at + "ffn_up.weight"].T)) @ t[at + "ffn_down.weight"].T
        x = x + norm(y, at + "post_ffw_norm")
    return norm(x, "output_norm") @ t["token_embd.weight"].T


def near_of(plan: Plan) -> list[bool]:
    """Which layers have a window."""
    return [op.window > 0 for op in plan.body if isinstance(op, Attend)]


PATTERNS = {
    "as llama.cpp has it": ({}, [True] * 5 + [False, True]),
    "a period": ({"attention.sliding_window_pattern": 2}, [True, False] * 3 + [True]),
    "a list": (
        {"attention.sliding_window_pattern": [True, True, False, False, True, False, True]},
        [True, True, False, False, True, False, True],
    ),
    "everywhere": ({"attention.sliding_window_pattern": 0}, [False] * 7),
    "no window": ({"attention.sliding_window": None}, [False] * 7),
    "capped": ({"attention.sliding_window": None, "final_logit_softcapping": 2.0}, [False] * 7),
    "capped with a window": ({"final_logit_softcapping": 2.0}, [True] * 5 + [False, True]),
}


@pytest.mark.parametrize("level", [BEST, isa.EMULATED], ids=lambda level: level.name)
@pytest.mark.parametrize("name", PATTERNS)
def test_logits(name: str, level: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, near = PATTERNS[name]
    monkeypatch.setenv("GGUFPY_ISA", level.name)
    with gguf.open(write_model(tmp_path / "m", changes)) as file:
        assert near_of(read_plan(file)) == near
        with load(file, EngineOptions(n_threads=2)) as session:
            exact = forward(file, near)
            if name.startswith("capped"):
                exact = 2 * np.tanh(exact / 2)
            assert difference(exact, session.eval_logits(TOKENS)) < 2e-3


@pytest.mark.parametrize("level", [BEST, isa.EMULATED], ids=lambda level: level.name)
def test_a_text_far_longer_than_the_window(level: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPY_ISA", level.name)
    tokens = np.random.default_rng(6).integers(0, VOCABULARY, 800).tolist()
    rows, sizes = [], []
    with gguf.open(write_model(tmp_path / "m", {"context_length": 1024, "attention.sliding_window": 100})) as file:
        plan = read_plan(file)
        for n_batch in (40, 1024):  # pages fall behind the window, or all are kept
            with load(file, EngineOptions(n_threads=2, n_batch=n_batch)) as session:
                rows.append(session.eval_logits(tokens))
                sizes.append(session.engine.kv_bytes)
        exact = Interpreter(plan, {name: tensor.to_numpy() for name, tensor in file.tensors.items()}).logits(tokens)
    np.testing.assert_array_equal(*rows)
    assert difference(exact, rows[0]) < 1e-2
    assert sizes[0] * 56 == sizes[1] * (8 + 6 * 5)  # six layers of seven have 5 pages, not 8


def test_the_plan(tmp_path: Path) -> None:
    with gguf.open(write_model(tmp_path / "m", {"rope.freq_base_swa": 5000.0})) as file:
        plan = read_plan(file)
        assert set(plan.weights) == set(file.tensors)
    ropes = [op.rope for op in plan.body if isinstance(op, Rotate) and op.x == "q"]
    assert [rope.base for rope in ropes] == [5000.0] * 5 + [1e6, 5000.0]
    assert all(rope.neox for rope in ropes)
    assert {op.groups for op in plan.body if isinstance(op, Norm)} == {1, 2}
    assert plan.embed.scale == pytest.approx(40**0.5)
    assert isinstance(plan.head[1], MatMul)
    assert plan.head[1].weight == plan.embed.weight


def test_the_largest_model_scales_by_its_width(tmp_path: Path) -> None:
    changes = {"block_count": 62, "attention.key_length": 16, "attention.value_length": 16}
    with gguf.open(write_model(tmp_path / "m", changes)) as file:
        assert {op.scale for op in read_plan(file).body if isinstance(op, Attend)} == {1 / math.sqrt(40 / 2)}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attention.sliding_window_pattern": [True, False]}, "true or false for each of 7 layers"),
        ({"attention.sliding_window_pattern": [1, 2, 3, 4, 5, 6, 7]}, "true or false for each of 7 layers"),
        ({"attention.sliding_window_pattern": "two"}, "must be a whole number"),
    ],
)
def test_refused(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    with gguf.open(write_model(tmp_path / "m", changes)) as file, pytest.raises(GGUFError, match=match):
        read_plan(file)


def test_a_trial_runs_every_kernel_of_the_model(tmp_path: Path) -> None:
    with gguf.open(write_model(tmp_path / "m", {})) as file:
        plan, options, kernels = read_plan(file), EngineOptions(), library(BEST)
        wanted = load_kernels(file, plan, options, kernels)
        types = {name: tensor.type for name, tensor in file.tensors.items()}
        tried = trial.Trial(BEST.name, *trial.small(plan, types))
        assert len(tried.plan.layers) == 2  # with a window and without
        assert set(load_kernels(trial.source_of(tried), tried.plan, options, kernels)) == set(wanted)
        assert trial.error_of(tried) < trial.LARGEST_ERROR / 5
