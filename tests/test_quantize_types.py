"""The type of every tensor, against what llama.cpp records of its own choices.

The facts about Qwen3-0.6B, Qwen3-14B, Llama-3.1-70B, gpt-oss-120b and DeepSeek-V3.1 are those of llama.cpp's
tests/snapshots/*.schema (written by its tests/test-quant-type-selection.cpp, without an importance matrix, those of
gpt-oss before any fallback); those about Mixtral and SmolLM2 were worked out by hand from its src/llama-quant.cpp.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pytest

from ggufpy.errors import GGUFError
from ggufpy.quantizer.rules import Mix, Model, fitting, kind_of, may_change, model_of, needs_importance, order_of
from ggufpy.quantizer.types import FILE_TYPES, file_type

Layers = Iterable[int]
Fact = tuple[str, Layers | None, str]
# For each tensor that has another type than the file type's default: (its name without layer, layers or None for all,
# type); what comes later in a tuple counts.
Facts = Mapping[str, tuple[Fact, ...]]


@dataclass(frozen=True)
class Known:
    """A model whose types are known, by the sizes that its snapshot begins with."""

    model: Model
    columns: int
    ffn: tuple[str, ...] = ("ffn_gate", "ffn_up", "ffn_down")
    attention: tuple[str, ...] = ("attn_q", "attn_k", "attn_v", "attn_output")
    hidden: int = 0

    def tensors(self, layers: Iterable[int] | None = None) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its matrices."""
        n = self.columns
        found: dict[str, tuple[int, ...]] = {"token_embd.weight": (32_000, n), "output.weight": (32_000, n)}
        for i in range(self.model.layers) if layers is None else layers:
            for name in self.attention:
                found[f"blk.{i}.{name}.weight"] = (n, n)
            for name in self.ffn:
                rows = (self.hidden or n, n) if "down" not in name else (n, self.hidden or n)
                found[f"blk.{i}.{name}.weight"] = (8, *rows) if "exps" in name else rows
        return found


def choose(model: Model, tensors: Mapping[str, tuple[int, ...]], name: str, importance: bool = False) -> dict[str, str]:
    """The type of each tensor before any fallback."""
    mix = Mix(file_type(name), model, tensors, importance)
    return {tensor: mix.choose(tensor, tensors[tensor]) for tensor in sorted(tensors, key=order_of)}


def expected(known: Known, name: str, facts: Facts) -> dict[str, str]:
    """The types that the facts give."""
    found = dict.fromkeys(known.tensors(), FILE_TYPES[name].default)
    for part, layers, chosen in facts[name]:
        if part in ("output", "token_embd"):
            found[f"{part}.weight"] = chosen
            continue
        for i in range(known.model.layers) if layers is None else layers:
            found[f"blk.{i}.{part}.weight"] = chosen
    return found


def low(embedding: str, first: str, *more: Fact) -> tuple[Fact, ...]:
    """What the file types of 1 and 2 bits have in common."""
    return (Q5_OUTPUT, ("token_embd", None, embedding), ("attn_v", None, first), ("ffn_down", FIRST, first), *more)


