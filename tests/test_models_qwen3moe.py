"""Qwen 3 with experts: its plan, logits against a forward pass written out here, importance, quantising."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BEST, NOTHING, VOCABULARY, attend, encoded, half, load, synthetic, up

from ggufpy import cli
from ggufpy import format as gguf
from ggufpy.backends.cpu.model import load_kernels, read_plan
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import library
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.ops import ExpertMatMul, Rotate, Route
from ggufpy.quantizer.importance import ImportanceMatrix
from ggufpy.runtime import EngineOptions, trial
from ggufpy.runtime.engine import Chunk
from ggufpy.simd import isa

EXPERTS, USED, WIDTH, HIDDEN = 6, 2, 64, 32
SIZES: Mapping[str, Any] = {
    "context_length": 256, "embedding_length": WIDTH, "block_count": 2, "feed_forward_length": 96,
    "attention.head_count": 3, "attention.head_count_kv": 1, "attention.key_length": 32, "attention.value_length": 32,
    "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6, "expert_count": EXPERTS,
    "expert_used_count": USED, "expert_feed_forward_length": HIDDEN,
}  # fmt: skip
TEXT = np.random.default_rng(3).integers(0, VOCABULARY, 40).tolist()


def write_model(
    path: Path, changes: Mapping[str, Any] = NOTHING, type_name: str = "F32", tensors: Mapping[str, Any] = NOTHING
) -> Path:
    """A tiny model of random weights. `changes` to SIZES or further keys, None leaves one out; `tensors` replaced."""
    rng = np.random.default_rng(4)

    def matrix(*shape: int) -> Any:
        return encoded(rng.standard_normal(shape) / math.sqrt(shape[-1]), type_name)

    def norm(length: int) -> Any:
        return (1.0 + 0.2 * rng.standard_normal(length)).astype(np.float32)

    made = {"token_embd.weight": matrix(VOCABULARY, WIDTH), "output_norm.weight": norm(WIDTH)}
    for i in range(2):
        at = f"blk.{i}."
        made |= {f"{at}attn_norm.weight": norm(WIDTH), f"{at}ffn_norm.weight": norm(WIDTH)}
        made |= {f"{at}attn_q_norm.weight": norm(32), f"{at}attn_k_norm.weight": norm(32)}
        made |= {f"{at}attn_q.weight": matrix(96, WIDTH), f"{at}attn_k.weight": matrix(32, WIDTH)}
        made |= {f"{at}attn_v.weight": matrix(32, WIDTH), f"{at}attn_output.weight": matrix(WIDTH, 96)}
        made[f"{at}ffn_gate_inp.weight"] = (rng.standard_normal((EXPERTS, WIDTH)) / 8).astype(np.float32)
        made |= {f"{at}ffn_{name}_exps.weight": matrix(EXPERTS, HIDDEN, WIDTH) for name in ("gate", "up")}
        made[f"{at}ffn_down_exps.weight"] = matrix(EXPERTS, WIDTH, HIDDEN)
    sizes = {**SIZES, **changes}
    metadata = {"general.architecture": "qwen3moe", **{f"qwen3moe.{k}": v for k, v in sizes.items() if v is not None}}
    gguf.write(path, metadata, {**made, **tensors})
    return path


class Forward:
    """The model in float64; keys and values are kept as f16.

    `margin` is the least difference between the logit of the last expert that a token of any layer chose and that of
    the next one: below the errors of what is compared, another choice would be as right. `inputs` are those of experts,
    (expert, row) by weight.
    """

    def __init__(self, file: Any, tokens: list[int]) -> None:
        self._t = {name: tensor.to_numpy().astype(np.float64) for name, tensor in file.tensors.items()}
        self.margin, self.inputs = math.inf, dict[str, list[tuple[int, Any]]]()
        t, n, places = self._t, len(tokens), np.arange(len(tokens))

        def turned(x: Any) -> Any:
            angle = places[:, None, None] * 1e6 ** (-np.arange(16) / 16)
            first, second = x[..., :16], x[..., 16:]
            return np.concatenate(
                [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], -1
            )

        x = t["token_embd.weight"][tokens]
        for i in range(2):
            at = f"blk.{i}."
            h = self._norm(x, at + "attn_norm")
            q = turned(self._norm((h @ t[at + "attn_q.weight"].T).reshape(n, 3, 32), at + "attn_q_norm"))
            k = half(turned(self._norm((h @ t[at + "attn_k.weight"].T).reshape(n, 1, 32), at + "attn_k_norm")))
            v = half((h @ t[at + "attn_v.weight"].T).reshape(n, 1, 32))
            x = x + attend(q / math.sqrt(32), k, v).reshape(n, -1) @ t[at + "attn_output.weight"].T
            h = self._norm(x, at + "ffn_norm")
            x = x + np.stack([self._experts(row, at) for row in h])
        output = t.get("output.weight", t["token_embd.weight"])
        self.logits = self._norm(x, "output_norm") @ output.T

    def _norm(self, x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * self._t[f"{name}.weight"]

    def _experts(self, h: Any, at: str) -> Any:
        """The feed-forward part of one token."""
        logits = self._t[at + "ffn_gate_inp.weight"] @ h
        order = np.argsort(-logits)
        self.margin = min(self.margin, logits[order[USED - 1]] - logits[order[USED]])
        p = np.exp(logits - logits.max())
        y = np.zeros(WIDTH)
        for e in order[:USED]:
            gate, up, down = (self._t[f"{at}ffn_{name}_exps.weight"][e] for name in ("gate", "up", "down"))
            g = gate @ h
            inner = g / (1 + np.exp(-g)) * (up @ h)
            y += p[e] / p[order[:USED]].sum() * (down @ inner)
            for name, given in (("gate", h), ("up", h), ("down", inner)):
                self.inputs.setdefault(f"{at}ffn_{name}_exps.weight", []).append((e, given))
        return y


def error(exact: Any, ours: Any) -> float:
    """Of a token at most, over the spread of logits: root of the mean square."""
    return float(np.sqrt(((exact - ours) ** 2).mean(axis=1)).max() / exact.std())


@pytest.mark.parametrize("level", [*isa.available(), isa.EMULATED], ids=lambda level: level.name)
def test_logits(level: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPY_ISA", level.name)
    with gguf.open(write_model(tmp_path / "m")) as file:
        forward = Forward(file, TEXT)
        with load(file, EngineOptions(n_threads=2)) as session:
            at_once = session.eval_logits(TEXT)
        with load(file, EngineOptions(n_threads=2, n_batch=1)) as session:
            one_by_one = session.eval_logits(TEXT)
        plan = read_plan(file)
        truth = Interpreter(plan, {name: file.tensors[name].to_numpy() for name in plan.weights}).logits(TEXT)
    assert forward.margin > 3e-3  # of float32 and an f16 cache
    assert max(error(forward.logits, rows) for rows in (at_once, one_by_one)) < (
        0.03 if level.lowering.startswith("amx") else 2e-3
    )
    assert error(truth, forward.logits) < 2e-3


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0", "F16"])
def test_quantised_types(type_name: str, tmp_path: Path) -> None:
    """Of several sequences at once, prompts in pieces and tokens one by one; typical tokens are near to exact."""
    with gguf.open(write_model(tmp_path / "m", type_name=type_name)) as file:
        plan = read_plan(file)
        exact = Interpreter(plan, {name: file.tensors[name].to_numpy() for name in plan.weights}).logits(TEXT)
        with load(file, EngineOptions(n_threads=2, n_batch=32, n_parallel=3)) as session:
            engine = session.engine
            one, two = engine.sequence(), engine.sequence()
            results = engine.step([Chunk(two, TEXT[:5], "all"), Chunk(one, TEXT[:20], "all", bulk=True)])
            for i in range(5, 40):
                results += engine.step([Chunk(two, [TEXT[i]], "all")])
            rows = np.concatenate([results[0], *results[2:]])
            again = engine.step([Chunk(one, TEXT[20:40], "all", bulk=True)])
            bulk = np.concatenate([results[1], *again])
        with load(file, EngineOptions(n_threads=1, n_batch=64)) as session:
            alone = session.engine.step([Chunk(session.engine.sequence(), TEXT, "all", bulk=True)])[0]
            exact_rows = session.engine.step([Chunk(session.engine.sequence(), TEXT, "all")])[0]
    np.testing.assert_array_equal(bulk, alone)
    np.testing.assert_array_equal(rows, exact_rows)
    for some in (rows, bulk):  # a few tokens may choose other experts, where two are as good
        errors = np.sqrt(((exact - some) ** 2).mean(axis=1)) / exact.std()
        assert np.median(errors) < 0.02


def test_a_context_shifts(tmp_path: Path) -> None:
    with gguf.open(write_model(tmp_path / "m")) as file, load(file, EngineOptions(n_threads=2)) as session:
        sequence = session.engine.sequence()
        session.engine.step([Chunk(sequence, TEXT, "last")])
        sequence.shift(4, 12)
        first = session.engine.step([Chunk(sequence, [7], "last")])[0]
        other = session.engine.sequence()
        session.engine.step([Chunk(other, TEXT, "last")])
        other.shift(4, 12)
        np.testing.assert_array_equal(session.engine.step([Chunk(other, [7], "last")])[0], first)
        assert sequence.n_past == 29
        assert np.isfinite(first).all()


def test_the_plan(tmp_path: Path) -> None:
    changes = {"expert_feed_forward_length": None, "feed_forward_length": USED * HIDDEN}
    with gguf.open(write_model(tmp_path / "m", changes)) as file:
        plan = read_plan(file)
        assert set(plan.weights) == set(file.tensors)
        with load(file, EngineOptions(n_threads=1)) as session:
            rows = 2 * (96 + 2 * 32 + up(EXPERTS, BEST.lanes) + USED * 2 * HIDDEN) + up(VOCABULARY, BEST.lanes)
            assert session.engine.weight_bytes == 4 * (rows * WIDTH + 2 * WIDTH * (96 + USED * HIDDEN))
            per_token = session.engine.prompt_flops(2) - session.engine.prompt_flops(1)
            assert per_token == 2.0 * 2 * (WIDTH * (96 * 2 + 2 * 32 + EXPERTS) + USED * 3 * HIDDEN * WIDTH)
    (rope,) = {op.rope for op in plan.body if isinstance(op, Rotate)}
    assert (rope.neox, rope.base) == (True, 1e6)
    assert [op.renormalised for op in plan.body if isinstance(op, Route)] == [True, True]
    assert {op.count for op in plan.body if isinstance(op, ExpertMatMul)} == {USED}
    assert plan.head[-1].weights == plan.embed.weights


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"expert_count": None}, "no qwen3moe.expert_count"),
        ({"expert_count": 0}, "qwen3moe.expert_count is 0"),
        ({"expert_used_count": None}, "no qwen3moe.expert_used_count"),
        ({"expert_used_count": 7}, "expert_used_count is 7, of 6 experts"),
        ({"expert_count": 5}, r"ffn_gate_inp.weight has shape \(6, 64\); \(5, 64\) expected"),
        ({"expert_feed_forward_length": 48}, r"ffn_gate_exps.weight has shape \(6, 32, 64\); \(6, 48, 64\)"),
        (
            {"expert_feed_forward_length": None, "feed_forward_length": None},
            "no qwen3moe.expert_feed_forward_length",
        ),
    ],
)
def test_refused(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    with gguf.open(write_model(tmp_path / "m", changes)) as file, pytest.raises(GGUFError, match=match):
        read_plan(file)


def test_experts_of_an_odd_width_are_refused(tmp_path: Path) -> None:
    odd = {
        f"blk.{i}.ffn_{name}_exps.weight": np.zeros((6, 64, 40) if name == "down" else (6, 40, 64), np.float32)
        for i in range(2) for name in ("gate", "up", "down")
    }  # fmt: skip
    with gguf.open(write_model(tmp_path / "m", {"expert_feed_forward_length": 40}, tensors=odd)) as file:
        plan = read_plan(file)
        with pytest.raises(GGUFError, match=r"ffn_gate_exps.weight: .* width of 40; ggufpy runs multiples of 32"):
            load_kernels(file, plan, EngineOptions(), library(BEST))


def test_a_trial_runs_every_kernel_of_the_model(tmp_path: Path) -> None:
    shapes = synthetic()
    shapes.write_model(tmp_path / "m", shapes.SHAPES["tiny-moe"], "Q4_K_M")
    with gguf.open(tmp_path / "m") as file:
        plan, options, kernels = read_plan(file), EngineOptions(), library(BEST)
        wanted = load_kernels(file, plan, options, kernels)
        tried = trial.Trial(BEST.name, *trial.small(plan, {n: t.type for n, t in file.tensors.items()}))
        loaded = set(load_kernels(trial.source_of(tried), tried.plan, options, kernels))
        assert loaded == {code for code in wanted if code.source != "decode"}
        assert trial.error_of(tried) < trial.LARGEST_ERROR / 5


# -- importance and quantising -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_batch", [7, 64])
def test_importance_is_summed_by_expert(n_batch: int, tmp_path: Path) -> None:
    with gguf.open(write_model(tmp_path / "m")) as file:
        forward = Forward(file, TEXT)
        with load(file, EngineOptions(n_threads=2, n_batch=n_batch)) as session:
            engine = session.engine
            sequence = engine.sequence()
            with engine.collect() as collector:
                for start in range(0, len(TEXT), engine.rows):
                    part = TEXT[start : start + engine.rows]
                    engine.step([Chunk(sequence, part, "none", engine.reads_in_bulk(len(TEXT)))])
            squares = collector.squares()
    for name, inputs in forward.inputs.items():
        wanted = np.zeros((EXPERTS, len(inputs[0][1])))
        for e, x in inputs:
            wanted[e] += x**2
        sums, counts = squares[name]
        np.testing.assert_allclose(sums, wanted, rtol=2e-3, atol=1e-5 * wanted.max())
        assert counts.tolist() == np.bincount([e for e, _ in inputs], minlength=EXPERTS).tolist()
    sums, counts = squares["blk.0.ffn_gate_inp.weight"]
    assert (sums.shape, counts.tolist()) == ((1, WIDTH), [len(TEXT)])


def test_a_file_is_measured_and_quantised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From F16 through an importance matrix of each expert to Q4_K_M, whose types are those of llama-quantize."""
    shapes = synthetic()
    source, matrix, out, text = (tmp_path / name for name in ("m.gguf", "i.gguf", "q.gguf", "text"))
    shapes.write_model(source, shapes.SHAPES["tiny-moe"], "F16")
    text.write_text("abcdefgh " * 40)
    assert cli.main(["imatrix", str(source), "-f", str(text), "-o", str(matrix), "-c", "32", "--chunks", "3"]) == 0
    read = ImportanceMatrix.read(matrix)
    for name, columns in (("ffn_up_exps", 256), ("ffn_down_exps", 256)):
        assert read.sums[f"blk.1.{name}.weight"].shape == (8, columns)
        assert read.counts[f"blk.1.{name}.weight"].sum() == 3 * 32 * 2
    assert cli.main(["quantize", str(source), str(out), "Q4_K_M", "--imatrix", str(matrix), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bytes_out"] == out.stat().st_size
    with gguf.open(source) as exact, gguf.open(out) as file:
        types = {name.split(".")[-2]: t.type for name, t in file.tensors.items() if name.startswith("blk.0.")}
        assert (types["ffn_up_exps"], types["ffn_gate_exps"], types["ffn_gate_inp"]) == ("Q4_K", "Q4_K", "F32")
        assert types["ffn_down_exps"] in ("Q4_K", "Q6_K")
        for name, tensor in file.tensors.items():
            x, y = exact.tensors[name].to_numpy(), tensor.to_numpy()
            assert np.sqrt(((x - y) ** 2).mean()) <= 0.12 * x.std(), name
        with load(file, EngineOptions(n_threads=1)) as session:
            assert np.isfinite(session.eval_logits(TEXT)).all()
            assert session.engine.type_name == "Q4_K"
