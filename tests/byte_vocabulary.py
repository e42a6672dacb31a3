"""The smallest vocabulary that tokenises any text: a token for each byte, its id the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import ggufpy


def write_vocabulary(path: Path) -> None:
    """A file of that vocabulary and one tensor."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # as GPT-2 writes bytes
    rest = iter(range(256, 512))
    texts = [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]
    metadata: dict[str, Any] = {"general.architecture": "bytes", "general.name": "bytes", "bytes.block_count": 1}
    metadata |= {"bytes.context_length": 64, "bytes.embedding_length": 32}
    metadata |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": texts}
    metadata |= {"tokenizer.ggml.token_type": [1] * 256, "tokenizer.ggml.merges": ["h e"]}
    ggufpy.write(path, metadata, {"token_embd.weight": np.ones((256, 32), np.float32)})
