"""From messages to the tokens of a prompt, and what takes the answer apart.

The prompt is written by the model's template, or by a chat format that the caller names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggufpy.support.records import dataclass
from ggufpy.tokenizers.vocab import CONTROL

if TYPE_CHECKING:
    from ggufpy.api.openai.turns import Turns
    from ggufpy.chat.syntax import Syntax
    from ggufpy.tokenizers import Tokenizer


@dataclass(frozen=True)
class Answers:
    """How a model's answers are read: its syntax, and the control tokens whose texts that wants to see."""

    tokenizer: Tokenizer
    syntax: Syntax
    shown: frozenset[int]

    def control(self, text: str) -> int | None:
        """The control token that a text is, if it is one."""
        vocab = self.tokenizer.vocab
        token = vocab.ids.get(text)
        if token is None or CONTROL not in (vocab.types[token], vocab.stored_types[token]):
            return None
        return token


@dataclass(frozen=True)
class ChatPrompt:
    """A chat that is ready to be answered: its text and tokens, and further stop strings. `alone` are its tokens as
    the tokeniser makes them, whatever has been said before."""

    text: str
    tokens: list[int]
    stops: tuple[str, ...]
    alone: list[int]


def answers_of(tokenizer: Tokenizer, syntax: Syntax) -> Answers:
    """What reads the answers of a syntax with this vocabulary."""
    vocab = tokenizer.vocab
    control = np.flatnonzero(vocab.types == CONTROL).tolist()
    return Answers(tokenizer, syntax, frozenset(token for token in control if syntax.shows(vocab.texts[token])))


def chat_prompt(tokenizer: Tokenizer, text: str, stops: tuple[str, ...], turns: Turns) -> ChatPrompt:
    """The prompt of a rendered text, with a beginning token if one is due; what `turns` has of it has its tokens."""
    tokens = tokenizer.encode(text, add_special=False, parse_special=True)
    if tokenizer.add_bos and tokenizer.bos is not None and tokens[:1] != [tokenizer.bos]:
        tokens = [tokenizer.bos, *tokens]
    return ChatPrompt(text, turns.tokens(tokenizer, text, tokens), stops, tokens)
