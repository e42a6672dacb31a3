"""SentencePiece's own files (tokenizer.model): a small reader of their protobuf form.

In: bytes. Out: `Model` with pieces, scores and what it does to texts. Every length is checked against what is left.
Source of field numbers: sentencepiece_model.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from math import isfinite
from pathlib import Path
from struct import unpack

from ggufpy.convert.reading import read_bytes
from ggufpy.convert.vocabulary.files import SENTENCEPIECE, Sources
from ggufpy.convert.vocabulary.tokens import Added, Pieces, Table, added_tokens, table
from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed
from ggufpy.support.records import dataclass
from ggufpy.tokenizers.vocab import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_TYPES = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: USER_DEFINED, 5: UNUSED, 6: BYTE}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST = 10_000_000  # pieces


@dataclass(frozen=True)
class Piece:
    """A piece: `kind` is GGUF's number of its type, which is SentencePiece's too."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What a file says; `specials` are the ids of unk, bos, eos and pad that are there."""

    pieces: list[Piece]
    kind: str = "unigram"
    charsmap: bytes = b""
    prefix: bool = True
    merge_spaces: bool = True
    suffix: bool = False
    specials: dict[str, int] = field(default_factory=dict)
    name: str = "tokenizer.model"


def read_model(folder: Path) -> Model | None:
    """The model in `folder`, or None if there is none. Raises GGUFError for one that is damaged."""
    for name in SENTENCEPIECE:
        data = read_bytes(folder / name)
        if data is not None:
            return _parsed(data, name)
    return None


def pieces(sources: Sources, size: int | None) -> Pieces:
    """The vocabulary of a folder whose only description is such a file, with its added tokens."""
    model = read_model(sources.folder)
    if model is None:
        raise GGUFError(f"{sources.folder} has no tokenizer.model")
    if model.kind not in ("bpe", "unigram"):
        raise GGUFError(f"{model.name}: its kind is {model.kind!r}; only those of bpe and unigram can be converted")
    listed = _as_xlm_roberta(model.pieces) if model.name == SENTENCEPIECE[2] else model.pieces
    base = {piece.text: i for i, piece in enumerate(listed)}
    if len(base) != len(listed):
        raise GGUFError(f"{model.name}: two pieces have the same text; it is damaged")
    user = [Added(piece.text, i) for i, piece in enumerate(listed) if piece.kind == USER_DEFINED]
    added = list({token.id: token for token in (*user, *added_tokens(sources, base))}.values())
    made = table(base, added, size, model.name, {i: piece.score for i, piece in enumerate(listed)})
    replaced = {token.id for token in added}
    types = list(made.types)
    for i, piece in enumerate(listed):
        if i not in replaced or piece.kind in (UNKNOWN, BYTE):
            types[i] = piece.kind
    built = Table(made.texts, types, made.scores, made.dropped)
    said = sources.settings.get("add_prefix_space")
    prefix = said if isinstance(said, bool) and model.kind == "bpe" else model.prefix
    extra = {"tokenizer.ggml.add_space_prefix": Typed("bool", prefix)}
    specials = {} if model.name == SENTENCEPIECE[2] else model.specials
    if model.kind == "bpe":
        return Pieces("llama", "default", built, None, True, extra, specials, notes=_odd(model))
    extra["tokenizer.ggml.remove_extra_whitespaces"] = Typed("bool", model.merge_spaces)
    if model.charsmap:
        extra["tokenizer.ggml.precompiled_charsmap"] = Typed("array[uint8]", list(model.charsmap))
    return Pieces("t5", "default", built, None, True, extra, specials, notes=_odd(model))


def _odd(model: Model) -> tuple[str, ...]:
    """What GGUF has no key for."""
    notes = []
    if model.suffix:
        notes.append("it takes white space as the end of words, which GGUF has no key for")
    if model.kind == "bpe" and (model.charsmap or model.merge_spaces):
        notes.append("it changes characters or takes away spaces before it cuts, which a llama vocabulary cannot")
    return tuple(notes)


def _as_xlm_roberta(listed: list[Piece]) -> list[Piece]:
    """XLM-RoBERTa's own ids: four special tokens, then the file's pieces from the fourth on, then a mask."""
    head = [
        Piece("<s>", 0.0, CONTROL),
        Piece("<pad>", 0.0, CONTROL),
        Piece("</s>", 0.0, CONTROL),
        Piece("<unk>", 0.0, UNKNOWN),
    ]
    return [*head, *listed[3:], Piece("<mask>", 0.0, CONTROL)]


def _parsed(data: bytes, name: str) -> Model:
    listed: list[Piece] = []
    values: dict[str, int] = {}
    charsmap = b""
    for number, wire, value in _fields(data, name):
        if wire != _BYTES or isinstance(value, int):
            continue
        if number == 1:
            listed.append(_piece(value, len(listed), name))
            if len(listed) > _MOST:
                raise GGUFError(f"{name} has more than {_MOST:,} pieces; it is damaged")
        elif number == 2:
            numbers = {n: v for n, w, v in _fields(value, name) if w == _VARINT and isinstance(v, int)}
            values |= {f"trainer {n}": v for n, v in numbers.items()}
        elif number == 3:
            for n, _, v in _fields(value, name):
                if isinstance(v, int):
                    values[f"normalizer {n}"] = v
                elif n == 2:
                    charsmap = v
    if not listed:
        raise GGUFError(f"{name} has no pieces; it is no file of SentencePiece, or damaged")
    ids = {"unk": 40, "bos": 41, "eos": 42, "pad": 43}
    usual = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
    specials = {key: _signed(values.get(f"trainer {n}", usual[key])) for key, n in ids.items()}
    return Model(
        pieces=listed,
        kind=_KINDS.get(values.get("trainer 3", 1), "unknown"),
        charsmap=charsmap,
        prefix=bool(values.get("normalizer 3", 1)),
        merge_spaces=bool(values.get("normalizer 4", 1)),
        suffix=bool(values.get("trainer 24", 0)),
        specials={key: token for key, token in specials.items() if 0 <= token < len(listed)},
        name=name,
    )


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _piece(data: bytes, number: int, name: str) -> Piece:
    text, score, kind = "", 0.0, 1
    for field_number, wire, value in _fields(data, name):
        if field_number == 1 and isinstance(value, bytes) and wire == _BYTES:
            try:
                text = value.decode()
            except UnicodeDecodeError:
                raise GGUFError(f"{name}: the text of piece {number} is not UTF-8; it is damaged") from None
        elif field_number == 2 and isinstance(value, bytes) and wire == _FIXED32:
            score = unpack("<f", value)[0]
        elif field_number == 3 and isinstance(value, int):
            kind = value
    if not isfinite(score) or kind not in _TYPES or not text:
        raise GGUFError(f"{name}: piece {number} has no text, no finite score or no known type; it is damaged")
    return Piece(text, score, _TYPES[kind])


def _fields(data: bytes, name: str) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field. Raises GGUFError where `data` is no protobuf message."""
    at, size = 0, len(data)
    while at < size:
        tag, at = _varint(data, at, name)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at, name)
            yield tag >> 3, wire, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at, name)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise GGUFError(
                f"{name}: byte {at} is no field of a protobuf message; it is damaged, or no file of SentencePiece"
            )
        if length > size - at:
            raise GGUFError(f"{name}: it ends within a field at byte {at}; download it again")
        yield tag >> 3, wire, data[at : at + length]
        at += length


def _varint(data: bytes, at: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise GGUFError(
        f"{name}: byte {at} is no whole number of a protobuf message; it is damaged, or no file of SentencePiece"
    )
