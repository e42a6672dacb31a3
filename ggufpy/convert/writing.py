"""Writing a checkpoint's files. Safetensors: a header, then rows of each tensor as they come: memory stays small."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ggufpy.format.atomic import AtomicFile
from ggufpy.format.rows import PIECE, Rows, rows_of

Advance = Callable[[int], None]
_PAD = 8  # bytes that the data begin at a multiple of


def _nobody(nbytes: int) -> None:
    """Progress that nobody looks at."""


def write_safetensors(path: Path, tensors: Mapping[str, Rows], advance: Advance = _nobody) -> int:
    """Write tensors of float types to a file, whole or not at all; returns its bytes. `advance` is told bytes written.

    Raises GGUFError where the file cannot be written.
    """
    head = header_of(tensors)
    size = len(head) + sum(rows.nbytes for rows in tensors.values())
    with AtomicFile(path, size) as atomic:
        atomic.file.write(head)
        for rows in tensors.values():
            for start, stop in _pieces(rows):
                data = rows.rows(start, stop)
                atomic.file.write(data.data)
                advance(data.nbytes)
            atomic.spill()
            rows.release()
    return size


def write_json(path: Path, value: Any) -> None:
    """Write a value as transformers does: by lines, and with characters as they are."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def header_of(tensors: Mapping[str, Rows]) -> bytes:
    """What a file begins with: the header's length and the header, padded."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, rows in tensors.items():
        entries[name] = {"dtype": rows.type, "shape": list(rows.shape), "data_offsets": [at, at + rows.nbytes]}
        at += rows.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PAD)
    return len(text).to_bytes(8, "little") + text


def _pieces(rows: Rows) -> Iterator[tuple[int, int]]:
    count, step = rows_of(rows.shape), max(PIECE // max(rows.columns, 1), 1)
    for start in range(0, count, step):
        yield start, min(start + step, count)