Q6_OUTPUT = ("output", None, "Q6_K")
Q5_OUTPUT = ("output", None, "Q5_K")
FIRST, ENDS = range(3), [*range(3), 5, 8, 11, 14, 17, 20, 23, *range(24, 28)]
QWEN_SMALL = Known(Model("qwen3", 28, 16, 8), 1024)
QWEN_SMALL_FACTS: Facts = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q3_K_S", "Q5_K_S", "IQ3_S"), (Q6_OUTPUT,)),
    "Q8_0": (), "Q6_K": (),
    "Q2_K": (Q6_OUTPUT, ("attn_output", None, "Q3_K"), ("attn_v", None, "Q3_K"), ("ffn_down", None, "Q3_K")),
    "Q2_K_S": (Q6_OUTPUT, ("ffn_down", FIRST, "Q4_K")),
    "Q3_K_M": (
        Q6_OUTPUT, ("attn_output", None, "Q4_K"), ("attn_v", None, "Q4_K"), ("attn_v", range(2), "Q5_K"),
        ("ffn_down", None, "Q4_K"), ("ffn_down", range(1), "Q5_K"),
    ),
    "Q3_K_L": (Q6_OUTPUT, ("attn_output", None, "Q5_K"), ("attn_v", None, "Q5_K"), ("ffn_down", None, "Q5_K")),
    "Q4_K_S": (Q6_OUTPUT, ("attn_v", range(4), "Q5_K"), ("ffn_down", FIRST, "Q5_K")),
    "Q4_K_M": (Q6_OUTPUT, ("attn_v", ENDS, "Q6_K"), ("ffn_down", ENDS, "Q6_K")),
    "Q5_K_M": (Q6_OUTPUT, ("attn_v", ENDS, "Q6_K"), ("ffn_down", ENDS, "Q6_K")),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS"), low("Q2_K", "Q2_K")),
    **dict.fromkeys(("IQ1_S", "IQ1_M"), low("Q2_K", "Q2_K", ("attn_output", None, "IQ2_XXS"))),
    **dict.fromkeys(("IQ2_S", "IQ2_M"), low("IQ3_S", "IQ3_S", ("attn_output", None, "IQ3_S"))),
    "IQ3_XXS": (
        Q5_OUTPUT, ("token_embd", None, "IQ3_S"), ("attn_k", None, "IQ2_S"), ("attn_q", None, "IQ2_S"),
        ("attn_output", None, "IQ3_S"), ("attn_v", None, "IQ3_S"), ("ffn_down", None, "Q3_K"),
        ("ffn_down", FIRST, "Q4_K"),
    ),
    "IQ3_XS": (
        Q6_OUTPUT, ("attn_k", None, "IQ3_XXS"), ("attn_q", None, "IQ3_XXS"), ("ffn_gate", range(3, 24), "IQ3_XXS"),
        ("ffn_up", range(3, 24), "IQ3_XXS"),
    ),
    "IQ3_M": (Q6_OUTPUT, ("attn_output", None, "Q4_K"), ("attn_v", None, "Q4_K"), ("ffn_down", FIRST, "Q4_K")),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), (Q6_OUTPUT, ("ffn_down", FIRST, "Q5_K"))),
    **dict.fromkeys(("TQ1_0", "TQ2_0"), (Q6_OUTPUT, ("token_embd", None, "Q4_K"))),
    "MXFP4_MOE": tuple((name, None, "Q8_0") for name in (
        "output", "token_embd", *QWEN_SMALL.attention, *QWEN_SMALL.ffn)),
}  # fmt: skip

# 40 heads share 8: attn_v is small, and is given more.
QWEN_LARGE = Known(Model("qwen3", 40, 40, 8), 5120)
ENDS_40 = [*range(5), *range(7, 35, 3), *range(35, 40)]
QWEN_LARGE_FACTS: Facts = {
    "Q2_K": (Q6_OUTPUT, ("attn_output", None, "Q3_K"), ("attn_v", None, "Q4_K"), ("ffn_down", None, "Q3_K")),
    "Q2_K_S": (Q6_OUTPUT, ("attn_v", None, "Q4_K"), ("ffn_down", range(5), "Q4_K")),
    "Q3_K_M": (
        Q6_OUTPUT, ("attn_output", None, "Q4_K"), ("attn_v", None, "Q4_K"), ("attn_v", range(2), "Q5_K"),
        ("ffn_down", None, "Q4_K"), ("ffn_down", range(2), "Q5_K"),
    ),
    "Q4_K_S": (Q6_OUTPUT, ("attn_v", range(4), "Q5_K"), ("ffn_down", range(5), "Q5_K")),
    "Q4_K_M": (Q6_OUTPUT, ("attn_v", ENDS_40, "Q6_K"), ("ffn_down", ENDS_40, "Q6_K")),
    **dict.fromkeys(
        ("IQ2_XXS", "IQ2_XS"),
        (Q5_OUTPUT, ("token_embd", None, "Q2_K"), ("attn_v", None, "Q4_K"), ("ffn_down", range(5), "Q2_K")),
    ),
}  # fmt: skip

