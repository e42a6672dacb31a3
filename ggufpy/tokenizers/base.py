"""What every tokenizer has: ids from text, text from ids, special tokens, and text that streams.

In: a checked Vocab. Out: the Tokenizer that applications hold; a kind of tokenizer (bpe.py, spm.py) adds how
a piece of plain text becomes ids and what bytes a token stands for.
"""

from __future__ import annotations

import codecs
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import chain

from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.tokenizers.special import Partition
from ggufpy.tokenizers.texts import TokenTexts
from ggufpy.tokenizers.vocab import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, Vocab, token_byte

_SURROGATES = re.compile("[\ud800-\udfff]")


class Tokenizer(ABC):
    """A vocabulary with its rules; made by `load_tokenizer`. Safe to share between threads."""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self._partition = Partition(vocab)
        self._hidden: list[bool] = ((vocab.types == CONTROL) | (vocab.types == UNKNOWN)).tolist()

    @property
    def n_vocab(self) -> int:
        """How many tokens there are; ids run from 0 to n_vocab - 1."""
        return len(self.vocab.texts)

    @property
    def bos(self) -> int | None:
        """The id that begins a text, or None."""
        return self.vocab.bos

    @property
    def eos(self) -> int | None:
        """The id that ends a text, or None."""
        return self.vocab.eos

    @property
    def add_bos(self) -> bool:
        """Whether `encode(..., add_special=True)` puts `bos` first."""
        return self.vocab.add_bos

    @property
    def add_eos(self) -> bool:
        """Whether `encode(..., add_special=True)` puts `eos` last."""
        return self.vocab.add_eos

    @property
    def end_tokens(self) -> frozenset[int]:
        """Every id that ends a generation: end of text, of turn, of message."""
        return self.vocab.end_tokens

    @cached_property
    def texts(self) -> TokenTexts:
        """The bytes of all tokens, control tokens their own texts, to be searched in."""
        return TokenTexts(self)

    def encode(self, text: str | bytes, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Ids of `text`.

        `add_special`: with BOS and EOS where the model wants them. `parse_special`: texts of control tokens
        become these tokens; without it they are plain text (user-defined tokens are found in both cases).
        """
        if isinstance(text, (bytes, bytearray, memoryview)):
            text = bytes(text).decode("utf-8", "surrogateescape")
        elif not isinstance(text, str):
            raise GGUFError(f"text to tokenize must be str or bytes, not {type(text).__name__}")
        add_special = checks.flag("add_special", add_special)
        parse_special = checks.flag("parse_special", parse_special)
        before, after = self._frame() if add_special else ([], [])
        ids = before
        after_special = True
        for part in self._parts(text, parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_text(part, after_special)
            after_special = isinstance(part, int)
        return ids + after

    def pair(self, first: str, second: str) -> list[int]:
        """Ids of two texts as one, as models that rank texts want them, with what the model adds around texts and
        between them: BOS first EOS SEP second EOS."""
        before, after = self._frame()
        return [*before, *self.encode(first), *self._between(), *self.encode(second), *after]

    def token_bytes(self, token: int, special: bool = True) -> bytes:
        """The bytes that a token stands for; nothing for a control token without `special`.

        Raises GGUFError for an id outside the vocabulary.
        """
        token = self._checked(token)
        if self._hidden[token]:
            return self.vocab.texts[token].encode("utf-8", "surrogateescape") if special else b""
        return self._text_bytes(token)

    def decode_bytes(self, ids: Iterable[int], special: bool = False) -> bytes:
        """The bytes of a text; control tokens give nothing unless `special`.

        The space that a vocabulary with a space prefix puts first is taken away after BOS only, as
        llama_cpp's `detokenize` does: ids without BOS may continue a text, and then their space counts.
        """
        ids = checks.items("ids", ids, "a list of token ids (whole numbers)")
        special = checks.flag("special", special)
        data = b"".join([self.token_bytes(token, special) for token in ids])
        if self.vocab.add_space_prefix and len(ids) > 1 and ids[0] == self.vocab.bos:
            head = len(self.token_bytes(ids[0], special))
            if data[head : head + 1] == b" ":
                data = data[:head] + data[head + 1 :]
        return data

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """`decode_bytes` as text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids, special).decode("utf-8", "replace")

    def stream(self, special: bool = False, shown: frozenset[int] = frozenset()) -> TokenStream:
        """A decoder for ids that come one by one; control tokens give nothing unless `special` or in `shown`."""
        return TokenStream(self, special, shown)

    def _parts(self, text: str, parse_special: bool) -> list[str | int]:
        """A text as pieces of plain text, and ids of what is found before plain text is tokenized."""
        return self._partition.split(text, parse_special)

    def _frame(self) -> tuple[list[int], list[int]]:
        """Ids before and after a text that is encoded with `add_special`."""
        vocab = self.vocab
        before = [vocab.bos] if vocab.add_bos and vocab.bos is not None else []
        return before, [vocab.eos] if vocab.add_eos and vocab.eos is not None else []

    def _between(self) -> list[int]:
        """Ids between the two texts of a pair."""
        sep = self.vocab.sep if self.vocab.add_sep else None
        return [*self._frame()[1], *([] if sep is None else [sep])]

    def _checked(self, token: int) -> int:
        try:
            index = operator.index(token)
        except TypeError:
            index = None
        if index is None or isinstance(token, bool):
            raise GGUFError(f"a token id must be a whole number, not {type(token).__name__}")
        if not 0 <= index < len(self._hidden):
            raise GGUFError(f"token {index} is not in the vocabulary of {len(self._hidden):,} tokens")
        return index

    @abstractmethod
    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        """Ids of plain text; bytes that were not UTF-8 are lone surrogates in it. `after_special`: nothing
        but special tokens stands right before it."""

    def _text_bytes(self, token: int) -> bytes:
        """The bytes of a token that is shown."""
        kind, text = self.vocab.types[token], self.vocab.texts[token]
        if kind == NORMAL:
            return self._normal_bytes(text)
        if kind == USER_DEFINED:
            return text.encode("utf-8", "surrogateescape")
        return token_byte(text) if kind == BYTE else b""

    def _normal_bytes(self, text: str) -> bytes:
        """The bytes of a normal token, by its text in the vocabulary."""
        return text.replace(SPACE, " ").encode("utf-8", "surrogateescape")


class TokenStream:
    """Ids in, text out, a character only once all its bytes are there; bytes that are not UTF-8 become
    U+FFFD.

    What was pushed and flushed is `decode` of the same ids, except that no space prefix is ever taken away.
    """

    def __init__(self, tokenizer: Tokenizer, special: bool = False, shown: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._special, self._shown = special, shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is complete with this token, possibly none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token, self._special or token in self._shown))

    def flush(self) -> str:
        """What is left (U+FFFD for the beginning of a character); the stream starts anew."""
        left = self._decoder.decode(b"", True)
        self._decoder.reset()
        return left


def replace_invalid(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate (bytes that were not UTF-8)."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def looked_up(words: list[str], encode: Callable[[list[str]], Iterable[list[int]]]) -> list[int]:
    """Ids of words one after the other; `encode` is given each different one once."""
    different = list(set(words))
    ids = dict(zip(different, encode(different), strict=True))
    return list(chain.from_iterable(map(ids.__getitem__, words)))
