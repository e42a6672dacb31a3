"""Whether a vocabulary in GGUF's own words gives the tokens of the tokenizer.json it was made of.

In: keys, and the text of tokenizer.json. Out: on how many of some hundred texts they differ. Both are read by this
package: the keys as any file's are, tokenizer.json by the `tokenizers` library.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

from ggufpy.convert.vocabulary import probes
from ggufpy.format.memory import ArraySource
from ggufpy.format.values import Typed
from ggufpy.support.records import dataclass
from ggufpy.tokenizers import Tokenizer, tokenizer_of
from ggufpy.tokenizers.hf import KEY
from ggufpy.tokenizers.library import guarded, import_library
from ggufpy.tokenizers.vocab import CONTROL, NORMAL, USER_DEFINED

_TEXTS = 300
_TOKENS = 300
_SPECIAL = 150


@dataclass(frozen=True)
class Difference:
    """On how many texts tokens differ: `plain` of texts without special tokens, `special` of those with them."""

    plain: int
    special: int
    example: str

    @property
    def texts(self) -> int:
        """How many plain texts were compared."""
        return _TEXTS + _TOKENS


def loaded(keys: Mapping[str, Typed]) -> Tokenizer:
    """The tokenizer of a file with these keys. Raises GGUFError as `load_tokenizer` does."""
    return tokenizer_of(ArraySource({"general.architecture": "llama", **keys}, {}))


def kept(keys: Mapping[str, Typed], description: str) -> dict[str, Typed]:
    """Keys with the whole tokenizer.json and without a pre-tokenizer. Raises GGUFError for one that cannot be read."""
    library = import_library("tokenizers")
    guarded("tokenizer.json", lambda: library.Tokenizer.from_str(description))
    own = {key: value for key, value in keys.items() if key != "tokenizer.ggml.pre"}
    return own | {KEY: Typed("string", description)}


def difference(keys: Mapping[str, Typed], description: str) -> Difference:
    """Where the tokenizers of `keys` and of `description` differ. Raises GGUFError where either cannot be made."""
    own, other = loaded(keys), loaded(kept(keys, description))
    texts = [*_plain(), *_token_texts(own)]
    plain = [text for text in texts if own.encode(text) != other.encode(text)]
    marked = probes.texts(_SPECIAL, seed=4, special=_special_texts(own))
    wrong = [text for text in marked if own.encode(text, parse_special=True) != other.encode(text, parse_special=True)]
    return Difference(len(plain), len(wrong), next(iter(plain + wrong), "")[:60])


@cache
def _plain() -> tuple[str, ...]:
    return tuple(probes.texts(_TEXTS, seed=3))


def _token_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts of tokens here and there, alone and two by two."""
    source = random.Random(5)
    normal = (tokenizer.vocab.stored_types == NORMAL).nonzero()[0].tolist()
    if not normal:
        return [""] * _TOKENS
    picked = [source.sample(normal, min(len(normal), 2)) for _ in range(_TOKENS)]
    return [tokenizer.decode(ids[: 1 + i % 2]).replace("\ufffd", "") for i, ids in enumerate(picked)]


def _special_texts(tokenizer: Tokenizer) -> list[str]:
    types = tokenizer.vocab.stored_types
    marked = ((types == CONTROL) | (types == USER_DEFINED)).nonzero()[0].tolist()
    source = random.Random(6)
    return [tokenizer.vocab.texts[token] for token in source.sample(marked, min(len(marked), 40))]
