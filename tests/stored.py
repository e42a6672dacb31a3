"""What tests of storage formats share: arrays as the tensors of a checkpoint, packers written from published layouts,
and a small llama whose matrices are stored in a format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.safetensors import Stored
from ggufpy.format.rows import Rows, decoded, rows_of
from ggufpy.quantizer import Report
from ggufpy.runtime import EngineOptions

DTYPES = {"<f4": "F32", "<f2": "F16", "<i4": "I32", "<i8": "I64", "|i1": "I8", "|u1": "U8", "<f8": "F64", "<u4": "U32"}
Arrays = dict[str, Any]


class Bf16:
    """bfloat16 in an array of its bits."""

    def __init__(self, x: Any) -> None:
        bits = np.asarray(x, np.float32).view(np.uint32)
        self.array = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

    @property
    def floats(self) -> Any:
        """What it has, as float32."""
        return (self.array.astype(np.uint32) << 16).view(np.float32)


def entry(value: Any) -> tuple[str, Any]:
    """safetensors' dtype and the array of what it is."""
    if isinstance(value, Bf16):
        return "BF16", value.array
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    return DTYPES[array.dtype.str], array


def stored(arrays: Mapping[str, Any]) -> dict[str, Stored]:
    """Arrays as the tensors of a checkpoint."""
    made = {}
    for name, value in arrays.items():
        dtype, array = entry(value)
        made[name] = Stored(name, dtype, array.shape, array.tobytes())
    return made


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """A file of safetensors."""
    head: dict[str, Any] = {}
    data = b""
    for name, value in arrays.items():
        dtype, array = entry(value)
        raw = array.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        head[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


# -- packers ---------------------------------------------------------------------------------------------------


def along_bits(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Codes (n, rows) packed along the last dimension into words of 32 bits, bit after bit, filled up with zeros."""
    n, count = codes.shape
    words = np.zeros((n, -(-count * bits // 32)), object)
    for i in range(count):
        at, offset = divmod(i * bits, 32)
        whole = codes[:, i].astype(object) << offset
        words[:, at] |= whole & 0xFFFFFFFF
        if offset + bits > 32:
            words[:, at + 1] |= whole >> 32
    return words.astype(np.uint64).astype(np.uint32).view(np.int32)


def gptq(q: Any, scales: Any, zeros: Any, bits: int, less: int = 1) -> Arrays:
    """GPTQ's tensors of codes (out, in), scales and zeros (groups, out); zeros are stored `less` so much."""
    return {
        "qweight": np.ascontiguousarray(along_bits(q, bits).T),
        "qzeros": along_bits((zeros - less) & ((1 << bits) - 1), bits),
        "scales": scales,
    }


def named(module: str, parts: Mapping[str, Any]) -> Arrays:
    """The tensors of a module under their full names."""
    return {f"{module}.{part}": value for part, value in parts.items()}


# -- what blocks must be ---------------------------------------------------------------------------------------


def check_rows(rows: Rows, wanted: NDArray[np.float32]) -> None:
    """All rows, and runs of them, are `wanted` bit for bit."""
    assert rows.shape == wanted.shape
    assert rows.type == "F32"
    assert rows.quantised
    count = rows_of(rows.shape)
    flat = wanted.reshape(count, -1)
    for start, stop in ((0, count), (count // 3, count // 2 + 1), (count - 1, count), (0, 1)):
        np.testing.assert_array_equal(rows.floats(start, stop).view(np.uint32), flat[start:stop].view(np.uint32))
        np.testing.assert_array_equal(decoded(rows.rows(start, stop), "F32"), flat[start:stop])


def check_exact(rows: Rows, type_name: str) -> None:
    """It has blocks of this type, and they have its numbers."""
    assert rows.exact is not None
    assert rows.exact.type == type_name
    for start, stop in ((0, rows.shape[0]), (1, rows.shape[0])):
        np.testing.assert_array_equal(rows.exact.floats(start, stop), rows.floats(start, stop))


def check_near(rows: Rows, type_name: str, step: Any) -> None:
    """It has no blocks that are the same, but such of this type that are within `step`."""
    assert rows.exact is None
    assert rows.near is not None
    assert rows.near.type == type_name
    difference = np.abs(rows.near.to_numpy() - rows.to_numpy())
    assert np.all(difference <= step)
    assert difference.max() > 0


# -- a whole checkpoint ----------------------------------------------------------------------------------------

WIDTH, HIDDEN, HEADS, SHARED, WORDS = 128, 256, 4, 2, 64
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (HIDDEN, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH), "mlp.down_proj": (WIDTH, HIDDEN),
}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
Maker = Callable[[np.random.Generator, int, int], tuple[Arrays, NDArray[np.float32]]]


def llama(folder: Path, settings: Any, maker: Maker, layers: int = 2, seed: int = 0) -> Arrays:
    """A llama in `folder` whose matrices `maker` stores: (rng, out, in) to tensors of a module by their endings and the
    weights that they stand for. Returns these by their names, "layers.0.mlp.up_proj"."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "vocab_size": WORDS,
        "intermediate_size": HIDDEN, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": SHARED, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "quantization_config": settings,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    arrays: Arrays = {
        "model.embed_tokens.weight": rng.standard_normal((WORDS, WIDTH)).astype(np.float16),
        "model.norm.weight": np.ones(WIDTH, np.float16),
        "lm_head.weight": rng.standard_normal((WORDS, WIDTH)).astype(np.float16),
    }
    truth = {}
    for i in range(layers):
        at = f"model.layers.{i}."
        arrays |= {f"{at}{name}.weight": np.ones(WIDTH, np.float16)
                   for name in ("input_layernorm", "post_attention_layernorm")}  # fmt: skip
        for name, (out, columns) in SHAPES.items():
            parts, weight = maker(rng, out, columns)
            arrays |= named(f"{at}{name}", parts)
            truth[f"layers.{i}.{name}"] = weight
    write(folder / "model.safetensors", arrays)
    return truth


def turned(weight: Any, heads: int) -> Any:
    """Rows of queries or keys as a file has them: halves of a head side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def check_file(path: Path, truth: Mapping[str, Any], type_name: str, step: float = 0.0) -> None:
    """A file whose matrices have this type and are `truth`, or within `step` of it, and which runs."""
    with gguf.open(path) as file:
        for full, weight in truth.items():
            _, layer, name = full.split(".", 2)
            tensor = file.tensors[f"blk.{layer}.{NAMES[name]}.weight"]
            assert tensor.type == type_name
            heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": SHARED}.get(name)
            wanted = weight if heads is None else turned(weight, heads)
            assert np.abs(tensor.to_numpy() - wanted).max() <= step
        with runtime.load(file, EngineOptions(n_ctx=8)) as engine:
            logits = engine.read(engine.sequence(), [1, 2, 3], "all")
        assert np.isfinite(logits).all()


def converted(folder: Path, outtype: str = "auto", **options: Any) -> tuple[Path, Report]:
    """The checkpoint as a file beside it."""
    path = folder / "model.gguf"
    return path, convert(folder, path, ConvertOptions(outtype, no_vocab=True, **options))