LLAMA_70B = Known(Model("llama", 80, 64, 8), 8192, hidden=28_672)
LLAMA_70B_FACTS: Facts = {
    "Q2_K": (Q6_OUTPUT, ("attn_output", None, "Q3_K"), ("attn_v", None, "Q5_K"), ("ffn_down", None, "Q3_K")),
    "Q3_K_S": (Q6_OUTPUT, ("attn_v", None, "Q5_K")),
    "Q3_K_M": (
        Q6_OUTPUT, ("attn_output", None, "Q4_K"), ("attn_v", None, "Q5_K"), ("ffn_down", None, "Q4_K"),
        ("ffn_down", range(5), "Q5_K"),
    ),
}  # fmt: skip

# 128 experts, and rows of 2,880, which 256 does not divide.
GPT_OSS = Known(Model("gpt-oss", 36, 64, 8, 128), 2880, ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"))
Q8_OUTPUT = ("output", None, "Q8_0")
ENDS_36 = [*range(4), *range(6, 31, 3), *range(31, 36)]
GPT_OSS_FACTS: Facts = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1"), (Q6_OUTPUT,)),
    **dict.fromkeys(("Q3_K_S", "Q5_K_S", "Q6_K"), (Q8_OUTPUT,)),
    "Q8_0": (),
    "Q2_K": (Q8_OUTPUT, ("attn_output", None, "Q3_K"), ("attn_v", None, "Q4_K"), ("ffn_down_exps", None, "Q3_K")),
    "Q2_K_S": (Q8_OUTPUT, ("attn_v", None, "Q4_K"), ("ffn_down_exps", range(4), "Q4_K")),
    "Q3_K_M": (
        Q8_OUTPUT, ("attn_output", None, "Q4_K"), ("attn_v", None, "Q4_K"), ("attn_v", range(2), "Q5_K"),
        ("ffn_down_exps", None, "Q4_K"), ("ffn_down_exps", range(2), "Q5_K"),
    ),
    "Q4_K_S": (Q8_OUTPUT, ("attn_v", range(4), "Q5_K"), ("ffn_down_exps", range(4), "Q5_K")),
    "Q4_K_M": (Q8_OUTPUT, ("attn_v", ENDS_36, "Q6_K"), ("ffn_down_exps", ENDS_36, "Q6_K")),
    "Q5_K_M": (Q8_OUTPUT, ("attn_v", ENDS_36, "Q6_K"), ("ffn_down_exps", ENDS_36, "Q6_K")),
    "IQ2_XXS": (Q8_OUTPUT, ("token_embd", None, "Q2_K"), ("attn_v", None, "Q4_K"), ("ffn_down_exps", range(4), "Q2_K")),
    "IQ1_S": (
        Q8_OUTPUT, ("token_embd", None, "Q2_K"), ("attn_v", None, "Q4_K"), ("ffn_down_exps", range(4), "Q2_K"),
        ("attn_output", None, "IQ2_XXS"),
    ),
    "IQ2_S": (
        Q8_OUTPUT, ("token_embd", None, "IQ3_S"), ("attn_v", None, "Q4_K"), ("ffn_down_exps", range(4), "IQ3_S"),
        ("attn_output", None, "IQ3_S"),
    ),
    "IQ3_XXS": (
        Q8_OUTPUT, ("token_embd", None, "IQ3_S"), ("attn_k", None, "IQ2_S"), ("attn_q", None, "IQ2_S"),
        ("attn_output", None, "IQ3_S"), ("attn_v", None, "Q4_K"), ("ffn_down_exps", None, "Q3_K"),
        ("ffn_down_exps", range(4), "Q4_K"),
    ),
    "IQ3_XS": (
        Q8_OUTPUT, ("attn_k", None, "IQ3_XXS"), ("attn_q", None, "IQ3_XXS"), ("attn_v", None, "Q4_K"),
        ("ffn_gate_exps", range(4, 31), "IQ3_XXS"), ("ffn_up_exps", range(4, 31), "IQ3_XXS"),
    ),
    "IQ3_S": (Q8_OUTPUT, ("attn_v", None, "Q4_K")),
    "IQ3_M": (
        Q8_OUTPUT, ("attn_output", None, "Q4_K"), ("attn_v", None, "Q4_K"), ("ffn_down_exps", range(4), "Q4_K"),
    ),
    "IQ4_NL": (Q6_OUTPUT, ("attn_v", None, "Q5_K"), ("ffn_down_exps", range(4), "Q5_K")),
}  # fmt: skip

