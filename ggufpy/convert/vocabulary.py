"""placeholder until the vocabulary's own branch is merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpy.format.values import Typed


@dataclass(frozen=True)
class Vocabulary:
    keys: dict[str, Typed]
    notes: tuple[str, ...]
    n_tokens: int


def vocabulary(folder: Path, config: Mapping[str, Any], size: int | None) -> Vocabulary:
    n = size or 0
    tokens = [f"t{i}" for i in range(n)]
    keys = {"tokenizer.ggml.model": Typed("string", "none"), "tokenizer.ggml.tokens": Typed("array[string]", tokens)}
    return Vocabulary(keys, (), n)


def export_vocabulary(metadata: Mapping[str, Any], folder: Path) -> list[str]:
    return []
