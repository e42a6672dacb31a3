"""Tokenizers as llama-cpp-python has them: bytes to ids and back. `Llama(tokenizer=...)` takes one of these."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    from ggufpy.llm import Llama
    from ggufpy.tokenizers import Tokenizer

__all__ = ["BaseLlamaTokenizer", "LlamaHFTokenizer", "LlamaTokenizer"]

Self = TypeVar("Self", bound="LlamaHFTokenizer")


class BaseLlamaTokenizer(ABC):
    """What makes ids of UTF-8 text and text of ids."""

    @abstractmethod
    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """Ids of `text`; `add_bos` adds what the model wants around it, `special` reads the texts of control tokens."""

    @abstractmethod
    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The bytes of `tokens`, which come behind `prev_tokens`; `special` writes control tokens too."""


class LlamaTokenizer(BaseLlamaTokenizer):
    """The tokenizer of a GGUF file: that of a `Llama`, or of a file (`from_ggml_file`), of which only the vocabulary is
    read."""

    def __init__(self, llama: Llama) -> None:
        self._tokenizer: Tokenizer = llama.tokenizer

    @classmethod
    def from_ggml_file(cls, path: str | os.PathLike[str]) -> LlamaTokenizer:
        """Raises GGUFError for a file without a vocabulary that is known."""
        from ggufpy.tokenizers import load_tokenizer

        made = cls.__new__(cls)
        made._tokenizer = load_tokenizer(path)
        return made

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """See BaseLlamaTokenizer."""
        return self._tokenizer.encode(text, add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """See BaseLlamaTokenizer; a GGUF file's tokens have the same bytes whatever comes before them."""
        return self._tokenizer.decode_bytes(tokens, special=special)

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        """`tokenize` of a str."""
        return self.tokenize(text.encode("utf-8", "ignore"), add_bos, special)

    def decode(self, tokens: Sequence[int]) -> str:
        """`detokenize` as a str, without what is not UTF-8."""
        return self.detokenize(tokens).decode("utf-8", "ignore")


class LlamaHFTokenizer(BaseLlamaTokenizer):
    """A tokenizer of Hugging Face's transformers, `hf_tokenizer`."""

    def __init__(self, hf_tokenizer: Any) -> None:
        self.hf_tokenizer = hf_tokenizer

    @classmethod
    def from_pretrained(cls: type[Self], pretrained_model_name_or_path: str | os.PathLike[str]) -> Self:
        """The tokenizer of a checkpoint: a folder, or a name on Hugging Face. Raises GGUFError without transformers."""
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise GGUFError("LlamaHFTokenizer needs transformers: pip install transformers") from error
        return cls(AutoTokenizer.from_pretrained(pretrained_model_name_or_path))

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """See BaseLlamaTokenizer; `special` adds what the model wants around a text, as in llama-cpp-python."""
        ids: list[int] = self.hf_tokenizer.encode(text.decode("utf-8", "ignore"), add_special_tokens=special)
        return ids

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """See BaseLlamaTokenizer."""
        before = list(prev_tokens or ())
        text = self._text([*before, *tokens], special)
        return text[len(self._text(before, special)) :] if before else text

    def _text(self, tokens: list[int], special: bool) -> bytes:
        text: str = self.hf_tokenizer.decode(tokens, skip_special_tokens=not special)
        return text.encode("utf-8", "ignore")
