"""A small model with random weights, a vocabulary of bytes and ChatML's template: grammars decide what it says."""

from __future__ import annotations

from pathlib import Path

from byte_vocabulary import write_vocabulary
from engine import SIZES, weights
from test_chat import CHATML

import ggufpy


def write_chat_model(folder: Path, context: int = 4096, template: str = CHATML) -> Path:
    """Writes it; loading takes some hundredths of a second."""
    write_vocabulary(folder / "vocabulary.gguf")
    with ggufpy.open(folder / "vocabulary.gguf") as file:
        vocabulary = {key: file.metadata[key] for key in file.metadata if key.startswith("tokenizer.")}
    vocabulary["tokenizer.ggml.tokens"] = [*vocabulary["tokenizer.ggml.tokens"], "<|im_start|>", "<|im_end|>"]
    vocabulary["tokenizer.ggml.token_type"] = [*vocabulary["tokenizer.ggml.token_type"], 3, 3]
    vocabulary |= {"tokenizer.ggml.eos_token_id": 257, "tokenizer.chat_template": template}
    sizes = {**SIZES, "context_length": context}
    keys = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in sizes.items()}}
    ggufpy.write(folder / "small.gguf", {**keys, **vocabulary}, weights(sizes, 258, "F32"))
    return folder / "small.gguf"
