"""Where the time of steps goes: every call is counted with its work, and timing it changes no bit."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from engine import SIZES, VOCABULARY, load, synthetic, write_model

from ggufpy import cli
from ggufpy import format as gguf
from ggufpy.backends.cpu.threads import clock_address
from ggufpy.errors import GGUFError
from ggufpy.runtime import EngineOptions
from ggufpy.runtime.engine import Chunk

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no clock_gettime")
TEXT = np.random.default_rng(1).integers(0, VOCABULARY, 40).tolist()
LAYERS = SIZES["block_count"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf", type_name="F16")


def test_every_call_is_counted_and_no_bit_changes(path: Path) -> None:
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=2, n_ctx=64, n_batch=16)) as session:
        plain = session.eval_logits(TEXT)
        session.truncate(0)
        start = time.perf_counter()
        with session.engine.profile() as profile:
            timed = session.eval_logits(TEXT)
        elapsed = time.perf_counter() - start
        session.truncate(0)
        np.testing.assert_array_equal(session.eval_logits(TEXT), plain)  # no longer timed
        ops = profile.ops()
        width, rows = SIZES["embedding_length"], len(TEXT)
    np.testing.assert_array_equal(timed, plain)
    assert 0 < sum(op.seconds for op in ops) <= elapsed
    assert all(0 <= op.waiting <= op.seconds for op in ops)
    assert [op.seconds for op in ops] == sorted((op.seconds for op in ops), reverse=True)
    found = {(op.op, op.kernel): op for op in ops}
    norm = found["attn_norm", "norm"]
    assert (norm.calls, norm.flops) == (3 * LAYERS, 0)  # 40 tokens are three steps of 16 at most
    assert norm.bytes >= rows * LAYERS * 2 * 4 * width
    (up,) = (op for name, op in found.items() if name[0] == "ffn_up" and name[1].startswith("matmul"))
    assert up.flops == 2.0 * rows * LAYERS * width * SIZES["feed_forward_length"]
    assert up.bytes > 6 * LAYERS * width * SIZES["feed_forward_length"]  # two bytes a weight, read in every step
    (attention,) = (op for op in ops if op.kernel in ("attention", "attention_tiles"))
    heads = SIZES["attention.head_count"]
    assert attention.flops == 2.0 * LAYERS * sum(range(1, rows + 1)) * 2 * (width // heads) * heads
    assert 0 < attention.bytes < 1e6


def test_experts_count_where_they_were_chosen(tmp_path: Path) -> None:
    shapes = synthetic()
    shape = shapes.SHAPES["tiny-moe"]
    shapes.write_model(tmp_path / "m", shape, "F16")
    with gguf.open(tmp_path / "m") as file, load(file, EngineOptions(n_threads=2)) as session:
        with session.engine.profile() as profile:
            session.eval_logits([5])
        one = {op.op: op for op in profile.ops()}
        with session.engine.profile() as profile:
            session.eval_logits(list(range(60)))
        many = {op.op: op for op in profile.ops()}
    weights, expert = shape.n_embd * shape.n_ff, 2 * shape.n_embd * shape.n_ff
    for name in ("ffn_up_exps", "ffn_gate_exps", "ffn_down_exps"):
        assert one[name].flops == 2.0 * weights * shape.n_expert_used * shape.n_layer
        assert many[name].flops == 60 * one[name].flops
        assert 2 * expert * shape.n_layer < one[name].bytes < 2.1 * expert * shape.n_layer
        assert 7 * expert * shape.n_layer < many[name].bytes < 9.5 * expert * shape.n_layer


def test_bench_shows_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", str(path), "-p", "20", "-n", "3", "-r", "1", "-t", "1", "--profile"]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "prompt by op" in text
    assert "decode by op" in text
    assert cli.main([*words, "--json"]) == 0
    profile = json.loads(capsys.readouterr().out)["profile"]
    assert list(profile) == ["pp", "tg"]
    fields = ["op", "kernel", "calls", "seconds", "waiting", "flops", "bytes"]
    assert all(list(op) == fields for ops in profile.values() for op in ops)
    decoded = next(op for op in profile["tg"] if op["op"] == "ffn_down" and op["kernel"].startswith("matmul"))
    assert decoded["calls"] == 3 * LAYERS
    assert cli.main([*words, "-p", "0"]) == 0
    assert "prompt by op" not in capsys.readouterr().out


def test_a_system_without_the_clock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(GGUFError, match="Windows"):
        clock_address()


def test_attention_of_a_mixed_step_is_counted_once(path: Path) -> None:
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=1, n_ctx=64, n_parallel=2)) as session:
        engine = session.engine
        one, two = engine.sequence(), engine.sequence()
        with engine.profile() as profile:
            engine.step([Chunk(one, TEXT[:20], bulk=True), Chunk(two, TEXT[:3])])
        flops = sum(op.flops for op in profile.ops() if op.kernel.startswith("attention"))
    width = SIZES["embedding_length"]
    assert flops == 2.0 * LAYERS * (sum(range(1, 21)) + sum(range(1, 4))) * 2 * width
