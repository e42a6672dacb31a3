"""A vocabulary that GGUF's own keys cannot describe: the model's whole tokenizer.json under
`tokenizer.huggingface.json`, run by the `tokenizers` library.

In: that text, and the usual keys of the file. Out: a Tokenizer. How text becomes ids is the library's, with what its
added tokens say of white space and words around them; ids, types, special tokens, BOS and EOS are those of the GGUF
keys.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.tokenizers import bpe
from ggufpy.tokenizers.base import Tokenizer, replace_invalid
from ggufpy.tokenizers.library import guarded, import_library
from ggufpy.tokenizers.vocab import CONTROL, UNKNOWN, Described, Rules, Vocab, load_vocab

KEY = "tokenizer.huggingface.json"
LIMIT = 100_000_000  # bytes of the text
# What llama.cpp takes where the file says nothing, by tokenizer.ggml.model.
_RULES = {
    "gpt2": Rules(bos=11, eos=11, unknown=None, add_bos=False, add_space_prefix=False),
    "llama": Rules(bos=1, eos=2, unknown=0, add_bos=True, add_space_prefix=True),
    "bert": Rules(bos=101, eos=None, unknown=100, add_bos=True, add_space_prefix=False, sep=102),
    "t5": Rules(bos=None, eos=1, unknown=2, add_bos=False, add_space_prefix=False, add_eos=True),
}
_OTHER = Rules(bos=None, eos=None, unknown=None, add_bos=False, add_space_prefix=False)


class HFTokenizer(Tokenizer):
    """Tokenizer of a vocabulary that comes with its tokenizer.json."""

    def __init__(self, vocab: Vocab, description: dict[str, Any], of_bytes: bool, sep_last: bool) -> None:
        super().__init__(vocab)
        self._description = json.dumps(description)
        self._of_bytes = of_bytes
        self._sep_last = sep_last
        self._check()

    def _parts(self, text: str, parse_special: bool) -> list[str | int]:
        backend = self._parsing if parse_special else self._plain
        encoded = guarded(
            "the text cannot be tokenized",
            lambda: backend.encode(replace_invalid(text), add_special_tokens=False),
        )
        return list(encoded.ids)

    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        return [part for part in self._parts(text, False) if isinstance(part, int)]

    def _frame(self) -> tuple[list[int], list[int]]:
        before, after = super()._frame()
        if self._sep_last and self.vocab.sep is not None:
            return [] if self.vocab.bos is None else [self.vocab.bos], [self.vocab.sep]
        return before, after

    @cached_property
    def _plain(self) -> Any:
        """The library's tokenizer to which special tokens are text."""
        made = _made(self._description)
        made.encode_special_tokens = True
        return made

    @cached_property
    def _parsing(self) -> Any:
        """The library's tokenizer that finds special tokens."""
        return _made(self._description)

    def _check(self) -> None:
        ids = self._plain.get_vocab(with_added_tokens=True)
        most = max(ids.values(), default=-1)
        if most >= self.n_vocab:
            raise GGUFError(f"{KEY}: it has a token {most}, but tokenizer.ggml.tokens has {self.n_vocab:,}")

    def _normal_bytes(self, text: str) -> bytes:
        return bpe.bytes_of(text) if self._of_bytes else super()._normal_bytes(text)


def load(file: Described, pre: str | None) -> HFTokenizer:
    """The tokenizer of `file`, which has `tokenizer.huggingface.json`. Raises GGUFError where that is none."""
    metadata = file.metadata
    model = str(metadata.get("tokenizer.ggml.model"))
    vocab = load_vocab(file, _RULES.get(model, _OTHER))
    description = _description(metadata[KEY], vocab)
    return HFTokenizer(vocab, description, _of_bytes(description), model == "bert")


def _description(text: object, vocab: Vocab) -> dict[str, Any]:
    """The parsed tokenizer.json: its added tokens special where the file's types say so, and nothing that cuts or
    frames a text."""
    if not isinstance(text, str):
        raise GGUFError(f"{KEY} must be a text, not {type(text).__name__}")
    if len(text) > LIMIT:
        raise GGUFError(f"{KEY} has {len(text):,} characters; {LIMIT:,} are the most that is read")
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GGUFError(f"{KEY} is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(description, dict):
        raise GGUFError(f"{KEY} is not a JSON object")
    added = description.get("added_tokens", [])
    kept = [_typed(token, vocab) for token in added if _has_row(token, vocab)] if isinstance(added, list) else added
    return description | {"added_tokens": kept, "truncation": None, "padding": None, "post_processor": None}


def _has_row(token: object, vocab: Vocab) -> bool:
    """Whether an added token is one of the file's; what is none at all is left to the library to refuse."""
    number = token.get("id") if isinstance(token, dict) else None
    return not isinstance(number, int) or 0 <= number < len(vocab.types)


def _typed(token: object, vocab: Vocab) -> object:
    """An added token that is special where the file's types say so."""
    if not isinstance(token, dict) or not isinstance(token.get("id"), int):
        return token
    return token | {"special": bool(vocab.types[token["id"]] in (CONTROL, UNKNOWN))}


def _of_bytes(description: dict[str, Any]) -> bool:
    """Whether tokens are written in GPT-2's byte alphabet: by the decoder, or any part of it."""
    decoder = description.get("decoder")
    parts = [decoder, *(decoder.get("decoders") or ())] if isinstance(decoder, dict) else []
    return any(isinstance(part, dict) and part.get("type") == "ByteLevel" for part in parts)


def _made(description: str) -> Any:
    library = import_library("tokenizers")
    return guarded(f"{KEY} makes no tokenizer", lambda: library.Tokenizer.from_str(description))
