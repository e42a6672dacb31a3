"""What tests of measuring share: a tiny model that reads bytes, and references in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from engine import SIZES, metadata, weights

from ggufpy import format as gguf

BOS, BYTES = 1, 259
TEXT = bytes(np.random.default_rng(5).integers(97, 123, 210).astype(np.uint8))


def write_model(
    path: Path,
    type_name: str = "F32",
    seed: int = 0,
    add_bos: bool = True,
    tensors: dict[str, Any] | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """A llama model of random weights, whose tokens are bytes: id 3 + byte, 1 to begin with. `changes` are to sizes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    sizes = {**SIZES, "embedding_length": 64, "feed_forward_length": 96, **changes}
    keys = {
        **metadata(sizes),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": gguf.Typed("array[float32]", [0.0] * BYTES),
        "tokenizer.ggml.token_type": gguf.Typed("array[int32]", [2, 3, 3, *[6] * 256]),
        "tokenizer.ggml.bos_token_id": gguf.Typed("uint32", BOS),
        "tokenizer.ggml.eos_token_id": gguf.Typed("uint32", 2),
        "tokenizer.ggml.add_bos_token": add_bos,
        "tokenizer.ggml.add_space_prefix": False,
    }
    gguf.write(path, keys, {**weights(sizes, BYTES, type_name, seed), **(tensors or {})})
    return path


def log_softmax(logits: Any) -> Any:
    """Of each row, in float64."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
