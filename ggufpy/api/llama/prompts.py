"""llama-server's prompts: texts, tokens, both in one list, several of them, or objects with a `prompt_string`.

In: what a field has. Out: token ids. llama.cpp: tools/server/server-common.cpp, tokenize_mixed and
tokenize_input_prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama.numbers import whole
from ggufpy.errors import GGUFError
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.api.asynchronous import AsyncCompletions

MOST_PROMPTS = 1024  # of one request
WANTED = "a text, a list of tokens, a list of texts and tokens, or {prompt_string}"


def is_several(value: object) -> bool:
    """Whether a value is a list of prompts, and not one prompt with tokens."""
    return isinstance(value, list) and not any(isinstance(each, int | float) for each in value)


def several(llm: AsyncCompletions, name: str, value: object) -> list[list[int]]:
    """The tokens of each prompt. Raises GGUFError for what is no prompt, for none and for too many."""
    if not is_several(value):
        return [one(llm, name, value)]
    assert isinstance(value, list)
    if not value:
        raise GGUFError(f"{name} is an empty list; {WANTED}, or some of them, are wanted")
    if len(value) > MOST_PROMPTS:
        raise GGUFError(f"{name} has {len(value)} prompts, and may have {MOST_PROMPTS}")
    return [one(llm, f"{name}[{i}]", each) for i, each in enumerate(value)]


def one(llm: AsyncCompletions, name: str, value: object) -> list[int]:
    """The tokens of one prompt, with a beginning token where one is due."""
    if isinstance(value, Mapping):
        return one(llm, f"{name}.prompt_string", _of_object(name, value))
    return mixed(llm, name, value, add_special=True, parse_special=True)


def _of_object(name: str, value: Mapping[str, Any]) -> object:
    if value.get("multimodal_data"):
        raise GGUFError(f"{name}.multimodal_data cannot be honoured: the model takes text alone")
    if unknown := set(value) - {"prompt_string", "multimodal_data"}:
        raise GGUFError(f"{name} has {sorted(unknown)[0][:80]!r}; prompt_string is all there is")
    if not isinstance(value.get("prompt_string"), str | list):
        raise GGUFError(f"{name}.prompt_string is missing; {WANTED} is wanted")
    return value["prompt_string"]


def mixed(llm: AsyncCompletions, name: str, value: object, *, add_special: bool, parse_special: bool) -> list[int]:
    """The tokens of a text, or of texts and tokens in a list, of which a first one that is a text has what the model
    wants before it (`add_special`); `parse_special` reads texts of control tokens as these."""
    encode = llm.tokenizer.encode
    if isinstance(value, str):
        return encode(value, add_special=add_special, parse_special=parse_special)
    if not isinstance(value, list):
        raise GGUFError(f"{name} is {checks.shown(value)}; {WANTED} is wanted")
    tokens: list[int] = []
    for i, part in enumerate(value):
        if isinstance(part, str):
            tokens += encode(part, add_special=add_special and i == 0, parse_special=parse_special)
        else:
            tokens += token_ids(llm, f"{name}[{i}]", [part])
    return tokens


def token_ids(llm: AsyncCompletions, name: str, values: list[Any]) -> list[int]:
    """Tokens of the model. Raises GGUFError for others, in the name of `name`."""
    n_vocab = llm.n_vocab()
    ids = [whole(name, value) for value in values]
    for token in ids:
        if not 0 <= token < n_vocab:
            raise GGUFError(f"{name}: token {token} is not in the vocabulary of {n_vocab:,} tokens")
    return ids
