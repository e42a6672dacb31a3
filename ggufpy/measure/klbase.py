"""KL bases: what a model's logits were on a text, in a small file that other models are measured against.

`spec/klbase.md` is the format. In: log-probabilities, chunk by chunk. Out: a file; and from it the tokens of each
chunk and, for every scored position, the log-probabilities that a KL divergence takes. Nothing read is trusted.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format.atomic import AtomicFile
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.backends.cpu.score import Tokens

MAGIC, VERSION = b"ggufpyKL", 1
HEADER_LIMIT = 1 << 16  # bytes of its JSON
LEAST = 1e-4  # tokens of at least this probability are stored, and one for each such share of the others
ABOVE_SCALE, SAMPLE_SCALE = 7000.0, 2048.0  # codes a nat; both kinds are a u16 below 0
SLACK = 0.001  # how far a position's probabilities may be from 1 together
SMALLEST = 8  # tokens of a chunk
LARGEST = {"n_ctx": 1 << 24, "vocabulary": 1 << 24, "chunks": 1 << 24}

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def scored(n_ctx: int) -> range:
    """Positions of a chunk whose next token is scored: the second half but the last (llama.cpp: perplexity.cpp)."""
    return range(n_ctx // 2, n_ctx - 1)


@dataclass(frozen=True)
class Header:
    """What a base was made of. `model` is a name to show."""

    model: str
    vocabulary: int
    n_ctx: int
    chunks: int
    least: float = LEAST


@dataclass(frozen=True)
class Scored:
    """Of each scored position: -log p of the token that came, the likeliest token, and the probability of those that
    are not `above`; then the tokens of probability `least` or more (`above`) and a sample of the others."""

    nll: Floats
    top: Ints
    rest: Floats
    above: Tokens
    sample: Tokens


@dataclass(frozen=True)
class BaseChunk:
    """One chunk of a base. `counts` tokens a position, in `ids`, `values` (log-probabilities) and `weights`: a KL
    divergence is the sum of weight · (value - the other model's log-probability), less `excess`.

    `excess` is how far rounding took the sum of all probabilities from 1, which is also what it added to that sum.
    """

    tokens: Ints
    nll: Floats
    top: Ints
    counts: Ints
    ids: NDArray[np.int32]
    values: Floats
    weights: Floats
    excess: Floats

    @cached_property
    def _starts(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.counts)])

    def rows(self, first: int, count: int) -> tuple[Tokens, Floats]:
        """Tokens of `count` positions from number `first`, and their weights."""
        from ggufpy.backends.cpu.score import Tokens

        part = slice(int(self._starts[first]), int(self._starts[first + count]))
        return Tokens(self.counts[first : first + count], self.ids[part], self.values[part]), self.weights[part]


class KlBaseWriter:
    """Writes a base, which has its name once all chunks of the header are there and the `with` block ends well."""

    def __init__(self, path: str | os.PathLike[str], header: Header) -> None:
        text = json.dumps({**header.__dict__, "model": header.model[:1000]}).encode()
        self._header, self._left = header, header.chunks
        self._atomic = AtomicFile(path)
        self._atomic.file.write(MAGIC + struct.pack("<III", VERSION, len(text), zlib.crc32(text)) + text)

    def add(self, tokens: Ints, scores: Scored) -> None:
        """Appends the next chunk: its tokens (n_ctx,) and what was scored. Raises GGUFError if it cannot be written."""
        if len(tokens) != self._header.n_ctx or len(scores.nll) != len(scored(self._header.n_ctx)) or not self._left:
            raise ValueError(f"a chunk of {len(tokens)} tokens and {len(scores.nll)} positions, {self._left} wanted")
        payload = _packed(tokens, scores)
        try:
            self._atomic.file.write(struct.pack("<II", len(payload), zlib.crc32(payload)) + payload)
        except OSError as error:
            raise GGUFError(f"cannot write {self._atomic.path}: {error.strerror or error}") from error
        self._left -= 1

    def __enter__(self) -> KlBaseWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._left:
            self._atomic.commit()
            return
        self._atomic.abort()
        if kind is None:
            raise GGUFError(f"{self._atomic.path} was not written: {self._left} of its chunks are missing")


def _packed(tokens: Ints, scores: Scored) -> bytes:
    """A chunk's payload: the fixed arrays, codes of values, gaps between ids."""
    above, sample = scores.above, scores.sample
    place = _interleaved(above.counts, sample.counts)
    ids = np.empty(len(place), np.int64)
    codes = np.empty(len(place), np.int64)
    ids[place] = np.concatenate([above.ids, sample.ids])
    scaled = (-above.values * np.float32(ABOVE_SCALE), -sample.values * np.float32(SAMPLE_SCALE))
    codes[place] = np.clip(np.rint(np.concatenate(scaled)), 0, 65535)
    counts = np.stack([above.counts, sample.counts], axis=1)
    parts: list[NDArray[Any]] = [
        tokens.astype("<i4"), scores.nll.astype("<f4"), scores.top.astype("<i4"), scores.rest.astype("<f4"),
        counts.astype("<i4"), codes.astype("<u2"), _gaps(ids, counts.reshape(-1)),
    ]  # fmt: skip
    return b"".join(part.tobytes() for part in parts)


def _interleaved(above: Ints, sample: Ints) -> Ints:
    """Where the tokens of two lists go, first all of one, then all of the other, when each row's are to be together."""
    starts = np.cumsum(above + sample) - (above + sample)

    def places(begin: Ints, counts: Ints) -> Ints:
        return np.repeat(begin - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())

    return np.concatenate([places(starts, above), places(starts + above, sample)])


def _gaps(ids: Ints, counts: Ints) -> NDArray[np.uint8]:
    """Ascending ids, list after list → bytes: a 255 for each 255 that the gap to the last one has, then the rest."""
    gaps = np.diff(ids, prepend=-1) - 1
    starts = (np.cumsum(counts) - counts)[counts > 0]
    gaps[starts] = ids[starts]
    long = gaps // 255
    out = np.full(int(len(gaps) + long.sum()), 255, np.uint8)
    out[np.cumsum(long + 1) - 1] = gaps % 255
    return out


def _ids(gaps: NDArray[np.uint8], counts: Ints) -> Ints:
    """The reverse of `_gaps`. Raises ValueError if the bytes do not hold as many ids as `counts` says."""
    ends = np.flatnonzero(gaps != 255)
    if len(ends) != counts.sum() or (len(gaps) and gaps[-1] == 255):
        raise ValueError("gaps")
    sums = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(1, len(ends) + 1)  # as if all lists were one, from -1
    before = np.concatenate([[0], sums])[np.cumsum(counts) - counts]
    ids: Ints = sums - np.repeat(before, counts) - 1
    return ids


class KlBase:
    """An open base: `header`, and chunks by number. Raises GGUFError for a file that is none, or damaged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise GGUFError(f"cannot read the KL base {path}: {error.strerror or error}") from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.header, start = self._read_header()
            self._records = self._find_records(start)
        except BaseException:
            self._file.close()
            raise

    def _bad(self, what: str) -> GGUFError:
        return GGUFError(f"{self.path} is no usable KL base: {what}; make it again with --save-kl-base")

    def _read(self, count: int) -> bytes:
        data = self._file.read(count) if 0 <= count <= self._size else b""
        if len(data) != count:
            raise self._bad("it ends too early")
        return data

    def _read_header(self) -> tuple[Header, int]:
        if self._size < 20 or self._read(8) != MAGIC:
            raise self._bad("it does not begin as one")
        version, length, checksum = struct.unpack("<III", self._read(12))
        if version != VERSION:
            raise self._bad(f"its version is {version}, and {VERSION} is known")
        if length > HEADER_LIMIT:
            raise self._bad(f"its header has {length} bytes")
        text = self._read(length)
        if zlib.crc32(text) != checksum:
            raise self._bad("its header has changed since it was written")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise self._bad("its header is no JSON") from None
        if not isinstance(values, dict) or set(values) != set(Header.__dataclass_fields__):
            raise self._bad("its header has other fields")
        for name, most in LARGEST.items():
            if type(values[name]) is not int or not 0 < values[name] <= most:
                raise self._bad(f"{name} is not a number up to {most}")
        if values["n_ctx"] < SMALLEST:
            raise self._bad(f"its chunks have {values['n_ctx']} tokens")
        least = values["least"]
        if not isinstance(values["model"], str) or not isinstance(least, float) or not 0.0 < least < 1.0:
            raise self._bad("its header has a value that cannot be")
        return Header(**values), 20 + length

    def _find_records(self, start: int) -> list[tuple[int, int, int]]:
        """(offset, bytes, checksum) of every chunk's payload."""
        records = []
        for _ in range(self.header.chunks):
            self._file.seek(start)
            length, checksum = struct.unpack("<II", self._read(8))
            records.append((start + 8, length, checksum))
            start += 8 + length
            if start > self._size:
                raise self._bad("it ends too early")
        if start != self._size:
            raise self._bad(f"{self._size - start} bytes follow its last chunk")
        return records

    def tokens(self) -> Ints:
        """The tokens of all chunks, (chunks, n_ctx)."""
        return np.stack([self.chunk(i).tokens for i in range(self.header.chunks)])

    def chunk(self, number: int) -> BaseChunk:
        """Raises GGUFError for a chunk that has changed since it was written, or that holds what cannot be."""
        offset, length, checksum = self._records[number]
        self._file.seek(offset)
        payload = self._read(length)
        if zlib.crc32(payload) != checksum:
            raise self._bad(f"chunk {number + 1} has changed since it was written")
        try:
            return _unpacked(payload, self.header)
        except ValueError as error:
            raise self._bad(f"chunk {number + 1} has {error} that cannot be") from None

    def check(self, windows: Ints, vocabulary: int) -> None:
        """Raises GGUFError unless the chunks (chunks, n_ctx) and the vocabulary are those of the base."""
        header = self.header
        if vocabulary != header.vocabulary:
            raise GGUFError(
                f"{self.path} is of a vocabulary of {header.vocabulary:,} tokens ({shown(header.model)}), the model's "
                f"has {vocabulary:,}: a base serves models of the same vocabulary"
            )
        if windows.shape[1] != header.n_ctx:
            raise GGUFError(f"{self.path} is of chunks of {header.n_ctx} tokens: use -c {header.n_ctx}")
        if len(windows) > header.chunks:
            raise GGUFError(f"{self.path} has {header.chunks} chunks: use --chunks {header.chunks} or fewer")
        for i, window in enumerate(windows):
            if not np.array_equal(window, self.chunk(i).tokens):
                raise GGUFError(
                    f"chunk {i + 1} of the text is not the one that {self.path} was made from: give the same text, or "
                    "leave out -f (the base has the tokens)"
                )

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> KlBase:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _unpacked(payload: bytes, header: Header) -> BaseChunk:
    """A chunk from its bytes. Raises ValueError, with the name of what is wrong."""
    rows, at = len(scored(header.n_ctx)), 0

    def take(kind: str, count: int) -> NDArray[Any]:
        nonlocal at
        dtype = np.dtype(kind)
        if at + count * dtype.itemsize > len(payload):
            raise ValueError("a length")
        array = np.frombuffer(payload, dtype, count, at)
        at += count * dtype.itemsize
        return array

    def inside(values: Ints, what: str) -> Ints:
        if len(values) and not 0 <= values.min() <= values.max() < header.vocabulary:
            raise ValueError(what)
        return values

    tokens = inside(take("<i4", header.n_ctx).astype(np.int64), "a token")
    nll = take("<f4", rows).astype(np.float32)
    top = inside(take("<i4", rows).astype(np.int64), "a token")
    rest = take("<f4", rows).astype(np.float32)
    counts = take("<i4", 2 * rows).astype(np.int64).reshape(rows, 2)
    if not (np.isfinite(nll).all() and (nll >= -1e-3).all() and ((rest >= 0) & (rest <= 1 + SLACK)).all()):
        raise ValueError("a probability")
    if (counts < 0).any() or (counts.sum(axis=1) > header.vocabulary).any():
        raise ValueError("a count")
    codes = take("<u2", int(counts.sum())).astype(np.float32)
    try:
        ids = inside(_ids(np.frombuffer(payload, np.uint8, offset=at), counts.reshape(-1)), "a token")
    except ValueError:
        raise ValueError("a token") from None
    is_sample = np.repeat(np.tile([False, True], rows), counts.reshape(-1))
    values = -codes / np.where(is_sample, np.float32(SAMPLE_SCALE), np.float32(ABOVE_SCALE))
    number = counts.sum(axis=1)
    each = rest / np.maximum(counts[:, 1], 1).astype(np.float32)
    weights = np.where(is_sample, np.repeat(each, number), np.exp(values)).astype(np.float32)
    above = np.bincount(np.repeat(np.arange(rows), counts[:, 0]), np.exp(values[~is_sample]), rows)
    excess = (above + rest - 1.0).astype(np.float32)
    if (np.abs(excess) > SLACK).any():
        raise ValueError("a probability")
    return BaseChunk(tokens, nll, top, number, ids.astype(np.int32), values, weights, excess)
