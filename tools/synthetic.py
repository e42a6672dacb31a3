"""Write a llama or qwen3moe model of random weights: the shape and tensor type of a real one, for tests and benchmarks.

    python tools/synthetic.py /tmp/m.gguf --shape 1.1b --type Q4_0
    python tools/synthetic.py /tmp/m.gguf --shape tiny --layers 4 --type Q4_K_M --seed 7
    python tools/synthetic.py /tmp/m.gguf --shape moe --experts 16 --experts-used 4

Only one run of rows is encoded for each width; other rows are the same blocks in another order. Types that
cannot be encoded are given random blocks whose scales make the weights as large as they should be.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format import TensorInfo, Typed, Writer
from ggufpy.quants.base import BlockType

ROWS = 64  # rows that are made for each type and width
SLAB = 1024  # rows written at a time
MIXED = "Q4_K_M"


@dataclass(frozen=True)
class Shape:
    """Sizes of a llama model, or of qwen3moe where there are experts; a head has n_embd / n_head values.

    Each expert is n_ff wide, and a token uses n_expert_used of n_expert.
    """

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    n_ctx: int = 2048
    n_expert: int = 0
    n_expert_used: int = 0

    @property
    def architecture(self) -> str:
        return "qwen3moe" if self.n_expert else "llama"


SHAPES = {
    "tiny": Shape(2, 256, 512, 4, 2, 320),
    "tiny-moe": Shape(2, 256, 256, 4, 2, 320, 2048, 8, 2),
    "moe": Shape(6, 1024, 512, 16, 4, 32_000, 2048, 32, 4),
    "1.1b": Shape(22, 2048, 5632, 32, 4, 32_000),
    "7b": Shape(32, 4096, 11008, 32, 32, 32_000, 4096),
    "8b": Shape(32, 4096, 14336, 32, 8, 128_256, 8192),
}

FLAGS = {"layer": "layers", "head": "heads", "head-kv": "kv-heads", "expert": "experts", "expert-used": "experts-used"}


def write_model(path: str | os.PathLike[str], shape: Shape, type_name: str, seed: int = 0) -> None:
    """Write a model of random weights. `type_name` is a tensor type, or Q4_K_M for llama.cpp's mix.

    Raises GGUFError where the sizes do not fit together or the type's blocks.
    """
    if shape.n_embd % shape.n_head or shape.n_head % shape.n_head_kv:
        raise GGUFError("n_embd must be a multiple of the heads, and those of the KV heads")
    if shape.n_vocab < 300:
        raise GGUFError("a vocabulary needs 300 tokens or more: 256 are bytes")
    infos = list(tensor_infos(shape, type_name))
    rng = np.random.default_rng(seed)
    made: dict[tuple[str, int], NDArray[np.uint8]] = {}
    with Writer(path, model_metadata(shape, type_name, seed), infos) as writer:
        for info in infos:
            if len(info.shape) == 1:
                writer.append(info.name, (1 + 0.1 * rng.standard_normal(info.shape)).astype(np.float32))
                continue
            *outer, columns = info.shape
            key, rows = (info.type, columns), math.prod(outer)
            if key not in made:
                made[key] = make_rows(quants.get(info.type), columns, rng)
            for start in range(0, rows, SLAB):
                writer.append(info.name, shuffled(made[key], min(SLAB, rows - start), info.type, rng))


def tensor_infos(shape: Shape, type_name: str) -> Iterator[TensorInfo]:
    """The tensors of the model in file order."""
    s = shape
    kv = s.n_embd // s.n_head * s.n_head_kv
    most = "Q4_K" if type_name == MIXED else quants.get(type_name).name
    best = "Q6_K" if type_name == MIXED else most
    yield TensorInfo("token_embd.weight", (s.n_vocab, s.n_embd), most)
    for i in range(s.n_layer):
        more = best if _more_bits(i, s.n_layer) else most
        block = f"blk.{i}."
        yield TensorInfo(block + "attn_norm.weight", (s.n_embd,), "F32")
        yield TensorInfo(block + "attn_q.weight", (s.n_embd, s.n_embd), most)
        yield TensorInfo(block + "attn_k.weight", (kv, s.n_embd), most)
        yield TensorInfo(block + "attn_v.weight", (kv, s.n_embd), more)
        yield TensorInfo(block + "attn_output.weight", (s.n_embd, s.n_embd), most)
        yield TensorInfo(block + "ffn_norm.weight", (s.n_embd,), "F32")
        if s.n_expert:
            for part in ("attn_q_norm", "attn_k_norm"):
                yield TensorInfo(f"{block}{part}.weight", (s.n_embd // s.n_head,), "F32")
            yield TensorInfo(block + "ffn_gate_inp.weight", (s.n_expert, s.n_embd), "F32")
        each, of = ((s.n_expert,), "_exps") if s.n_expert else ((), "")
        yield TensorInfo(f"{block}ffn_gate{of}.weight", (*each, s.n_ff, s.n_embd), most)
        yield TensorInfo(f"{block}ffn_up{of}.weight", (*each, s.n_ff, s.n_embd), most)
        yield TensorInfo(f"{block}ffn_down{of}.weight", (*each, s.n_embd, s.n_ff), more)
    yield TensorInfo("output_norm.weight", (s.n_embd,), "F32")
    yield TensorInfo("output.weight", (s.n_vocab, s.n_embd), best)


def _more_bits(layer: int, n_layer: int) -> bool:
    """Layers whose attn_v and ffn_down get more bits in a _M mix: both ends and every third."""
    eighth = n_layer // 8
    return layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2


def model_metadata(shape: Shape, type_name: str, seed: int) -> dict[str, Any]:
    """All keys that a model of the architecture has, with a vocabulary of the SentencePiece kind."""
    tokens, kinds = vocabulary(shape.n_vocab)
    sizes = {
        "context_length": shape.n_ctx,
        "embedding_length": shape.n_embd,
        "block_count": shape.n_layer,
        "feed_forward_length": shape.n_ff,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": shape.n_embd // shape.n_head,
        "rope.freq_base": 10_000.0,
        "vocab_size": shape.n_vocab,
    }
    if shape.n_expert:
        sizes |= {
            "expert_count": shape.n_expert, "expert_used_count": shape.n_expert_used,
            "expert_feed_forward_length": shape.n_ff, "attention.key_length": shape.n_embd // shape.n_head,
            "attention.value_length": shape.n_embd // shape.n_head,
        }  # fmt: skip
    return {
        "general.architecture": shape.architecture,
        "general.name": f"random weights, {type_name}, seed {seed}",
        "general.quantization_version": 2,
        **{f"{shape.architecture}.{key}": value for key, value in sizes.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": Typed("array[float32]", [-float(max(i - 258, 0)) for i in range(shape.n_vocab)]),
        "tokenizer.ggml.token_type": Typed("array[int32]", kinds),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def vocabulary(n: int) -> tuple[list[str], list[int]]:
    """n tokens and their types: unknown (2), control (3), 256 bytes (6), then made-up pieces (1)."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += itertools.islice(_pieces(), n - len(tokens))
    return tokens, [2, 3, 3] + [6] * 256 + [1] * (n - 259)


