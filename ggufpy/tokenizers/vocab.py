"""The vocabulary of a GGUF file: token texts, types, scores and the special tokens with their rules.

In: the metadata of an open file. Out: one frozen Vocab that every kind of tokenizer builds on. What metadata
leaves open is decided as in llama.cpp (src/llama-vocab.cpp): defaults by kind, end tokens by text,
overridden types.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass
from ggufpy.tokenizers.fill import FILL_TEXTS
from ggufpy.tokenizers.strings import decode_strings

if TYPE_CHECKING:
    from ggufpy.format.metadata import Metadata

NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5
BYTE: Final = 6

SPACE: Final = "\u2581"  # how a space is written in a vocabulary that is not of bytes

_KEY = "tokenizer.ggml."
_BYTE_TEXT = re.compile("<0x[0-9A-Fa-f]{2}>")
END_OF_TURN = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<end_of_utterance>",
)
_END_OF_GENERATION = (
    *END_OF_TURN,
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "</s>",
    "<|eom_id|>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
)
# Fill-in-the-middle tokens by key and by text. Padding, repository and file separators also end a generation.
_FILL = (
    (("fim_pad_token_id",), ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")),
    (("fim_rep_token_id",), ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")),
    (("fim_sep_token_id",), ("<|file_sep|>",)),
)
_ALWAYS_SHOWN = (
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|constrain|>",
)  # gpt-oss writes its answer between them


class Described(Protocol):
    """Whatever has the metadata of a GGUF file: an open file, or `format.ArraySource`."""

    @property
    def metadata(self) -> Metadata: ...


@dataclass(frozen=True)
class Rules:
    """What holds for a kind of tokenizer when the file does not say: ids of special tokens, BOS, EOS, space
    prefix."""

    bos: int | None
    eos: int | None
    unknown: int | None
    add_bos: bool
    add_space_prefix: bool
    add_eos: bool = False
    sep: int | None = None


@dataclass(frozen=True)
class Vocab:
    """A vocabulary of n tokens.

    `texts`: n strings as stored (not yet bytes of text). `types`: int32 (n,), as they act; `stored_types`:
    as the file has them. `scores`: float32 (n,). `ids`: text to its first id. `bos` ... `sep`: ids or
    None. `end_tokens`: every id that ends a generation.
    """

    texts: list[str]
    types: NDArray[np.int32]
    stored_types: NDArray[np.int32]
    scores: NDArray[np.float32]
    ids: dict[str, int]
    bos: int | None
    eos: int | None
    unknown: int | None
    sep: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    end_tokens: frozenset[int]
    strip_after_special: frozenset[int]
    add_sep: bool = False  # between the texts of a pair, beside what ends each


def load_vocab(file: Described, rules: Rules) -> Vocab:
    """Reads and checks the vocabulary of `file`. Raises GGUFError naming the key that is wrong."""
    metadata = file.metadata
    texts = token_texts(file)
    n = len(texts)
    stored = _token_types(metadata, n)
    scores = _scores(metadata, n)
    if np.isnan(scores).any():
        raise GGUFError(f"{_KEY}scores: a score is not a number; write the vocabulary again from its source")
    ids = dict(zip(texts, range(n), strict=True))
    if len(ids) != n:  # duplicates: the first one counts
        ids = dict(zip(reversed(texts), range(n - 1, -1, -1), strict=True))
    types = stored.copy()
    bos = _special(metadata, "bos", n, rules.bos)
    eos = _special(metadata, "eos", n, rules.eos)
    end_tokens = _end_tokens(metadata, ids, types, eos)
    add_bos = flag(metadata, "add_bos_token")
    add_eos = flag(metadata, "add_eos_token")
    for wanted, token, name in ((add_bos, bos, "bos"), (add_eos, eos, "eos")):
        if wanted and token is None:
            raise GGUFError(f"{_KEY}add_{name}_token is true, but {_KEY}{name}_token_id is not a token of the file")
    prefix = flag(metadata, "add_space_prefix")
    return Vocab(
        texts=texts,
        types=types,
        stored_types=stored,
        scores=scores,
        ids=ids,
        bos=bos,
        eos=eos,
        unknown=_special(metadata, "unknown", n, rules.unknown),
        sep=_special(metadata, "seperator", n, rules.sep),
        add_sep=bool(flag(metadata, "add_sep_token")),
        add_bos=(rules.add_bos and bos is not None) if add_bos is None else add_bos,
        add_eos=(rules.add_eos and eos is not None) if add_eos is None else add_eos,
        add_space_prefix=rules.add_space_prefix if prefix is None else prefix,
        end_tokens=end_tokens,
        strip_after_special=_strip_after(metadata, ids, types),
    )


def token_texts(file: Described) -> list[str]:
    """`tokenizer.ggml.tokens`, an empty text replaced by "[EMPTY_id]". Raises GGUFError if it is missing or
    empty."""
    key = f"{_KEY}tokens"
    if key not in file.metadata:
        raise GGUFError(f"{key} is missing: the file has no vocabulary; use the model's own file, or write it again")
    texts = decode_strings(file.metadata.strings(key))
    if not texts:
        raise GGUFError(f"{key} is empty: the file has no vocabulary")
    if "" in texts:
        return [text or f"[EMPTY_{i}]" for i, text in enumerate(texts)]
    return texts


def _token_types(metadata: Metadata, n: int) -> NDArray[np.int32]:
    """`tokenizer.ggml.token_type` as (n,); every token is a normal one if it is not there."""
    array = _array(metadata, "token_type", "iu", "whole numbers (int32)", n)
    if array is None:
        return np.full(n, NORMAL, np.int32)
    known = (array >= NORMAL) & (array <= BYTE)  # what another reader may know is undefined here, as in llama.cpp
    return np.where(known, array, 0).astype(np.int32)


def _scores(metadata: Metadata, n: int) -> NDArray[np.float32]:
    """`tokenizer.ggml.scores` as (n,); 0 if it is not there."""
    array = _array(metadata, "scores", "f", "floats (float32)", n)
    return np.zeros(n, np.float32) if array is None else array.astype(np.float32)


def _array(metadata: Metadata, name: str, kinds: str, meant: str, n: int) -> NDArray[Any] | None:
    """The first n elements of `tokenizer.ggml.<name>`, of one of NumPy's `kinds`; None if it is not there."""
    key = _KEY + name
    if key not in metadata:
        return None
    array = metadata.array(key)
    if array.dtype.kind not in kinds:
        raise GGUFError(f"{key} is {metadata.type(key)}; it must be an array of {meant}, write it again")
    if len(array) < n:
        raise GGUFError(
            f"{key} has {len(array):,} entries for {n:,} tokens; write the vocabulary again from its source"
        )
    return array[:n]