CASES = [
    (known, name, facts)
    for known, facts in (
        (QWEN_SMALL, QWEN_SMALL_FACTS),
        (QWEN_LARGE, QWEN_LARGE_FACTS),
        (LLAMA_70B, LLAMA_70B_FACTS),
        (GPT_OSS, GPT_OSS_FACTS),
    )
    for name in facts
]


NAMES = [f"{known.model.architecture}-{known.model.layers}-{name}" for known, name, _ in CASES]


@pytest.mark.parametrize(("known", "name", "facts"), CASES, ids=NAMES)
def test_types_are_those_of_the_snapshots(known: Known, name: str, facts: Facts) -> None:
    assert choose(known.model, known.tensors(), name) == expected(known, name, facts)


def test_every_file_type_of_blocks_was_looked_at() -> None:
    assert set(QWEN_SMALL_FACTS) == {t.name for t in FILE_TYPES.values() if t.mixes} - {"Q1_0", "Q2_0", "NVFP4"}


def test_the_first_layers_without_experts_are_layers_with_them() -> None:
    """DeepSeek-V3.1: layers 0 to 2 have one ffn_down, the others one of experts and a shared one; with experts the
    layer is the number in the name."""
    model = Model("deepseek2", 61, 128, 1, 256)
    tensors = {"output.weight": (1000, 7168), "token_embd.weight": (1000, 7168)}
    for i in range(61):
        names = ("ffn_down",) if i < 3 else ("ffn_down_exps", "ffn_down_shexp")
        tensors |= {f"blk.{i}.{name}.weight": (7168, 2048) for name in names}
    found = choose(model, tensors, "Q3_K_M")
    assert [found[f"blk.{i}.ffn_down.weight"] for i in range(3)] == ["Q5_K"] * 3
    shared = ("ffn_down_exps", "ffn_down_shexp")
    assert {found[f"blk.{i}.{name}.weight"] for i in range(3, 61) for name in shared} == {"Q4_K"}


def test_eight_experts() -> None:
    """Mixtral 8x7B: 32 layers, 32 heads share 8."""
    known = Known(Model("llama", 32, 32, 8, 8), 4096, GPT_OSS.ffn)
    ends = [*range(4), *range(6, 28, 3), *range(28, 32)]
    facts: Facts = {
        "Q4_K_M": (Q6_OUTPUT, ("attn_v", None, "Q8_0"), ("attn_k", None, "Q8_0"), ("attn_output", None, "Q5_K"),
                   ("ffn_down_exps", ends, "Q6_K")),
        "Q4_0": (Q6_OUTPUT, ("attn_v", None, "Q8_0"), ("attn_k", None, "Q8_0")),
        "IQ3_M": (Q6_OUTPUT, ("attn_v", None, "Q8_0"), ("attn_k", None, "Q8_0"), ("attn_output", None, "Q5_K"),
                  ("ffn_down_exps", ends, "Q4_K")),
        "IQ2_XS": (Q5_OUTPUT, ("token_embd", None, "Q2_K"), ("attn_v", None, "Q4_K"), ("attn_k", None, "Q4_K"),
                   ("attn_output", None, "Q5_K"), ("ffn_down_exps", range(4), "Q2_K")),
        "MXFP4_MOE": tuple((name, None, "Q8_0") for name in ("output", "token_embd", *known.attention)),
    }  # fmt: skip
    for name in facts:
        assert choose(known.model, known.tensors(), name) == expected(known, name, facts), name


