"""From messages to the tokens of a prompt, and what takes the answer apart.

The prompt is written by the model's template, or by a chat format that the caller names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.chat.syntax import Syntax
    from ggufpy.tokenizers import Tokenizer


@dataclass(frozen=True)
class ChatPrompt:
    """A chat that is ready to be answered: its text and tokens, further stop strings, how the model writes calls and
    thoughts, and the control tokens whose texts that needs (`shown`)."""

    text: str
    tokens: list[int]
    stops: tuple[str, ...]
    syntax: Syntax
    shown: frozenset[int]
    is_token: Callable[[str], bool]


def chat_prompt(tokenizer: Tokenizer, text: str, stops: tuple[str, ...], syntax: Syntax) -> ChatPrompt:
    """The prompt of a rendered text, with a beginning token if one is due."""
    tokens = tokenizer.encode(text, add_special=False, parse_special=True)
    if tokenizer.add_bos and tokenizer.bos is not None and tokens[:1] != [tokenizer.bos]:
        tokens = [tokenizer.bos, *tokens]
    shown = frozenset(token for marker in syntax.markers if (token := _token(tokenizer, marker)) is not None)
    return ChatPrompt(text, tokens, stops, syntax, shown, lambda marker: _token(tokenizer, marker) is not None)


def _token(tokenizer: Tokenizer, text: str) -> int | None:
    """The control token that a text is, if it is one."""
    ids = tokenizer.encode(text, parse_special=True)
    return ids[0] if len(ids) == 1 and tokenizer.encode(text) != ids else None