def flag(metadata: Metadata, name: str) -> bool | None:
    """`tokenizer.ggml.<name>`, None where it is not there. Raises GGUFError if it is no bool."""
    value = metadata.get(_KEY + name)
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise GGUFError(f"{_KEY}{name} must be true or false, not {str(value)[:40]!r}")
    return None if value is None else bool(value)


def _special(metadata: Metadata, name: str, n: int, default: int | None) -> int | None:
    """The id under `tokenizer.ggml.<name>_token_id`; one outside the vocabulary counts as missing, as in
    llama.cpp, and so does a default."""
    key = f"{_KEY}{name}_token_id"
    value = metadata.get(key)
    if default is not None and default >= n:
        default = None
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise GGUFError(f"{key} must be a token number, not {str(value)[:40]!r}")
    return int(value) if 0 <= value < n else default


def _end_tokens(metadata: Metadata, ids: dict[str, int], types: NDArray[np.int32], eos: int | None) -> frozenset[int]:
    """Every end-of-generation id; sets `types` to CONTROL for tokens that are special by their text."""
    n = len(types)
    ends = {token for name in ("eot", "eom") if (token := _special(metadata, name, n, None)) is not None}
    ends |= {eos} if eos is not None else set()
    for keys, texts in _FILL:
        token = _special(metadata, keys[0].removesuffix("_token_id"), n, None)
        if token is None:
            token = next((ids[text] for text in texts if text in ids), None)
            if token is not None:
                types[token] = CONTROL
        if token is not None:
            ends.add(token)
    for text in _END_OF_GENERATION:
        if text in ids:
            types[ids[text]] = CONTROL
            ends.add(ids[text])
    for text in FILL_TEXTS:
        if text in ids:
            types[ids[text]] = CONTROL
    for text in _ALWAYS_SHOWN:
        if text in ids:
            types[ids[text]] = USER_DEFINED
    _keep_going(ids, types, ends)
    return frozenset(ends)


def _keep_going(ids: dict[str, int], types: NDArray[np.int32], ends: set[int]) -> None:
    """Families in which a usual end token only ends a part of the answer (gpt-oss, solar-open, gemma 4)."""

    def have(*texts: str) -> bool:
        return all(text in ids and ids[text] in ends for text in texts)

    calls = have("<|call|>") or have("<|calls|>")
    if have("<|end|>") and calls and (have("<|return|>") or have("<|flush|>")):
        ends.discard(ids["<|end|>"])
        types[ids["<|end|>"]] = USER_DEFINED
    if have("<|tool_response>", "</s>"):
        ends.discard(ids["</s>"])
        types[ids["</s>"]] = NORMAL


def _strip_after(metadata: Metadata, ids: dict[str, int], types: NDArray[np.int32]) -> frozenset[int]:
    """Special tokens that swallow the white space after them: those of Phi-3, known by `general.name`."""
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    special = set(np.flatnonzero(np.isin(types, (CONTROL, USER_DEFINED, UNKNOWN))).tolist())
    return frozenset(special - {ids[text] for text in ("<unk>", "<s>", "<|endoftext|>") if text in ids})


def token_byte(text: str) -> bytes:
    """The byte of a byte token: <0x0A> is a line end. A text of another form stands for itself."""
    if _BYTE_TEXT.fullmatch(text):
        return bytes((int(text[3:5], 16),))
    return text.encode("utf-8", "surrogateescape")