def test_an_importance_matrix_changes_the_mix() -> None:
    known = QWEN_SMALL
    for name, facts in {
        "Q4_0": (Q6_OUTPUT, ("ffn_down", FIRST, "Q4_1")),
        "Q5_0": (Q6_OUTPUT, ("ffn_down", FIRST, "Q5_1")),
        "IQ4_XS": (Q6_OUTPUT,),
        "IQ3_XXS": (Q5_OUTPUT, ("token_embd", None, "IQ3_S"), ("attn_k", None, "IQ2_S"), ("attn_q", None, "IQ2_S"),
                    ("attn_output", None, "IQ3_S")),
    }.items():  # fmt: skip
        assert choose(known.model, known.tensors(), name, importance=True) == expected(known, name, {name: facts})


def test_tied_embeddings_and_rows_of_576() -> None:
    """SmolLM2-135M has no output.weight: the embedding takes its type; 576 columns are not whole blocks of 256."""
    model, columns = Model("llama", 30, 9, 3), 576
    tensors = {"token_embd.weight": (49_152, columns), "blk.0.attn_q.weight": (columns, columns)}
    tensors |= {"blk.0.attn_v.weight": (192, columns), "blk.0.ffn_down.weight": (columns, 1536)}
    fits = {
        name: {n: fitting(t, tensors[n][-1]) for n, t in choose(model, tensors, name).items()}
        for name in ("Q4_0", "Q4_K_M", "Q2_K", "IQ3_M", "Q6_K", "Q8_0")
    }
    order = ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight")
    assert {name: [found[n] for n in order] for name, found in fits.items()} == {
        "Q4_0": ["Q8_0", "Q4_0", "Q4_0", "Q4_0"],  # Q6_K, and as that does not divide the rows, Q8_0
        "Q4_K_M": ["Q8_0", "Q5_0", "Q8_0", "Q6_K"],
        "Q2_K": ["Q8_0", "Q4_0", "Q4_0", "Q3_K"],
        "IQ3_M": ["Q8_0", "IQ4_NL", "Q5_0", "Q4_K"],
        "Q6_K": ["Q8_0", "Q8_0", "Q8_0", "Q6_K"],
        "Q8_0": ["Q8_0", "Q8_0", "Q8_0", "Q8_0"],
    }


@pytest.mark.parametrize(
    ("chosen", "columns", "fits"),
    [
        ("Q4_K", 512, "Q4_K"), ("Q4_K", 576, "Q5_0"), ("Q5_K", 576, "Q5_1"), ("Q6_K", 576, "Q8_0"),
        ("Q2_K", 32, "Q4_0"), ("Q3_K", 576, "Q4_0"), ("TQ1_0", 576, "Q4_0"), ("TQ2_0", 576, "Q4_0"),
        ("IQ4_XS", 576, "IQ4_NL"), ("IQ1_S", 576, "IQ4_NL"), ("IQ3_S", 576, "IQ4_NL"), ("Q2_0", 576, "Q2_0"),
        ("Q2_0", 32, "Q4_0"), ("Q4_K", 40, "F16"), ("Q8_0", 40, "F16"), ("Q4_0", 40, "F16"),
        ("F32", 40, "F32"), ("BF16", 1, "BF16"),
    ],
)  # fmt: skip
def test_what_takes_the_place_of_a_type(chosen: str, columns: int, fits: str) -> None:
    assert fitting(chosen, columns) == fits


@pytest.mark.parametrize(
    ("name", "shape", "changes"),
    [
        ("blk.0.attn_q.weight", (64, 64), True),
        ("blk.0.attn_q.bias", (64,), False),
        ("blk.0.attn_norm.weight", (64,), False),
        ("blk.0.attn_norm.weight", (2, 64), False),
        ("blk.0.attn_sinks.weight", (64,), False),
        ("blk.0.cls.weight", (1, 64), False),  # one row: ggml counts one dimension
        ("blk.0.ffn_gate_inp.weight", (8, 64), False),
        ("blk.0.ffn_gate_exps.weight", (8, 64, 64), True),
        ("blk.0.ffn_gate_exps.weight", (8, 1, 64), True),
        ("rope_freqs.weight", (64,), False),
        ("position_embd.weight", (64, 64), False),
        ("token_types.weight", (2, 64), False),
        ("blk.0.ssm_conv1d.weight", (64, 4), False),
        ("blk.0.shortconv.conv.weight", (64, 4), False),
        ("blk.0.time_mix_w1.weight", (64, 64), False),
        ("blk.0.time_mix_key.weight", (64, 64), True),
        ("blk.0.attn_rel_b.weight", (64, 64), False),
        ("v.patch_embd.weight", (64, 64), False),
        ("output.weight", (64, 64), True),
        ("blk.0.weights", (64, 64), False),
    ],
)
def test_tensors_that_keep_their_type(name: str, shape: tuple[int, ...], changes: bool) -> None:
    assert may_change(name, shape) is changes


