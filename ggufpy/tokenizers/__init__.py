"""Tokenizers from GGUF metadata: `load_tokenizer(file)` gives ids from text and text from ids."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, cast

from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.tokenizers import pretokenizers
from ggufpy.tokenizers.base import Tokenizer, TokenStream
from ggufpy.tokenizers.vocab import Described

if TYPE_CHECKING:
    from ggufpy.format.reader import GGUFFile

__all__ = ["TokenStream", "Tokenizer", "load_tokenizer", "tokenizer_of"]

# tokenizer.ggml.model to the module here that has load(file, pre)
_KINDS = {"bert": "wpm", "gemma4": "bpe", "gpt2": "bpe", "llama": "spm", "t5": "ugm", "whitespace": "bpe"}


def load_tokenizer(source: str | os.PathLike[str] | GGUFFile, pre: str | None = None) -> Tokenizer:
    """The tokenizer of a GGUF file (a path or an open file; a vocabulary without tensors is enough).

    `pre` names the pre-tokenizer of a BPE vocabulary instead of `tokenizer.ggml.pre`. Where the file names none that is
    known, but has the model's tokenizer.json (`tokenizer.huggingface.json`), that is used. Raises GGUFError for a
    kind or a pre-tokenizer that is not known, and for a vocabulary that is missing or contradicts itself.
    """
    from ggufpy.format.reader import GGUFFile
    from ggufpy.format.reader import open as open_file

    if pre is not None:
        checks.text("pre", pre)
    if isinstance(source, (str, os.PathLike)):
        with open_file(source) as file:
            return _load(file, pre)
    if not isinstance(source, GGUFFile):
        raise GGUFError(f"source is {checks.shown(source)}; the path of a GGUF file, or an open one, is wanted")
    return _load(source, pre)


def tokenizer_of(source: Described, pre: str | None = None) -> Tokenizer:
    """As `load_tokenizer`, of whatever has the metadata of a file."""
    return _load(source, pre)


def _load(file: Described, pre: str | None) -> Tokenizer:
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        said = "missing" if kind is None else kind
        raise GGUFError(f"tokenizer.ggml.model is {said}: the file has no tokenizer; take it from the model's own file")
    if pre is None and _says_it_all(file):
        return cast(Tokenizer, import_module("ggufpy.tokenizers.hf").load(file, pre))
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise GGUFError(f"tokenizer.ggml.model: the kind {str(kind)[:40]!r} is not supported; known: {known}")
    tokenizer: Tokenizer = import_module(f"ggufpy.tokenizers.{_KINDS[kind]}").load(file, pre)
    return tokenizer


def _says_it_all(file: Described) -> bool:
    """Whether the file has its tokenizer.json and does not name a pre-tokenizer (or kind) that is known here."""
    metadata = file.metadata
    if "tokenizer.huggingface.json" not in metadata:
        return False
    pre = metadata.get("tokenizer.ggml.pre")
    return metadata.get("tokenizer.ggml.model") not in _KINDS or pre not in pretokenizers.names()
