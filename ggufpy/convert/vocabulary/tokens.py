"""The table of tokens: texts and GGUF types by id, from a model's vocabulary and what was added to it.

In: text → id, added tokens, rows of the embedding. Out: lists as long as the embedding, without gaps: rows that no
token has become unused tokens "[PAD<id>]". Types as in conversion/base.py of llama.cpp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

from ggufpy.convert.vocabulary.files import Sources, part
from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed
from ggufpy.support.records import dataclass
from ggufpy.tokenizers.vocab import CONTROL, NORMAL, UNUSED, USER_DEFINED

SPACE = "\u2581"
_GAPS = 1 << 17  # ids without a token that a vocabulary may have where nothing says how many rows there are
_LONGEST = 1 << 16  # characters of a token
_ADDED_SCORE = -1000.0
_PAD_SCORE = -10000.0
# Added tokens that are special although their files do not say so.
_SPECIAL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_SPECIAL_FRAMES = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def is_byte(text: str) -> bool:
    """Whether a token of a vocabulary that falls back to bytes is one, "<0x0A>"."""
    return _BYTE.fullmatch(text) is not None


@dataclass(frozen=True)
class Added:
    """A token that was added to a vocabulary: `special` ones are not part of a text, the rest says what a library
    does with white space and words around it."""

    text: str
    id: int
    special: bool = False
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    @property
    def kind(self) -> int:
        """CONTROL or USER_DEFINED."""
        framed = any(self.text.startswith(first) and self.text.endswith(last) for first, last in _SPECIAL_FRAMES)
        return CONTROL if self.special or framed or self.text in _SPECIAL_TEXTS else USER_DEFINED

    @property
    def entry(self) -> dict[str, Any]:
        """As tokenizer.json has it among its added_tokens."""
        return {
            "id": self.id, "content": self.text, "single_word": self.single_word, "lstrip": self.lstrip,
            "rstrip": self.rstrip, "normalized": self.normalized, "special": self.special,
        }  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Tokens by id: `texts`, `types` (GGUF's numbers) and `scores`, n each; `dropped` are added tokens beyond the
    embedding's rows."""

    texts: list[str]
    types: list[int]
    scores: list[float]
    dropped: tuple[Added, ...] = ()

    def ids(self) -> dict[str, int]:
        """Text → its first id."""
        return dict(zip(reversed(self.texts), range(len(self.texts) - 1, -1, -1), strict=True))


@dataclass(frozen=True)
class Pieces:
    """A vocabulary on its way to GGUF.

    `model` and `pre` are what the keys of these names get. `merges` are texts "left right"; `scored` says whether
    scores are written. `extra` are further keys of the kind; `specials` are ids that the model itself names ("unk",
    "bos", ...), for where no other file does. `description` is the tokenizer.json that the result is compared with, and
    that is kept where they differ.
    """

    model: str
    pre: str | None
    table: Table
    merges: list[str] | None = None
    scored: bool = False
    extra: dict[str, Typed] = field(default_factory=dict)
    specials: Mapping[str, int] = field(default_factory=dict)
    description: str | None = None
    notes: tuple[str, ...] = ()


def table(
    base: Mapping[str, int],
    added: Sequence[Added],
    size: int | None,
    name: str,
    scores: Mapping[int, float] | None = None,
) -> Table:
    """All tokens. Raises GGUFError for ids that are used twice or lie beyond the `size` rows of an embedding.

    `base` has been checked by `checked_vocabulary`; `name` is the file that it is from.
    """
    texts = {token: text for text, token in base.items()}
    last = max(texts, default=-1)
    if size is not None and last >= size:
        raise GGUFError(
            f"{name} has a token {last} ({texts[last][:40]!r}), but the embedding has {size:,} rows; "
            "these files do not belong together"
        )
    kept = [token for token in added if size is None or token.id < size]
    n = size if size is not None else max([last, *(token.id for token in kept)]) + 1
    if not n:
        raise GGUFError(f"{name} has no tokens")
    if size is None and n > len(texts) + len(kept) + _GAPS:
        raise GGUFError(f"{name}: its highest token is {n - 1:,}, but it has {len(texts):,} tokens; it is damaged")
    types = [UNUSED] * n
    values = [_PAD_SCORE] * n
    for token in texts:
        types[token] = NORMAL
        values[token] = 0.0 if scores is None else scores[token]
    for item in kept:
        types[item.id] = item.kind
        values[item.id] = _ADDED_SCORE
        texts[item.id] = item.text.replace(SPACE, " ") if item.kind == USER_DEFINED else item.text
    dropped = tuple(token for token in added if size is not None and token.id >= size)
    return Table(distinct(texts, types), types, values, dropped)


