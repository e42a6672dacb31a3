"""Models that do not fit together: every mistake is one line that names it, at once, before memory is taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import LEVELS, SIZES, difference, load, metadata, reference, weights, write_model

import ggufpy
from ggufpy import format as gguf
from ggufpy import models
from ggufpy.backends.cpu.rope import RopeTable
from ggufpy.errors import GGUFError
from ggufpy.format import Typed
from ggufpy.models.base import Inventory, Keys
from ggufpy.models.llama import read_config, read_long_rope
from ggufpy.models.ops import Attend, Gate, Heads, MatMul, Norm, Rope, Rotate, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.models.rope import frequencies, magnitude
from ggufpy.runtime import EngineOptions

pytestmark = pytest.mark.usefixtures("deadline")


def refused(path: Path, match: str) -> str:
    """The one line with which a model is refused."""
    with gguf.open(path) as file, pytest.raises(GGUFError, match=match) as error:
        load(file, EngineOptions(n_threads=1)).close()
    message = str(error.value)
    assert message.isprintable(), "one line, without control characters"
    assert len(message) < 500
    return message


def rope_of(plan: Plan) -> Rope:
    """How a plan's heads turn, all of them alike."""
    (rope,) = {op.rope for op in plan.body if isinstance(op, Rotate)}
    return rope


def plan(path: Path) -> Plan:
    with gguf.open(path) as file:
        return models.find("llama").plan(Keys(file.metadata), file.tensors)


# -- architectures -----------------------------------------------------------------------------------------


def test_every_module_is_an_architecture() -> None:
    assert "llama" in models.names()
    for name in models.names():
        assert callable(models.find(name).plan)


def test_an_architecture_whose_name_no_module_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_three_words.py").write_text('NAME = "of-three.words"\nplan = print\n')
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    assert "of-three.words" in models.names()
    assert models.find("of-three.words").plan is print
    for other in ("of_three_words", "of-three-words"):
        with pytest.raises(GGUFError, match="which ggufpy does not run yet"):
            models.find(other)


