"""A tiny random llama model that tokenises any text: a token for each byte, those of a model of code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import SIZES, metadata, weights

from ggufpy import format as gguf

FIM = ("pre", "suf", "mid", "rep", "sep")
BOS, EOS = 256, 257
FIRST_FIM = 258
VOCABULARY = 264  # the last one is a token without a use
CONTEXT = 256


def tokenizer(fill: bool = True) -> dict[str, Any]:
    """The metadata of the vocabulary; `fill`: with tokens to fill in with."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # as GPT-2 writes bytes
    rest = iter(range(256, 512))
    texts = [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]
    special = ["<s>", "</s>", *(f"<|x_{part}|>" for part in FIM), "<unused>"]
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*texts, *special],
        "tokenizer.ggml.token_type": [1] * 256 + [3] * len(special),
        "tokenizer.ggml.merges": ["h e"],  # which makes no token
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    }
    if fill:
        found |= {f"tokenizer.ggml.fim_{part}_token_id": FIRST_FIM + i for i, part in enumerate(FIM)}
    return found


def write_byte_model(path: Path, fill: bool = True, seed: int = 0) -> Path:
    """Writes the model."""
    sizes = {**SIZES, "context_length": CONTEXT}
    gguf.write(path, {**metadata(sizes), **tokenizer(fill)}, weights(sizes, VOCABULARY, "F32", seed))
    return path
