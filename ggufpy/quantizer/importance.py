"""Importance matrices: mean squares, by column, of what each weight matrix of a model is multiplied by.

In: sums (`measure/imatrix.py` makes them), or a file; out: an `ImportanceMatrix`, and a file. Files are llama.cpp's
GGUF layout (tools/imatrix/imatrix.cpp): for each matrix NAME, `NAME.in_sum2` (f32, matrices × columns: sums of
squares) and `NAME.counts` (f32, matrices × 1: rows that were added up). Its older binary format (.dat) is read, not
written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggufpy import format as gguf
from ggufpy.errors import GGUFError
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

SUMS, COUNTS = ".in_sum2", ".counts"
CHUNK_SIZE = 512  # tokens of a chunk where a .dat file does not say
MOST_ENTRIES, MOST_NAME, MOST_COLUMNS = 1 << 16, 1 << 10, 1 << 30  # of a .dat file, whose lengths are its own word
MOST_ROWS = 1 << 48  # summed up for one matrix: more than anybody reads
MOST_NUMBER = (1 << 32) - 1  # chunks, and tokens of a chunk: a file has 32 bits for them

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ImportanceMatrix:
    """Sums of squares by weight name, (matrices, columns) float32, and `counts` (matrices,), the rows summed.

    `matrices` is 1, or the number of experts. `datasets` names the texts, `chunks` how many chunks of `chunk_size`
    tokens were read.
    """

    sums: Mapping[str, Floats]
    counts: Mapping[str, Floats]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = CHUNK_SIZE

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that there are sums for, in order."""
        return tuple(sorted(self.sums))

    def weights(self, name: str) -> Floats | None:
        """Mean squares (matrices, columns), all 1 for an expert that nothing was added up for; None if not there."""
        if name not in self.sums:
            return None
        counts = self.counts[name][:, None]
        means = self.sums[name] / np.where(counts > 0, counts, np.float32(1))
        weights: Floats = np.where(counts > 0, means, np.float32(1)).astype(np.float32)
        return weights

    def merged(self, others: Iterable[ImportanceMatrix]) -> ImportanceMatrix:
        """This one and the others as if their texts had been one. Raises GGUFError where they are of other models.

        One count for all experts (from a .dat file) stands for each of them.
        """
        sums, counts = dict(self.sums), dict(self.counts)
        datasets = list(self.datasets)
        for other in others:
            for name in other.sums:
                if name in sums:
                    sums[name], counts[name] = _added(name, sums[name], counts[name], other)
                else:
                    sums[name], counts[name] = other.sums[name], other.counts[name]
            datasets += other.datasets
        whole = ImportanceMatrix(sums, counts, tuple(datasets), 0, self.chunk_size)
        return replace(whole, chunks=_chunks(counts, self.chunk_size))

    @classmethod
    def read(cls, path: str | os.PathLike[str], chunk_size: int = CHUNK_SIZE) -> ImportanceMatrix:
        """From a file of either format; `chunk_size` is for .dat files, which do not say it.

        Raises GGUFError for a file that is none, is damaged, or has sums that no squares add up to.
        """
        try:
            with open(path, "rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise GGUFError(f"cannot read the importance matrix {path}: {error.strerror or error}") from error
        except ValueError as error:  # no system has a file of such a name
            raise GGUFError(f"cannot read the importance matrix {str(path)!r}: {error}") from error
        if magic in (b"GGUF", b"FUGG"):
            return _read_gguf(path, chunk_size)
        with open(path, "rb") as file:
            return _read_dat(_Dat(Path(path), file), chunk_size)

    def write(self, path: str | os.PathLike[str]) -> None:
        """As llama.cpp's GGUF layout; the file is whole or not there. Raises GGUFError if it cannot be written."""
        metadata = {
            "general.type": "imatrix",
            "imatrix.datasets": gguf.Typed("array[string]", list(self.datasets)),
            "imatrix.chunk_count": gguf.Typed("uint32", self.chunks),
            "imatrix.chunk_size": gguf.Typed("uint32", self.chunk_size),
        }
        tensors: dict[str, Any] = {}
        for name in self.names:
            tensors[name + SUMS] = np.ascontiguousarray(self.sums[name], np.float32)
            tensors[name + COUNTS] = np.ascontiguousarray(self.counts[name][:, None], np.float32)
        gguf.write(path, metadata, tensors)


def _chunks(counts: Mapping[str, Floats], chunk_size: int) -> int:
    """Whole chunks in what was added up most often."""
    most = max((float(each.max()) for each in counts.values()), default=0.0)
    return min(int(most) // chunk_size, MOST_NUMBER)


def _added(name: str, sums: Floats, counts: Floats, other: ImportanceMatrix) -> tuple[Floats, Floats]:
    more, number = other.sums[name], other.counts[name]
    if len(counts) != len(number) and 1 in (len(counts), len(number)):
        matrices = max(len(counts), len(number))
        sums, more = (s.reshape(matrices, -1) if s.size % matrices == 0 else s for s in (sums, more))
        counts, number = (np.broadcast_to(c, matrices) if len(c) == 1 else c for c in (counts, number))
    if sums.shape != more.shape or counts.shape != number.shape:
        raise GGUFError(
            f"{shown(name)} has {_size(sums)} in one importance matrix and {_size(more)} in another: they are of "
            "different models and cannot be merged"
        )
    with np.errstate(over="ignore"):
        total = (sums.astype(np.float64) + more).astype(np.float32)
    rows = (counts.astype(np.float64) + number).astype(np.float32)
    _checked(name, total, rows, "the merged importance matrix")
    return total, rows


def _size(sums: Floats) -> str:
    return f"{sums.shape[1]} columns" + (f" in {len(sums)} matrices" if len(sums) > 1 else "")


def _checked(name: str, sums: Floats, counts: Floats, path: object) -> None:
    """Raises GGUFError for values that are no sums of squares, or no counts."""
    if not (np.isfinite(sums).all() and (sums >= 0).all()):
        raise GGUFError(
            f"{path}: {shown(name)} has a value that is no sum of squares (negative or not finite): measure it again"
        )
    if not ((counts == 0) | ((counts >= 1) & (counts <= MOST_ROWS))).all():
        raise GGUFError(f"{path}: {shown(name)} has a count that is no number of rows: measure it again")


def _read_gguf(path: str | os.PathLike[str], chunk_size: int) -> ImportanceMatrix:
    sums: dict[str, Floats] = {}
    counts: dict[str, Floats] = {}
    with gguf.open(path) as file:
        metadata, tensors = file.metadata, file.tensors
        names = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
        if metadata.get("general.type", "imatrix") != "imatrix" or not names:
            raise GGUFError(f"{path} is not an importance matrix: make one with 'ggufpy imatrix'")
        for name in names:
            if name + COUNTS not in tensors:
                raise GGUFError(f"{path}: {shown(name)} has sums ({SUMS}) and no {COUNTS}: the file is damaged")
            pair = tensors[name + SUMS], tensors[name + COUNTS]
            if any(t.type != "F32" for t in pair):
                raise GGUFError(f"{path}: {shown(name)} is of {pair[0].type} and {pair[1].type}; F32 is wanted")
            values, number = (t.to_numpy() for t in pair)
            matrices = number.size
            if not values.size or not matrices or values.size % matrices:
                count = f"{values.size} sums and {matrices} counts"
                raise GGUFError(f"{path}: {shown(name)} has {count}: the file is damaged")
            sums[name] = np.array(values.reshape(matrices, -1), np.float32)
            counts[name] = np.array(number.reshape(-1), np.float32)
            _checked(name, sums[name], counts[name], path)
        datasets = metadata.get("imatrix.datasets", ())
        said = metadata.get("imatrix.chunk_size", chunk_size), metadata.get("imatrix.chunk_count")
    size = said[0] if type(said[0]) is int and 0 < said[0] <= MOST_NUMBER else chunk_size
    texts = tuple(str(text) for text in datasets) if not isinstance(datasets, str | int | float) else ()
    chunks = said[1] if type(said[1]) is int and 0 <= said[1] <= MOST_NUMBER else _chunks(counts, size)
    return ImportanceMatrix(sums, counts, texts, chunks, size)


class _Dat:
    """What an open .dat file holds, in order: any file may be called one, so no more is read than is asked for.

    Raises GGUFError where it ends too early.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file, self.left = path, file, os.fstat(file.fileno()).st_size

    def bad(self, what: str) -> GGUFError:
        return GGUFError(f"{self.path} is not an importance matrix (GGUF or .dat), or is damaged: {what}")

    def take(self, count: int) -> bytes:
        data = self._file.read(count) if 0 <= count <= self.left else None
        if data is None or len(data) != count:
            raise self.bad("it ends too early")
        self.left -= count
        return data

    def number(self, what: str, least: int, most: int) -> int:
        (value,) = struct.unpack("<i", self.take(4))
        if not least <= value <= most:
            raise self.bad(f"{what} is {value}")
        return int(value)

    def text(self, most: int, what: str) -> str:
        return self.take(self.number(f"the length of {what}", 0, most)).decode("utf-8", "replace")


def _read_dat(data: _Dat, chunk_size: int) -> ImportanceMatrix:
    """i32 entries; each: i32 length, name, i32 calls, i32 columns, f32 sums of mean squares by call; then i32 calls and
    i32 length, text's name, which older files lack. A call is a chunk (imatrix.cpp, load_imatrix_legacy)."""
    sums: dict[str, Floats] = {}
    counts: dict[str, Floats] = {}
    for _ in range(data.number("the number of entries", 1, MOST_ENTRIES)):
        name = data.text(MOST_NAME, "a name")
        calls = data.number("the number of calls", 0, 1 << 30)
        columns = data.number("the number of columns", 1, MOST_COLUMNS)
        values = np.frombuffer(data.take(4 * columns), "<f4").astype(np.float32)
        if name in sums:
            raise data.bad(f"{shown(name)} is there twice")
        with np.errstate(over="ignore"):
            sums[name] = (values * np.float32(chunk_size))[None]
        counts[name] = np.array([calls * chunk_size], np.float32)
        _checked(name, sums[name], counts[name], data.path)
    datasets: tuple[str, ...] = ()
    if data.left:
        data.number("the number of calls", -1, (1 << 31) - 1)
        if data.left:
            datasets = (data.text(1 << 16, "the text's name"),)
    if data.left:
        raise data.bad(f"{data.left} bytes follow its end")
    return ImportanceMatrix(sums, counts, datasets, _chunks(counts, chunk_size), chunk_size)
