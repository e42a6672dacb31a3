"""Experts in MLX, all of them stacked; single ones of gpt-oss; and models of which experts were taken out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import storing
from families_near_llama import BASE, FAMILIES
from storing import E4M3, bf16, decode, of_bf16, same, words
from test_storage_mxfp4 import AT, CONFIG, GPT_OSS, gpt_oss

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.folder import open_folder
from ggufpy.errors import GGUFError

RNG = np.random.default_rng(0)
Arrays = dict[str, Any]

# config.json of tiny models with experts, and a pattern of those optional tensors that are there.
MODELS = {name: FAMILIES[name] for name in ("mixtral", "qwen2moe", "qwen3moe", "granitemoe", "granitemoeshared")}
MODELS["glm4moe"] = (
    {**BASE, "architectures": ["Glm4MoeForCausalLM"], "n_routed_experts": 4, "num_experts_per_tok": 2, "head_dim": 32,
     "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1}, "^output.weight",
)  # fmt: skip
MODELS["ernie4_5-moe"] = (
    {**BASE, "architectures": ["Ernie4_5_MoeForCausalLM"], "moe_num_experts": 4, "moe_k": 2, "head_dim": 32,
     "moe_intermediate_size": 32, "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
    "^output.weight|exp_probs",
)  # fmt: skip
MODELS["gpt-oss"] = (
    {**BASE, "architectures": ["GptOssForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2,
     "intermediate_size": 32, "head_dim": 32, "sliding_window": 5},
    r"^output\.weight|attn_.*bias|gate_inp\.bias",
)  # fmt: skip
ONE = re.compile(r"(.*)\.experts\.(\d+)\.(\w+)\.weight")
OF_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def checkpoint(
    case: tuple[dict[str, Any], str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], Arrays]:
    """config.json and tensors of a tiny model as MODELS has them, by the names that its checkpoints have."""
    config, extras = case
    path = families.write(folder / "m.gguf", {**config, "vocab_size": families.VOCABULARY}, extras, monkeypatch)
    with gguf.open(path) as file:
        _, _, said = families.there_and_back(file, folder / "floats")
    stored = open_folder(folder / "floats").tensors
    return said, {key: np.array(tensor.to_numpy()) for key, tensor in stored.items()}


def converted(folder: Path, tensors: storing.Tensors, config: dict[str, Any], **options: Any) -> Any:
    """Names, types and numbers of the file that a checkpoint becomes, and notes."""
    path = storing.folder(folder, tensors, config)
    outtype = options.pop("outtype", "F32")
    report = convert(path, folder / "model.gguf", ConvertOptions(outtype, no_vocab=True, **options))
    with gguf.open(folder / "model.gguf") as file:
        return {key: (one.type, one.to_numpy()) for key, one in file.tensors.items()}, report.notes, dict(file.metadata)


def equal(a: Any, b: Any) -> None:
    """Two files have the same tensors."""
    assert set(a) == set(b)
    for key, (_, numbers) in a.items():
        np.testing.assert_array_equal(numbers, b[key][1], err_msg=key)


def plain(tensors: Arrays) -> storing.Tensors:
    return {name: ("F32", values) for name, values in tensors.items()}


# -- MLX -------------------------------------------------------------------------------------------------------


def as_mlx(tensors: Arrays) -> Arrays:
    """Tensors as mlx-lm holds them: experts stacked, gate and up apart (`sanitize` of mixtral.py, qwen3_moe.py and
    others; granitemoe.py; gpt_oss.py)."""
    made: Arrays = {}
    stacks: dict[str, dict[int, Any]] = {}
    for name, x in tensors.items():
        one = ONE.fullmatch(name)
        base, _, end = name.rpartition(".")
        if one is not None:
            stack = f"{one[1]}.switch_mlp.{OF_MIXTRAL.get(one[3], one[3])}.weight"
            stacks.setdefault(stack, {})[int(one[2])] = x
        elif name.endswith(("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight")):
            base = base.rpartition(".")[0]
            both = np.split(x, 2, 1) if "input_linear" in name else [x]
            for part, half in zip(("gate_proj", "up_proj") if len(both) > 1 else ("down_proj",), both, strict=True):
                made[f"{base}.switch_mlp.{part}.weight"] = half
        elif end in ("gate_up_proj", "gate_up_proj_bias"):
            for i, part in enumerate(("gate_proj", "up_proj")):
                half = x[..., i::2]
                end = "bias" if x.ndim == 2 else "weight"
                made[f"{base}.{part}.{end}"] = half if x.ndim == 2 else half.swapaxes(1, 2)
        elif end in ("down_proj", "down_proj_bias"):
            made[f"{base}.down_proj.{'bias' if x.ndim == 2 else 'weight'}"] = x if x.ndim == 2 else x.swapaxes(1, 2)
        else:
            made[name] = x
    return made | {name: np.stack([some[i] for i in range(len(some))]) for name, some in stacks.items()}


def affine(tensors: Arrays) -> tuple[storing.Tensors, Arrays]:
    """Matrices of layers in 4 bits with groups of 32, where they have whole ones, and what they mean."""
    made: storing.Tensors = {}
    meant: Arrays = {}
    for name, x in tensors.items():
        base = name.removesuffix(".weight")
        if ".layers." not in name or not name.endswith(".weight") or x.ndim < 2 or x.shape[-1] % 32:
            made[name], meant[name] = ("F32", x), x
            continue
        groups = x.reshape(*x.shape[:-1], -1, 32)
        b = of_bf16(bf16(groups.min(-1)))
        s = of_bf16(bf16((groups.max(-1) - groups.min(-1)) / 15))
        q = np.clip(np.rint((groups - b[..., None]) / s[..., None]), 0, 15).astype(np.int64).reshape(x.shape)
        made |= {name: ("U32", words(q, 4)), f"{base}.scales": ("BF16", bf16(s)), f"{base}.biases": ("BF16", bf16(b))}
        meant[name] = q.astype(np.float32) * s.repeat(32, -1) + b.repeat(32, -1)
    return made, meant


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_mlx_models_with_experts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, tensors = checkpoint(MODELS[name], tmp_path, monkeypatch)
    stacked = as_mlx(tensors)
    floats, _, _ = converted(tmp_path / "a", plain(tensors), config)
    equal(floats, converted(tmp_path / "b", plain(stacked), config)[0])
    quantised, meant = affine(stacked)
    said = {**config, "quantization": {"group_size": 32, "bits": 4}}
    wanted, _, _ = converted(tmp_path / "c", plain(meant), config)
    equal(wanted, converted(tmp_path / "d", quantised, said)[0])
    kept, notes, _ = converted(tmp_path / "e", quantised, said, outtype="auto", keep=True)
    equal(wanted, kept)
    assert any("stored as MLX" in note for note in notes)
    experts = {key for key in kept if re.search(r"_exps\.weight$", key)}
    assert experts
    assert {kept[key][0] for key in experts} == {"Q4_1"}


@pytest.mark.slow
def test_mlx_gpt_oss_of_the_published_blocks(tmp_path: Path) -> None:
    """Blocks as words, every other row gate or up (mlx-lm, gpt_oss.py); other layers have settings of their own."""
    kept, _ = gpt_oss()
    said: dict[str, Any] = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    made: storing.Tensors = {}
    router = "model.layers.0.mlp.router"
    for name, (dtype, x) in kept.items():
        base, _, end = name.rpartition("_")
        if end == "bias" and "gate_up" in name:
            for i, part in enumerate(("gate_proj", "up_proj")):
                made[f"{AT}{part}.bias"] = (dtype, x[:, i::2])
        elif end == "bias":
            made[f"{base}.bias"] = (dtype, x)
        elif end in ("blocks", "scales"):
            x = np.ascontiguousarray(x).view("<u4").reshape(*x.shape[:2], -1) if end == "blocks" else x
            dtype, end = ("U32", "weight") if end == "blocks" else ("U8", "scales")
            if "gate_up" not in name:
                made[f"{base}.{end}"] = (dtype, x)
            for i, part in enumerate(("gate_proj", "up_proj") if "gate_up" in name else ()):
                made[f"{AT}{part}.{end}"] = (dtype, x[:, i::2])
        else:
            made[name] = (dtype, x)
    q = RNG.integers(0, 256, (3, 64))
    s, b = (of_bf16(bf16(RNG.uniform(-0.01, 0.01, (3, 1)))) for _ in range(2))
    made |= {f"{router}.weight": ("U32", words(q, 8)), f"{router}.scales": ("BF16", bf16(s)),
             f"{router}.biases": ("BF16", bf16(b))}  # fmt: skip
    kept[f"{router}.weight"] = ("F32", q.astype(np.float32) * s + b)
    said[router] = {"group_size": 64, "bits": 8}
    wanted, _, _ = converted(tmp_path / "hf", kept, GPT_OSS | CONFIG, outtype="auto")
    both = {"quantization": said, "quantization_config": said}
    got, notes, _ = converted(tmp_path / "mlx", made, GPT_OSS | both, outtype="auto")
    equal(wanted, got)
    assert {key: kind for key, (kind, _) in got.items() if kind == "MXFP4"} == {
        f"blk.0.ffn_{name}_exps.weight": "MXFP4" for name in ("gate", "up", "down")}  # fmt: skip
    assert got["blk.0.ffn_gate_inp.weight"][0] == "F32"  # the router, in 8 bits or not
    assert any("3 as MXFP4" in note for note in notes)


def test_settings_of_mlx_that_are_not_said_are_those_of_the_mode() -> None:
    """An entry of a layer says all of it: what it leaves out is the mode's own (`to_quantized` of MLX)."""
    q, s = RNG.integers(0, 256, (4, 64)), np.full((4, 1), 0.5, np.float32)
    tensors = {"a.weight": ("U32", words(q, 8)), "a.scales": ("F32", s), "a.biases": ("F32", -s)}
    said = {"group_size": 32, "bits": 4, "mode": "mxfp4", "a": {"bits": 8}}
    same(decode({"quantization": said}, tensors)[1]["a.weight"], q.astype(np.float32) * s - s, "Q8_0", exact=False)
    whole = {"group_size": 64, "bits": 8, "a": True}
    same(decode({"quantization": whole}, tensors)[1]["a.weight"], q.astype(np.float32) * s - s, "Q8_0", exact=False)


