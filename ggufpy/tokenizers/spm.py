"""SentencePiece BPE (`tokenizer.ggml.model` = llama) over the `sentencepiece` library.

In: texts, scores and types of a GGUF file. Out: a Tokenizer. The library reads a ModelProto, which is
written here field by field (sentencepiece_model.proto): no protobuf package is needed. Space prefix, special
tokens and invalid bytes are handled before the library sees a text, as in llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from struct import pack
from typing import Any

from ggufpy.tokenizers import pretokenizers
from ggufpy.tokenizers.base import Tokenizer, looked_up, replace_invalid
from ggufpy.tokenizers.library import guarded, import_library
from ggufpy.tokenizers.vocab import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, Described, Rules, Vocab, load_vocab

_UNFIT = re.compile("[\0\ud800-\udfff]")  # the library takes no piece with these
_HIDDEN = "\uffff"
_SURROGATE = re.compile("[\ud800-\udfff]")
_INVALID = re.compile("([\udc80-\udcff]+)")  # bytes that were not UTF-8
_WORDS = re.compile(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+")
_CROSSING = re.compile(f"[^{SPACE}]{SPACE}")
_BYTE_TEXT = re.compile("<0x[0-9A-F]{2}>")


class SPMTokenizer(Tokenizer):
    """Tokenizer of a `llama` vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        super().__init__(vocab)
        self._byte_ids = _byte_ids(vocab)
        pieces = _pieces(vocab, self._byte_ids)
        self._by_words = not any(kind == NORMAL and _CROSSING.search(text) for text, kind in pieces)
        self._backend = _backend(pieces, vocab, len(self._byte_ids) > 0)

    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        if after_special and self.vocab.add_space_prefix:
            text = " " + text
        if text.isascii() or _SURROGATE.search(text) is None:
            return self._encode_valid(text)
        ids: list[int] = []
        for i, part in enumerate(_INVALID.split(text)):
            ids += self._encode_invalid(part) if i % 2 else self._encode_valid(replace_invalid(part))
        return ids

    def _encode_valid(self, text: str) -> list[int]:
        text = text.replace(" ", SPACE)
        # No token reaches over the beginning of a word: then each different word is looked up once.
        words = _WORDS.findall(text) if self._by_words else [text]
        return looked_up(words, self._encode_words)

    def _encode_words(self, words: list[str]) -> Iterable[list[int]]:
        encoded = guarded("the text cannot be tokenized", lambda: self._backend.encode(words, out_type=int))
        return map(self._ours, encoded)

    def _ours(self, ids: list[int]) -> list[int]:
        """Ids of the library as ids of the vocabulary: those beyond it stand for what is unknown, a byte or a run."""
        n = self.n_vocab
        if not ids or max(ids) < n:
            return ids
        unknown = [] if self.vocab.unknown is None else [self.vocab.unknown]
        return [token for i in ids for token in (unknown if i >= n else [i])]

    def _encode_invalid(self, text: str) -> list[int]:
        """Ids of bytes that are not UTF-8: byte tokens, or the unknown token if there is one."""
        tokens = (self._byte_ids.get(byte, self.vocab.unknown) for byte in text.encode("utf-8", "surrogateescape"))
        return [token for token in tokens if token is not None]


def load(file: Described, pre: str | None) -> SPMTokenizer:
    """The tokenizer of `file`; SPM has no pre-tokenizer, so `pre` must be None or "default". Raises GGUFError."""
    pretokenizers.refuse(pre, "llama")
    return SPMTokenizer(load_vocab(file, Rules(bos=1, eos=2, unknown=0, add_bos=True, add_space_prefix=True)))


def _byte_ids(vocab: Vocab) -> dict[int, int]:
    """Byte to the id of its token <0xXX>."""
    tokens = (vocab.types == BYTE).nonzero()[0].tolist()
    texts = ((vocab.texts[token], token) for token in reversed(tokens))
    return {int(text[3:5], 16): token for text, token in texts if _BYTE_TEXT.fullmatch(text)}


def _pieces(vocab: Vocab, byte_ids: dict[int, int]) -> list[tuple[str, int]]:
    """(text, type) of every token as the library shall see it: NORMAL may be merged to, CONTROL is never
    found.

    User-defined and unused tokens are merged to like normal ones, as in llama.cpp. The library wants none or all 256
    byte tokens: those that are missing follow the vocabulary. Duplicates and texts that are not UTF-8 are never found.
    """
    pieces: list[tuple[str, int]] = []
    types = vocab.stored_types.tolist()
    hidden = _HIDDEN
    while any(text.startswith(hidden) for text in vocab.texts):  # there are vocabularies that have this character
        hidden += _HIDDEN
    for token, (text, kind) in enumerate(zip(vocab.texts, types, strict=True)):
        if kind == BYTE and byte_ids.get(_byte_value(text)) == token:
            pieces.append((text, BYTE))
        elif kind in (CONTROL, UNKNOWN, BYTE) or vocab.ids[text] != token or _UNFIT.search(text):
            pieces.append((f"{hidden}{token}", CONTROL))
        else:
            pieces.append((text, NORMAL))
    unknown = vocab.unknown
    if unknown is None or pieces[unknown][1] == NORMAL:  # one that text may spell out stays what it is
        pieces.append((hidden, UNKNOWN))  # the library wants one; `_ours` takes it out of what is found
    else:
        pieces[unknown] = (hidden, UNKNOWN)
    if byte_ids:
        texts = {text for text, _ in pieces}
        missing = [text for byte in range(256) if byte not in byte_ids and (text := f"<0x{byte:02X}>") not in texts]
        pieces += [(text, BYTE) for text in missing]
    return pieces


def _byte_value(text: str) -> int:
    return int(text[3:5], 16) if _BYTE_TEXT.fullmatch(text) else -1


def _backend(pieces: list[tuple[str, int]], vocab: Vocab, byte_fallback: bool) -> Any:
    scores = vocab.scores.tolist()
    scores += [0.0] * (len(pieces) - len(scores))
    proto = [_field(1, _piece(text, score, kind)) for (text, kind), score in zip(pieces, scores, strict=False)]
    proto.append(_field(2, _number(3, 2) + _number(35, byte_fallback)))  # trainer_spec: BPE, byte_fallback
    # normalizer_spec: add_dummy_prefix, remove_extra_whitespaces and escape_whitespaces all off
    proto.append(_field(3, _field(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 0)))
    processor = import_library("sentencepiece").SentencePieceProcessor()
    guarded(
        "tokenizer.ggml.tokens: sentencepiece cannot hold this vocabulary",
        lambda: processor.LoadFromSerializedProto(b"".join(proto)),
    )
    return processor


def _piece(text: str, score: float, kind: int) -> bytes:
    """SentencePiece message: piece, score, type."""
    return _field(1, text.encode()) + b"\x15" + pack("<f", score) + (b"" if kind == NORMAL else _number(3, kind))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    return bytes((value & 127 | 128,)) + _varint(value >> 7)