def test_what_needs_an_importance_matrix() -> None:
    for name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"):
        assert needs_importance("blk.0.ffn_up.weight", name, file_type("Q4_K_M"))
        assert not needs_importance("token_embd.weight", name, file_type("Q4_K_M"))
        assert not needs_importance("output.weight", name, file_type("Q4_K_M"))
    for name in ("IQ3_S", "IQ4_XS", "Q3_K", "Q4_0"):
        assert not needs_importance("blk.0.ffn_up.weight", name, file_type("Q2_K_S"))
    assert needs_importance("blk.0.ffn_up.weight", "Q2_K", file_type("Q2_K_S"))
    assert not needs_importance("blk.0.ffn_up.weight", "Q2_K", file_type("Q2_K"))


def test_the_order_is_that_of_llama_quantize() -> None:
    """`weight_name_comparer` of llama-model-loader.h: no layer first, then by layer and by name."""
    names = ["output.weight", "output_norm.weight", "token_embd.weight", "blk.0.attn_k.weight", "blk.0.ffn_up.weight"]
    names += ["blk.2.attn_k.weight", "blk.10.attn_k.weight"]
    mixed = random.Random(1).sample(names, len(names))
    assert sorted(mixed, key=order_of) == names


def test_kinds_by_name() -> None:
    names = ("attn_qkv", "attn_kv_b", "attn_q_a", "ffn_down_shexp", "ssm_in")
    found = {name: kind_of(f"blk.1.{name}.weight").value for name in names}
    found["per_layer"] = kind_of("per_layer_token_embd.weight").value
    assert list(found.values()) == ["attn_qkv", "attn_kv_b", "", "ffn_down", "", "token_embd"]


def test_what_metadata_say_of_a_model() -> None:
    keys = {"general.architecture": "deci", "deci.block_count": 80, "deci.attention.head_count": [64, 32]}
    model = model_of({**keys, "deci.attention.head_count_kv": [8, 0]})
    assert model == Model("deci", 80, 64, 8)
    assert model.shared == 8
    assert model.large
    assert model_of({}) == Model("", 0, 0, 0)
    assert not Model("llama", 80, 64, 64).large
    with pytest.raises(GGUFError, match=r"'llama\.block_count' is 'x', not a whole number"):
        model_of({"general.architecture": "llama", "llama.block_count": "x"})


def test_a_layer_beyond_the_model_is_an_error() -> None:
    with pytest.raises(GGUFError, match=r"'blk\.9\.ffn_down\.weight': its layer is not one of block_count's 4"):
        choose(Model("llama", 4, 8, 8, 4), {"blk.9.ffn_down.weight": (256, 256)}, "Q4_K_M")


def test_names_of_file_types() -> None:
    assert file_type("q4_k").name == "Q4_K_M"
    assert file_type("15").name == "Q4_K_M"
    assert file_type("0").name == "F32"
    assert file_type("mxfp4").name == "MXFP4_MOE"
    with pytest.raises(GGUFError, match="there is no file type 'Q4_K_X': did you mean"):
        file_type("Q4_K_X")
    with pytest.raises(GGUFError, match="there is no file type '99'"):
        file_type("99")


def test_numbers_are_those_of_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    known = {t.name.removeprefix("MOSTLY_").removeprefix("ALL_"): int(t) for t in constants.LlamaFileType}
    ours = {t.name: t.number for t in FILE_TYPES.values() if t.name not in ("COPY", "Q2_0")}
    assert {name: known.get(name) for name in ours} == ours