def distinct(texts: Mapping[int, str], types: list[int]) -> list[str]:
    """Texts by id, one for each of `types`, none of them twice: llama.cpp refuses a file in which two tokens are alike.

    An id without a text, or with one that an earlier id has, becomes an unused token.
    """
    seen: set[str] = set()
    made: list[str] = []
    taken = set(texts.values())
    for token in range(len(types)):
        text = texts.get(token)
        if text is None or text in seen:
            types[token] = UNUSED
            text = f"[PAD{token}]"
            while text in seen or text in taken:
                text += "_"
        seen.add(text)
        made.append(text)
    return made


def checked_vocabulary(vocab: object, name: str) -> dict[str, int]:
    """text → id as JSON has it. Raises GGUFError for what is none, and for ids that are used twice."""
    if not isinstance(vocab, dict):
        raise GGUFError(f"{name}: the vocabulary is a {type(vocab).__name__}, and must be an object of texts and ids")
    by_id: dict[int, str] = {}
    for text, token in vocab.items():
        number = checked_id(token, text, name)
        other = by_id.setdefault(number, text)
        if other != text:
            raise GGUFError(f"{name}: {other[:40]!r} and {text[:40]!r} both have the id {number}; it is damaged")
        if len(text) > _LONGEST:
            raise GGUFError(f"{name}: token {number} has {len(text):,} characters; {_LONGEST:,} are allowed")
        _encodable(text, number, name)
    return vocab


def checked_id(token: object, text: str, name: str) -> int:
    """A token's id. Raises GGUFError unless it is a whole number that an id can be."""
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < 1 << 31:
        raise GGUFError(f"{name}: the id of {text[:40]!r} is {str(token)[:40]}, and must be a whole number from 0")
    return token


