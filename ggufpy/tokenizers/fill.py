"""Tokens that ask a model to fill in between a prefix and a suffix.

In: a vocabulary and the file's metadata. Out: their ids. Keys and texts: src/llama-vocab.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.tokenizers.vocab import Vocab

# For each part the keys that name it, the first that counts, and its texts where no key does.
_PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "prefix": (
        ("fim_pre_token_id", "prefix_token_id"),
        ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>", "<PRE>", "\u2581<PRE>",
         "<|code_prefix|>", "<|prefix|>"),
    ),
    "suffix": (
        ("fim_suf_token_id", "suffix_token_id"),
        ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim\u2581hole\uff5c>", "<SUF>", "\u2581<SUF>",
         "<|code_suffix|>", "<|suffix|>"),
    ),
    "middle": (
        ("fim_mid_token_id", "middle_token_id"),
        ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>", "<MID>", "\u2581<MID>",
         "<|code_middle|>", "<|middle|>"),
    ),
}  # fmt: skip
# What further files stand behind: keys and texts, as above.
_CONTEXT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "repository": (
        ("fim_rep_token_id",), ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ),
    "file": (("fim_sep_token_id",), ("<|file_sep|>",)),
}  # fmt: skip
FILL_TEXTS = tuple(text for _, texts in _PARTS.values() for text in texts)


@dataclass(frozen=True)
class Fill:
    """The tokens before the prefix, before the suffix, and (None for models that have none) before what is wanted."""

    prefix: int
    suffix: int
    middle: int | None

    def prompt(self, before: list[int], after: list[int], suffix_first: bool) -> list[int]:
        """Prefix, suffix, middle; with `suffix_first` the suffix comes first."""
        ends = [] if self.middle is None else [self.middle]
        front, back = [self.prefix, *before], [self.suffix, *after]
        return [*back, *front, *ends] if suffix_first else [*front, *back, *ends]


def fill_tokens(vocab: Vocab, metadata: Mapping[str, Any]) -> Fill:
    """The ids. Raises GGUFError for a model that has none."""
    found = {part: _token(vocab, metadata, *names) for part, names in _PARTS.items()}
    prefix, suffix = found["prefix"], found["suffix"]
    if prefix is None or suffix is None:
        raise GGUFError("the model has no tokens to fill in with: leave out suffix, or take a model of code that has")
    return Fill(prefix, suffix, found["middle"])


def context_tokens(vocab: Vocab, metadata: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The ids of what comes before a repository's name and before a file's, None where the model has none."""
    return _token(vocab, metadata, *_CONTEXT["repository"]), _token(vocab, metadata, *_CONTEXT["file"])


def _token(vocab: Vocab, metadata: Mapping[str, Any], keys: tuple[str, ...], texts: tuple[str, ...]) -> int | None:
    for key in keys:
        token = metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(token, int) and 0 <= token < len(vocab.texts):
            return token
    return next((vocab.ids[text] for text in texts if text in vocab.ids), None)