@pytest.mark.parametrize("name", ["gpt17", "base", "", "llama ", "LLAMA", "../llama", "os", "a\nb", "x" * 10_000])
def test_an_architecture_that_does_not_run(name: str, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m", {**metadata(SIZES), "general.architecture": name}, {})
    assert "llama" in refused(tmp_path / "m", "general.architecture")


@pytest.mark.parametrize("value", [None, 5, True, 2.0, ["llama"]])
def test_no_architecture(value: Any, tmp_path: Path) -> None:
    keys = {**metadata(SIZES), "general.architecture": value}
    gguf.write(tmp_path / "m", {k: v for k, v in keys.items() if v is not None}, {})
    refused(tmp_path / "m", "general.architecture")


# -- metadata ----------------------------------------------------------------------------------------------

COUNTS = (
    "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count",
    "rope.scaling.original_context_length",
)  # fmt: skip
BY_LAYER = ("feed_forward_length", "attention.head_count", "attention.head_count_kv")
BAD_COUNTS = [
    -1, Typed("uint64", 2**62), Typed("uint64", 2**64 - 1), Typed("int64", -(2**63)), 2.0, float("nan"), "2", True,
    Typed("array[int32]", []), [2, 3], [2.5, 2.5], ["2"], Typed("int64", 2**32), "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_COUNTS, ids=lambda v: repr(v)[:30])
@pytest.mark.parametrize("key", COUNTS)
def test_counts_out_of_range(key: str, value: Any, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m", metadata({**SIZES, key: value}), weights(SIZES, 61, "F32"))
    by_layer = value == [2, 3] and key in BY_LAYER  # then it is not what the other sizes say
    refused(tmp_path / "m", "cannot share|tensor blk" if by_layer else re.escape(f"llama.{key}"))


@pytest.mark.parametrize("key", BY_LAYER)
def test_lists_that_are_too_short(key: str, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m", metadata({**SIZES, key: [2]}), weights(SIZES, 61, "F32"))
    refused(tmp_path / "m", re.escape(f"llama.{key} has 1 numbers; it must have one for each of 2 layers"))


@pytest.mark.parametrize("key", [key for key in COUNTS if key != "rope.scaling.original_context_length"])
def test_counts_of_nothing(key: str, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m", metadata({**SIZES, key: 0}), weights(SIZES, 61, "F32"))
    refused(tmp_path / "m", re.escape(f"llama.{key} is 0; it must be a whole number from 1"))


@pytest.mark.parametrize("key", ["context_length", "embedding_length", "block_count", "feed_forward_length"])
def test_counts_that_are_missing(key: str, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m", metadata({k: v for k, v in SIZES.items() if k != key}), weights(SIZES, 61, "F32"))
    refused(tmp_path / "m", f"the metadata has no llama.{key}")


FACTORS = ("rope.scaling.factor", "rope.scale_linear")  # 0 in them means none
NUMBERS = (
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow", "rope.scaling.low_freq_factor", "rope.scaling.high_freq_factor",
)  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_that_must_not_be_zero(key: str, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m", metadata({**SIZES, key: 0.0}), weights(SIZES, 61, "F32"))
    refused(tmp_path / "m", re.escape(f"llama.{key} is 0.0"))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), -float("inf"), "1", True, False, [1.0]])
@pytest.mark.parametrize("key", [*NUMBERS, *FACTORS])
def test_numbers_out_of_range(key: str, value: Any, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m", metadata({**SIZES, key: value}), weights(SIZES, 61, "F32"))
    refused(tmp_path / "m", re.escape(f"llama.{key}"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attention.head_count": 3, "attention.head_count_kv": 2}, "3 attention heads cannot share 2"),
        ({"attention.head_count": 1, "attention.head_count_kv": 2}, "1 attention heads cannot share 2"),
        ({"expert_count": 8}, "has no llama.expert_used_count"),
        ({"expert_count": -1}, "expert_count"),
        ({"attention.sliding_window": -1}, "sliding_window"),
        ({"attention.key_length": 1025}, "larger than ggufpy runs"),
        ({"attention.value_length": 2**30}, "larger than ggufpy runs"),
        ({"attention.head_count": 65, "attention.head_count_kv": 1}, "larger than ggufpy runs"),
        ({"rope.dimension_count": 7}, "rope.dimension_count is 7; it must be even"),
        ({"rope.dimension_count": 22}, "rope.dimension_count is 22; it must be even and at most 20"),
        ({"rope.scaling.type": "ntk"}, "rope.scaling.type is 'ntk'"),
        ({"rope.scaling.type": "x" * 5000}, "rope.scaling.type"),
        ({"rope.scaling.type": 3}, "rope.scaling.type is 3; it must be a string"),
        ({"block_count": 10**9}, r"tensor blk\.2\.attn_norm\.weight is missing"),
        ({"block_count": 1}, r"tensors that this architecture does not use: 'blk\.1\."),
        ({"embedding_length": 2**30}, "heads of 536870912 .* larger than ggufpy runs"),
        ({"embedding_length": 41}, "token_embd.weight has shape"),
        ({"feed_forward_length": 2**31 - 1}, "ffn_gate.weight has shape"),
        ({"attention.head_count": 2**31 - 1, "attention.head_count_kv": 2**31 - 1}, "rope.dimension_count is 1"),
    ],
)
def test_metadata_that_do_not_fit(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    gguf.write(tmp_path / "m", metadata({**SIZES, **changes}), weights(SIZES, 61, "F32"))
    refused(tmp_path / "m", match)


EXTREMES: dict[str, dict[str, Any]] = {
    "base 1": {"rope.freq_base": 1.0},
    "yarn, base 1": {"rope.scaling.type": "yarn", "rope.freq_base": 1.0, "rope.scaling.factor": 4.0},
    "yarn, fast tiny": {"rope.scaling.type": "yarn", "rope.scaling.yarn_beta_fast": Typed("float64", 1e-308)},
    "yarn, slow huge": {"rope.scaling.type": "yarn", "rope.scaling.yarn_beta_slow": Typed("float64", 1e308)},
    "base tiny": {"rope.freq_base": Typed("float64", 5e-324)},
    "base huge": {"rope.freq_base": Typed("float64", 1.7e308)},
    "factor tiny": {"rope.scaling.type": "linear", "rope.scaling.factor": Typed("float64", 5e-324)},
    "yarn factor huge": {"rope.scaling.type": "yarn", "rope.scaling.factor": Typed("float64", 1.7e308)},
    "llama3, bands reversed": {
        "rope.scaling.type": "llama3", "rope.scaling.low_freq_factor": 8.0, "rope.scaling.high_freq_factor": 2.0,
    },
    "epsilon tiny": {"attention.layer_norm_rms_epsilon": Typed("float64", 5e-324)},
    "epsilon huge": {"attention.layer_norm_rms_epsilon": Typed("float64", 1.7e308)},
    "window huge": {"attention.sliding_window": 2**32 - 1},
    "window of one": {"attention.sliding_window": 1},
    "context of one": {"context_length": 1},
    "context huge": {"context_length": 2**32 - 1},
}  # fmt: skip


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.filterwarnings("error")
def test_extremes_run_or_are_refused(name: str, tmp_path: Path) -> None:
    """Values that are allowed one by one and senseless together: an error in one line, or numbers, never a crash."""
    path = write_model(tmp_path / "m", EXTREMES[name])
    with gguf.open(path) as file:
        try:
            session = load(file, EngineOptions(n_threads=1, n_batch=4))
        except GGUFError:
            return
        with session:
            session.eval([1] if session.engine.n_ctx == 1 else [1, 2, 3, 4, 5])
            assert session.last_logits().shape == (61,)


# -- LongRoPE --------------------------------------------------------------------------------------------------------


def long_rope(path: Path, n_ctx: int) -> Rope:
    with gguf.open(path) as file:
        keys, table = Keys(file.metadata, n_ctx), Inventory(file.tensors)
        rope = read_long_rope(keys, read_config(keys), table)
        assert {"rope_factors_long.weight", "rope_factors_short.weight"} <= table._used
        return rope


def test_long_rope_goes_by_the_context(tmp_path: Path) -> None:
    factors = {kind: np.linspace(1, 1 + top, 10, dtype=np.float32) for kind, top in (("long", 9), ("short", 2))}
    tensors = {f"rope_factors_{kind}.weight": values for kind, values in factors.items()}
    changes = {"rope.scaling.original_context_length": 16, "rope.scaling.type": "longrope"}
    path = write_model(tmp_path / "m", {**changes, "rope.scaling.attn_factor": 1.5}, tensors)
    base = 10000.0 ** (-np.arange(0, 20, 2) / 20)
    for n_ctx, kind in ((0, "long"), (17, "long"), (16, "short"), (8, "short")):  # 0 is the model's own, 64
        rope = long_rope(path, n_ctx)
        np.testing.assert_allclose(frequencies(rope), base / factors[kind], rtol=1e-6)
        assert magnitude(rope) == 1.5
    tensors["rope_factors_long.weight"] = np.zeros(10, np.float32)
    with pytest.raises(GGUFError, match=r"rope_factors_long\.weight has a factor that is not from"):
        long_rope(write_model(tmp_path / "n", changes, tensors), 8)
    tensors["rope_factors_long.weight"] = None
    with pytest.raises(GGUFError, match=r"rope_factors_long\.weight is missing"):
        long_rope(write_model(tmp_path / "o", changes, tensors), 8)


def test_yarn_may_take_back_what_it_makes_larger(tmp_path: Path) -> None:
    changes = {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0}
    for multiplier, wanted in ((None, 1 + 0.1 * np.log(8)), (1.0, 1.0)):
        more = {"rope.scaling.yarn_log_multiplier": multiplier}
        rope = rope_of(plan(write_model(tmp_path / f"{multiplier}", {**changes, **more})))
        assert magnitude(rope) == pytest.approx(wanted)


# -- defaults: those of llama.cpp (src/llama-model.cpp, src/llama-context.cpp) ------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "factor"),
    [
        ({}, "linear", 1.0),
        ({"rope.scaling.factor": 4.0}, "linear", 4.0),
        ({"rope.scale_linear": 2.0}, "linear", 2.0),
        ({"rope.scaling.type": "yarn", "rope.scale_linear": 2.0}, "yarn", 2.0),
        ({"rope.scaling.factor": 4.0, "rope.scale_linear": 2.0}, "linear", 4.0),
        ({"rope.scaling.factor": 0.0, "rope.scale_linear": 2.0}, "linear", 1.0),
        ({"rope.scaling.factor": 0.0}, "linear", 1.0),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, "none", 4.0),
    ],
)
def test_how_positions_are_scaled(changes: dict[str, Any], kind: str, factor: float, tmp_path: Path) -> None:
    rope = rope_of(plan(write_model(tmp_path / "m", changes)))
    assert (rope.scaling, rope.factor) == (kind, factor)
    base = 10000.0 ** (-np.arange(0, 20, 2) / 20)
    if kind != "yarn":
        np.testing.assert_allclose(frequencies(rope), base / (1.0 if kind == "none" else factor), rtol=1e-12)


def test_what_a_file_leaves_out(tmp_path: Path) -> None:
    heads = read_config(Keys(metadata({k: v for k, v in SIZES.items() if k != "attention.head_count_kv"}))).heads
    assert (heads.queries, heads.shared, heads.key_length, heads.value_length) == (2, 2, 20, 20)
    made = plan(write_model(tmp_path / "m"))
    rope = rope_of(made)
    assert (rope.dimensions, rope.base, rope.neox, rope.original_context) == (20, 10000.0, False, 64)
    assert (rope.attention_factor, rope.beta_fast, rope.beta_slow) == (1.0, 32.0, 1.0)
    assert {op.window for op in made.body if isinstance(op, Attend)} == {0}


def test_the_length_of_values_does_not_follow_that_of_keys() -> None:
    heads = read_config(Keys(metadata({**SIZES, "attention.key_length": 8}))).heads
    assert (heads.key_length, heads.value_length) == (8, 20)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("hidden", [[52, 36], [36, 52], [33, 64]], ids=str)
def test_layers_of_several_widths(hidden: list[int], level: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GGUFPY_ISA", level.name)
    rng = np.random.default_rng(3)
    tensors = {}
    for i, width in enumerate(hidden):
        for name, shape in {"gate": (width, 40), "up": (width, 40), "down": (40, width)}.items():
            values = rng.standard_normal(shape) / shape[1] ** 0.5
            tensors[f"blk.{i}.ffn_{name}.weight"] = values.astype(np.float32)
    path = tmp_path / "m"
    gguf.write(path, metadata({**SIZES, "feed_forward_length": hidden}), {**weights(SIZES, 61, "F32"), **tensors})
    tokens = [1, 5, 9, 60, 0, 3]
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=2)) as session:
        exact = reference(file, tokens)
        logits = np.concatenate([session.eval_logits(tokens[:3]), session.eval_logits(tokens[3:])])
        assert difference(exact, logits) < 3e-3


def test_layers_of_several_heads_are_read(tmp_path: Path) -> None:
    changes = {"attention.head_count": [2, 4], "attention.head_count_kv": [1, 2], "attention.key_length": 20}
    config = read_config(Keys(metadata({**SIZES, **changes, "attention.value_length": 20})))
    assert [config.heads_of(i) for i in range(2)] == [Heads(2, 1, 20, 20), Heads(4, 2, 20, 20)]
    with pytest.raises(GGUFError, match="head_count differs between layers"):
        assert config.heads
    assert config.hidden == 52


def test_a_model_without_an_epsilon_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {"attention.layer_norm_rms_epsilon": None})
    refused(path, r"the metadata has no llama\.attention\.layer_norm_rms_epsilon")


def test_an_original_context_of_0_is_the_models(tmp_path: Path) -> None:
    made = plan(write_model(tmp_path / "m", {"rope.scaling.original_context_length": 0}))
    assert rope_of(made).original_context == 64


@pytest.mark.parametrize(
    ("kind", "factor", "magnitude"), [("none", 1.0, 0.5), ("linear", 4.0, 0.5), ("yarn", 4.0, 0.5 + 0.05 * np.log(4.0))]
)
def test_an_attention_factor_counts_whatever_the_scaling(
    kind: str, factor: float, magnitude: float, tmp_path: Path
) -> None:
    changes = {"rope.scaling.type": kind, "rope.scaling.factor": factor, "rope.scaling.attn_factor": 0.5}
    table = RopeTable(rope_of(plan(write_model(tmp_path / "m", changes))), 3)
    table.fill(np.array([7]), np.array([1]))
    np.testing.assert_allclose(np.hypot(table.angles[1, :, 0], table.angles[1, :, 1]), magnitude, rtol=1e-6)
    assert (table.angles[::2] == 0).all()


# -- tensors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in weights(SIZES, 61, "F32") if n != "output.weight"])
def test_a_tensor_that_is_missing(name: str, tmp_path: Path) -> None:
    refused(write_model(tmp_path / "m", {}, {name: None}), f"tensor {re.escape(name)} is missing")


@pytest.mark.parametrize("name", [n for n in weights(SIZES, 61, "F32") if "blk.1" not in n])
def test_a_tensor_of_another_shape(name: str, tmp_path: Path) -> None:
    given = weights(SIZES, 61, "F32")[name]
    one = given.reshape(-1)[:1].reshape(())
    for i, wrong in enumerate((given[:-1], given[..., :-1], given[..., None], given[:0], one)):
        path = write_model(tmp_path / f"m{i}", {}, {name: np.ascontiguousarray(wrong)})
        refused(path, f"tensor {re.escape(name)} |tensor output.weight has shape")


@pytest.mark.parametrize(
    ("name", "count"),
    [("blk.0.attn_q.bias", 41), ("blk.0.ffn_down.bias", 39), ("output.bias", 60), ("rope_freqs.weight", 20)],
)
def test_an_optional_tensor_of_another_shape(name: str, count: int, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {}, {name: np.ones(count, np.float32)})
    refused(path, f"tensor {re.escape(name)} has shape")


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("name", ["token_embd", "blk.1.attn_norm", "blk.0.ffn_up", "output", "rope_freqs"])
def test_weights_that_are_whole_numbers(name: str, kind: type[np.generic], tmp_path: Path) -> None:
    given = {**weights(SIZES, 61, "F32"), "rope_freqs.weight": np.ones(10)}[f"{name}.weight"]
    path = write_model(tmp_path / "m", {}, {f"{name}.weight": np.ones(given.shape, kind)})
    refused(path, f"tensor {re.escape(name)}.weight is I{8 * np.dtype(kind).itemsize}, whole numbers, where weights")


def with_tokens(path: Path, count: int, tensors: Mapping[str, Any], **keys: Any) -> Path:
    """A model of 61 rows and a vocabulary of `count` tokens."""
    texts = [chr(33 + i) for i in range(count)]
    vocabulary = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": texts, "tokenizer.ggml.merges": ["! #"]}
    made = {**weights(SIZES, 61, "F32"), **tensors}
    gguf.write(path, {**metadata(SIZES), **vocabulary, "tokenizer.ggml.eos_token_id": count - 1, **keys}, made)
    return path


def test_a_vocabulary_longer_than_the_embedding_is_refused(tmp_path: Path) -> None:
    message = refused(with_tokens(tmp_path / "m", 62, {}), "token_embd.weight has 61 rows for the 62 tokens")
    assert "tokenizer.ggml.tokens" in message


def test_a_vocabulary_that_is_no_array(tmp_path: Path) -> None:
    refused(with_tokens(tmp_path / "m", 61, {}, **{"tokenizer.ggml.tokens": "abc"}), "tokens' is string, not an array")


def test_rows_without_a_token_are_never_drawn(tmp_path: Path) -> None:
    """Padding is the likeliest by far, and is drawn by nothing: neither the first tokens nor those after drafts."""
    bias = np.zeros(61, np.float32)
    bias[50:] = 40.0
    path = with_tokens(tmp_path / "m", 50, {"output.bias": bias})
    for options in ({}, {"lookup": 4}):
        with ggufpy.Llama(path, n_threads=1, **options) as llm:
            assert llm.logits([1, 2, 3]).argmax(axis=1).min() >= 50
            for sampling in ({"temp": 0.0}, {"temp": 1.5, "seed": 3}, {"temp": 1.0, "top_k": 0, "top_p": 1.0}):
                made = llm.generate([1, 2, 3, 1, 2, 3], ignore_eos=True, **sampling)
                drawn = [next(made) for _ in range(30)]
                assert max(drawn) < 49


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_frequency_factors_are_checked(value: float, tmp_path: Path) -> None:
    factors = np.ones(10, np.float32)
    factors[7] = value
    refused(write_model(tmp_path / "m", {}, {"rope_freqs.weight": factors}), "rope_freqs.weight has a factor")


@pytest.mark.parametrize("name", ["blk.0.attn_norm.weight", "output_norm.weight", "blk.1.attn_k.bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_must_be_finite(name: str, value: float, tmp_path: Path) -> None:
    vector = np.ones(20 if "attn_k" in name else 40, np.float32)
    vector[-1] = value
    path = write_model(tmp_path / "m", {}, {name: vector})
    with gguf.open(path) as file, pytest.raises(GGUFError, match=f"{re.escape(name)} has a value that is not finite"):
        load(file, EngineOptions(n_threads=1))


@pytest.mark.parametrize("name", ["blk.2.attn_q.weight", "adapter", "evil\nname\x1b[31m", "y" * 5000])
def test_a_tensor_that_nobody_asked_for(name: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {}, {name: np.ones(3, np.float32)})
    refused(path, "tensors that this architecture does not use")


def test_many_tensors_that_nobody_asked_for(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {}, {f"extra.{i}": np.ones(1, np.float32) for i in range(50)})
    assert "and 46 more" in refused(path, "does not use: 'extra.0', 'extra.1', 'extra.10', 'extra.11'")


# -- the plan ----------------------------------------------------------------------------------------------


def test_the_plan_of_a_layer(tmp_path: Path) -> None:
    made = plan(write_model(tmp_path / "m", {"attention.sliding_window": 9}))
    assert (made.context, made.vocabulary, len(made.layers)) == (64, 61, 2)
    for layer in made.layers:
        assert [type(op) for op in layer] == [
            Norm, MatMul, MatMul, MatMul, Rotate, Rotate, StoreKv, Attend, MatMul, Norm, MatMul, MatMul, Gate, MatMul
        ]  # fmt: skip
    assert [type(op) for op in made.head] == [Norm, MatMul]
    assert {op.window for op in made.body if isinstance(op, Attend)} == {9}
    assert [op.layer for op in made.body if isinstance(op, Attend)] == [0, 1]
    attend = next(op for op in made.body if isinstance(op, Attend))
    assert attend.heads.group == 2
    assert attend.scale == pytest.approx(20**-0.5)
    assert set(made.weights) == set(weights(SIZES, 61, "F32"))


def test_a_tied_output_reads_the_embedding(tmp_path: Path) -> None:
    made = plan(write_model(tmp_path / "m", {}, {"output.weight": None}))
    assert isinstance(made.head[1], MatMul)
    assert made.head[1].weight == made.embed.weight