def _encodable(text: str, number: int, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GGUFError(f"{name}: the text of token {number} is not valid Unicode") from None


def added_tokens(sources: Sources, base: Mapping[str, int]) -> list[Added]:
    """Added tokens by id: those of tokenizer.json, or, where there is none, of the other files.

    Raises GGUFError for one of another form, and for ids that are used twice.
    """
    if sources.description is not None:
        listed = sources.description.get("added_tokens")
        if listed is not None and not isinstance(listed, list):
            raise GGUFError("tokenizer.json: 'added_tokens' must be a list")
        listed_tokens = [_added(token, None, "tokenizer.json") for token in listed or ()]
    else:
        listed_tokens = _from_settings(sources, base)
    by_id: dict[int, Added] = {}
    for token in listed_tokens:
        earlier = by_id.setdefault(token.id, token)
        if earlier.text != token.text:
            raise GGUFError(
                f"added tokens: {earlier.text[:40]!r} and {token.text[:40]!r} both have the id {token.id}; one is wrong"
            )
    taken = {token: text for text, token in base.items()} if sources.description is not None else {}
    for token in by_id.values():
        if taken.get(token.id, token.text) != token.text:
            raise GGUFError(
                f"tokenizer.json: {taken[token.id][:40]!r} and {token.text[:40]!r} both have the id {token.id}; "
                "it is damaged"
            )
        if base.get(token.text, token.id) != token.id:
            raise GGUFError(
                f"added tokens: {token.text[:40]!r} has the id {token.id}, but {base[token.text]} in the vocabulary"
            )
    return [by_id[token] for token in sorted(by_id)]


def with_settings(sources: Sources) -> Sources:
    """`sources` whose tokenizer.json has the added tokens, too, that tokenizer_config.json alone has.

    transformers adds them when it reads a folder: those of added_tokens_decoder, and tokens of the vocabulary that are
    named as special ones. One whose id another token has is left out. Raises GGUFError as `added_tokens` does.
    """
    listed = None if sources.description is None else sources.description.get("added_tokens") or []
    if sources.description is None or not isinstance(listed, list):
        return sources
    base = _vocabulary_of(sources.description)
    there = {content(token) for token in listed}
    taken = {token.get("id") for token in listed if isinstance(token, dict) and isinstance(token.get("id"), int)}
    taken |= set(base.values())
    further = [token for token in _from_settings(replace(sources, added={}), base) if token.text not in there]
    further = [token for token in further if base.get(token.text) == token.id or token.id not in taken]
    if not further:
        return sources
    entries = [*listed, *(token.entry for token in sorted(further, key=lambda token: token.id))]
    description = {**sources.description, "added_tokens": entries}
    return replace(sources, description=description, text=json.dumps(description))


def _vocabulary_of(description: Mapping[str, Any]) -> dict[str, int]:
    """text → id of a model of any kind; what is damaged is left out here, and refused later."""
    vocab = part(description, "model", "tokenizer.json").get("vocab")
    pairs: Iterable[tuple[object, object]] = vocab.items() if isinstance(vocab, dict) else ()
    if isinstance(vocab, list):
        pairs = [(entry[0], i) for i, entry in enumerate(vocab) if isinstance(entry, list) and entry]
    return {text: i for text, i in pairs if isinstance(text, str) and isinstance(i, int)}


def _from_settings(sources: Sources, base: Mapping[str, int]) -> list[Added]:
    """Those of added_tokens.json, tokenizer_config.json and special_tokens_map.json."""
    by_text: dict[str, Added] = {}
    for text, token in sources.added.items():
        by_text[text] = Added(text, checked_id(token, text, "added_tokens.json"))
    decoder = sources.settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for number, token in decoder.items():
            made = _added(token, number, "tokenizer_config.json")
            by_text[made.text] = made
    for text in special_texts(sources):
        token = by_text.get(text) or (Added(text, base[text]) if text in base else None)
        if token is not None:
            by_text[text] = Added(text, token.id, True, token.normalized, token.lstrip, token.rstrip, token.single_word)
    return list(by_text.values())


def special_texts(sources: Sources) -> list[str]:
    """Texts that tokenizer_config.json and special_tokens_map.json call special, as transformers 4 and 5 write them."""
    texts: list[str] = []
    for settings in (sources.settings, sources.special_map):
        for key, value in settings.items():
            if key.endswith("_token"):
                texts += _texts_of([value])
            elif key in ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"):
                texts += _texts_of(value.values() if isinstance(value, dict) else value)
    return list(dict.fromkeys(texts))


def _texts_of(values: object) -> list[str]:
    if not isinstance(values, Iterable) or isinstance(values, str):
        return []
    texts = [content(value) for value in values]
    return [text for text in texts if text]


def content(value: object) -> str | None:
    """The text of a token that is given as a text or as an AddedToken's dictionary."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _added(token: object, number: str | None, name: str) -> Added:
    if not isinstance(token, dict):
        raise GGUFError(f"{name}: an added token is a {type(token).__name__}, and must be an object")
    text = content(token)
    if not text:
        raise GGUFError(f"{name}: an added token has no text ('content')")
    if number is not None and not (number.isascii() and number.isdigit() and len(number) < 11):
        raise GGUFError(f"{name}: the id of {text[:40]!r} is {number[:40]!r}, and must be a whole number from 0")
    token_id = checked_id(token.get("id") if number is None else int(number), text, name)
    _encodable(text, token_id, name)

    def has(key: str) -> bool:
        value: Any = token.get(key, False)
        if not isinstance(value, bool):
            raise GGUFError(f"{name}: {key!r} of {text[:40]!r} must be true or false")
        return value

    return Added(text, token_id, *map(has, ("special", "normalized", "lstrip", "rstrip", "single_word")))
