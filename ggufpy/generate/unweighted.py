"""A model of which only the vocabulary was wanted: it has tokens and no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ggufpy.errors import GGUFError


class Unweighted:
    """Stands in an engine's place. What wants weights raises GGUFError."""

    parallel = 1
    rows = 1
    prompt_seconds = 0.0

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        architecture = metadata.get("general.architecture")
        tokens = metadata.get(f"{architecture}.vocab_size", metadata.get("tokenizer.ggml.tokens", ()))
        self.n_vocab = tokens if isinstance(tokens, int) else len(tokens)
        trained = metadata.get(f"{architecture}.context_length", 0)
        self.n_ctx = trained if isinstance(trained, int) else 0
        width = metadata.get(f"{architecture}.embedding_length", 0)
        self.n_embd = width if isinstance(width, int) else 0

    def tokens(self, tokens: Sequence[int]) -> NoReturn:
        """Raises GGUFError."""
        raise GGUFError("this model was loaded with vocab_only, without its weights: load it without that to run it")

    def close(self) -> None:
        """Nothing was taken."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self.tokens(())
