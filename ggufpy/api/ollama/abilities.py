"""What a model can do, by its file's metadata: ollama's capabilities.

A template that writes of tools or thoughts names them; that is what counts, as with ollama, which looks for its
variables (server/images.go, Capabilities).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ggufpy.tokenizers.fill import FILL_TEXTS

_TEMPLATE = "tokenizer.chat_template"
_TOOLS = re.compile(r"\btools\b")
_THOUGHTS = re.compile(
    r"enable_thinking|reasoning_content|reasoning_effort|<think>|\[THINK\]|<\|channel\|>|\bthinking\b"
)
_FILL_KEYS = (("fim_pre_token_id", "prefix_token_id"), ("fim_suf_token_id", "suffix_token_id"))


def thinks(metadata: Mapping[str, Any]) -> bool:
    """Whether its chat template knows of thoughts."""
    return _THOUGHTS.search(_template(metadata)) is not None


def knows_tools(metadata: Mapping[str, Any]) -> bool:
    """Whether its chat template knows of tools."""
    return f"{_TEMPLATE}.tool_use" in metadata or _TOOLS.search(_template(metadata)) is not None


def capabilities(metadata: Mapping[str, Any], tokens: Collection[str] = ()) -> list[str]:
    """ollama's words for what a model can do; `tokens` are the texts of its vocabulary, as far as they are known."""
    architecture = metadata.get("general.architecture")
    pooled = metadata.get(f"{architecture}.pooling_type", 0) not in (0, None)
    if pooled or metadata.get(f"{architecture}.attention.causal") is False:
        return ["embedding"]
    said = {"completion": True, "tools": knows_tools(metadata), "insert": _fills(metadata, tokens),
            "thinking": thinks(metadata)}  # fmt: skip
    return [name for name, true in said.items() if true]


def _fills(metadata: Mapping[str, Any], tokens: Collection[str]) -> bool:
    """Whether it has tokens before a prefix and before a suffix."""
    if all(any(f"tokenizer.ggml.{key}" in metadata for key in keys) for keys in _FILL_KEYS):
        return True
    return len(set(FILL_TEXTS).intersection(tokens)) > 1


def _template(metadata: Mapping[str, Any]) -> str:
    text = metadata.get(_TEMPLATE)
    return text if isinstance(text, str) else ""