def _pieces() -> Iterator[str]:
    """Characters, then ever longer runs of letters, each also as the start of a word."""
    yield "\N{LOWER ONE EIGHTH BLOCK}"
    yield from string.ascii_lowercase + string.ascii_uppercase + string.digits
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            piece = "".join(letters)
            yield "\N{LOWER ONE EIGHTH BLOCK}" + piece
            if length > 1:
                yield piece


def make_rows(block: BlockType, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """ROWS encoded rows of `width` random weights of standard deviation 1 / sqrt(width)."""
    if width % block.weights:
        raise GGUFError(f"rows of {width} weights are not whole {block.name} blocks of {block.weights}")
    spread = 1 / math.sqrt(width)
    if block.encodes and not block.needs_importance:
        rows = (rng.standard_normal((ROWS, width)) * spread).astype(np.float32)
        return quants.quantize(rows, block.name)
    return random_blocks(block, ROWS * width // block.weights, spread, rng).reshape(ROWS, -1)


def random_blocks(block: BlockType, count: int, spread: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(count, bytes) random blocks that decode to weights of about zero mean and deviation `spread`."""
    if block.name in ("I8", "I16", "I32", "I64"):
        raise GGUFError(f"{block.name} holds whole numbers, not weights; choose another type")
    data = rng.integers(0, 256, (count, block.nbytes), np.uint8)
    records = data.view(block.record)[:, 0]
    if block.name in ("TQ2_0", "Q2_0"):  # codes 0 to 2: a 3 would shift the mean, and no trained file has it
        records["qs"] = sum(rng.integers(0, 3, records["qs"].shape) << shift for shift in (0, 2, 4, 6))
    jitter = rng.uniform(0.8, 1.2, count)
    minimum = next((f.name for f in block.layout if f.name in ("m", "dmin")), None)
    ratio = 0.0
    if minimum is not None:  # the minimum that brings the mean to zero
        means = []
        for scale, low in ((1.0, 0.0), (0.0, 1.0)):
            _set_scales(block, records, np.full(count, scale))
            records[minimum] = low
            means.append(float(block.decode(data).mean()))
        ratio = -means[0] / means[1]
    scale = 2.0**-6
    for _ in range(2):  # the second time from scales that are about right
        _set_scales(block, records, scale * jitter)
        if minimum is not None:
            records[minimum] = scale * ratio * jitter
        weights = block.decode(data)
        scale *= spread / float(weights.std())
    _set_scales(block, records, scale * jitter)
    if minimum is not None:
        records[minimum] = scale * ratio * jitter
    assert np.isfinite(block.decode(data)).all()
    return data


def _set_scales(block: BlockType, records: NDArray[np.void], scale: NDArray[np.float64]) -> None:
    """Give each block its scale, as near as the type can express it."""
    if block.name == "IQ1_M":  # an f16 spread over the upper four bits of four words
        bits = scale.astype(np.float16).view(np.uint16)
        for i in range(4):
            records["scales"][:, i] = (records["scales"][:, i] & 0x0FFF) | ((bits >> (4 * i) & 15) << 12)
        return
    exponent = np.round(np.log2(np.maximum(scale, 2.0**-100)))
    if block.name == "MXFP4":
        records["e"] = 127 + exponent
    elif block.name == "NVFP4":
        records["d"] = (8 * np.clip(7 + exponent, 1, 14)).astype(np.uint8)[:, None]
    for field in block.layout:
        if field.dtype in ("f16", "f32"):
            records[field.name] = scale


def shuffled(rows: NDArray[np.uint8], count: int, type_name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`count` rows drawn from `rows`, their blocks turned by a random number of places."""
    picked = rows[rng.integers(0, len(rows), count)]
    blocks = picked.reshape(count, -1, quants.get(type_name).nbytes)
    return np.roll(blocks, int(rng.integers(blocks.shape[1])), axis=1).reshape(count, -1)


def main() -> int:
    """The command line; 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="sizes to begin with (tiny)")
    parser.add_argument("--type", default="Q4_0", help="a tensor type, or Q4_K_M (Q4_0)")
    parser.add_argument("--seed", type=int, default=0)
    for field in fields(Shape):
        flag = field.name.removeprefix("n_").replace("_", "-")
        flag = FLAGS.get(flag, flag)
        parser.add_argument(f"--{flag}", dest=field.name, type=int, help=f"{field.name}, in place of the shape's")
    args = parser.parse_args()
    own = {f.name: getattr(args, f.name) for f in fields(Shape) if getattr(args, f.name) is not None}
    try:
        write_model(args.out, replace(SHAPES[args.shape], **own), args.type, args.seed)
    except GGUFError as e:
        print(f"synthetic: {e}", file=sys.stderr)
        return 1
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