# -- single experts of gpt-oss, and models of which experts were taken out --------------------------------------


@pytest.mark.slow
def test_single_experts_of_gpt_oss(tmp_path: Path) -> None:
    """As llm-compressor leaves them: gate and up apart, each with its bias."""
    _, floats = gpt_oss()
    config = {**GPT_OSS, "quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}}
    made, meant = dict[str, Any](), dict(floats)
    for name in ("gate_up_proj", "down_proj"):
        _, bias = meant[f"{AT}{name}_bias"]
        f = RNG.integers(0, 0x7F, (3, len(bias[0]), 64 if "gate" in name else 32)).astype(np.uint8)
        s = np.float32(RNG.random((*f.shape[:2], 1)) / 100)
        meant[f"{AT}{name}"] = ("F32", (E4M3[f] * s).swapaxes(1, 2))
        for i in range(3):
            for j, part in enumerate(("gate_proj", "up_proj") if "gate" in name else ("down_proj",)):
                rows, at = slice(j, None, 2 if "gate" in name else 1), f"{AT}{i}.{part}"
                made |= {f"{at}.weight": ("F8_E4M3", f[i, rows]), f"{at}.weight_scale": ("F32", s[i, rows]),
                         f"{at}.bias": ("BF16", bias[i, rows])}  # fmt: skip
    made |= {name: value for name, value in meant.items() if not name.startswith(AT)}
    equal(converted(tmp_path / "a", meant, GPT_OSS)[0], converted(tmp_path / "b", made, config)[0])


@pytest.mark.slow
def test_stacks_of_which_experts_were_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("granitemoe", "gpt-oss"):
        folder = tmp_path / name
        folder.mkdir()
        config, tensors = checkpoint(MODELS[name], folder, monkeypatch)
        whole, _, _ = converted(folder / "a", plain(tensors), config)
        fewer = {key: x[:3] if re.search("experts|_linear|router", key) else x for key, x in tensors.items()}
        got, notes, metadata = converted(folder / "b", plain(fewer), config)
        assert "the model was pruned: 3 experts of 4 are there" in notes
        assert metadata[f"{metadata['general.architecture']}.expert_count"] == 3
        for key, (_, numbers) in got.items():
            np.testing.assert_array_equal(numbers, whole[key][1][: len(numbers)], err_msg=key)
        bad = {key: x if ".layers.0." in key else fewer[key] for key, x in tensors.items()}
        with pytest.raises(GGUFError, match="layers have 3 to 4 experts, of 4 that config"):
            converted(folder / "c", plain(bad), config)
    kept, _ = gpt_oss()
    fewer = {key: (kind, x[:2]) if re.search("experts|router", key) else (kind, x) for key, (kind, x) in kept.items()}
    got, notes, _ = converted(tmp_path / "blocks", fewer, GPT_OSS | CONFIG, outtype="auto", keep=True)
    assert "the model was pruned: 2 experts of 3 are there" in notes
    assert got["blk.0.ffn_up_exps.weight"][1].shape == (2, 32, 64)
