"""`ggufpy inspect`: what is in a GGUF file. Imports nothing but the reader."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ggufpy.commands._options import add_model_argument, find_model

if TYPE_CHECKING:
    from ggufpy.format import GGUFFile, Metadata

HELP = "show the header, metadata and tensors of a GGUF file"
DESCRIPTION = """Show the header, metadata and tensors of a GGUF file, or of a split set by any of its files.
MODEL is fetched if it is a name.
Long values are shown in part; --json gives all of them.

examples:
  ggufpy inspect model.gguf
  ggufpy inspect model.gguf --tensors
  ggufpy inspect model.gguf --json | jq .metadata"""

FIRST = 4  # elements shown of an array
WIDTH = 72  # characters shown of a value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    add_model_argument(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")


def run(args: argparse.Namespace) -> int:
    """Print the file's contents; 0. Raises GGUFError where it cannot be read."""
    from ggufpy.format import open as open_gguf

    with open_gguf(find_model(args.model)) as file:
        if args.json:
            print(json.dumps(as_json(file)))
        else:
            for line in describe(file, args.tensors):
                print(line)
    return 0


def as_json(file: GGUFFile) -> dict[str, Any]:
    """Everything but the weights, as values that JSON has.

    NaN and infinities become strings; bytes that are not UTF-8 are lone surrogates, which JSON escapes.
    """
    return {
        "version": file.version,
        "byteorder": file.byteorder,
        "alignment": file.alignment,
        "metadata": {key: _json_value(value) for key, value in file.metadata.items()},
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.type, "nbytes": t.nbytes, "offset": t.offset}
            for t in file.tensors.values()
        ],
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_json_value(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def describe(file: GGUFFile, tensors: bool) -> Iterator[str]:
    """The lines that people read; `tensors` lists each of them."""
    files = f", {len(file.files)} files" if len(file.files) > 1 else ""
    what = f"GGUF {file.version}, {file.byteorder}-endian, alignment {file.alignment}{files}"
    yield f"{printable(str(file.path))}: {what}"
    yield ""
    yield f"metadata ({len(file.metadata)})"
    rows = [(printable(key), file.metadata.type(key), _value(file.metadata, key)) for key in file.metadata]
    yield from _table(rows)
    yield ""
    all_tensors = list(file.tensors.values())
    total = sum(t.nbytes for t in all_tensors)
    weights = sum(math.prod(t.shape) for t in all_tensors)
    bits = f", {8 * total / weights:.2f} bits a weight" if weights else ""
    yield f"tensors ({len(all_tensors)}): {weights:,} weights in {total:,} bytes{bits}"
    if tensors:
        lines = [(printable(t.name), _shape(t.shape), t.type, f"{t.nbytes:,}", str(t.offset)) for t in all_tensors]
        yield from _table([("name", "shape", "type", "bytes", "offset"), *lines])
    else:
        counts, sizes = Counter(t.type for t in all_tensors), Counter[str]()
        for t in all_tensors:
            sizes[t.type] += t.nbytes
        yield from _table([(name, str(n), f"{sizes[name]:,} bytes") for name, n in counts.most_common()])


def printable(text: str) -> str:
    """Text on one line and safe for a terminal: control characters and lone surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "single value"


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows in aligned columns; the last column is left ragged."""
    rows = list(rows)
    widths = [min(max(len(row[i]) for row in rows), WIDTH) for i in range(len(rows[0]) - 1)] if rows else []
    for row in rows:
        yield "  " + "  ".join([cell.ljust(w) for cell, w in zip(row, widths, strict=False)] + [row[-1]])


def _value(metadata: Metadata, key: str) -> str:
    """A value as one short piece of text; of an array the count and the first few."""
    if not metadata.type(key).startswith("array"):
        return _short(metadata[key])
    count = metadata.count(key)
    if metadata.type(key) == "array[string]":
        first: list[Any] = [s.decode("utf-8", "surrogateescape") for s in metadata.strings(key)[:FIRST]]
    else:
        first = metadata[key][:FIRST]
    shown = ", ".join(_short(v) for v in first) + (", ..." if count > FIRST else "")
    return f"{count:,}: [{shown}]"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_short(v) for v in value[:FIRST]) + (", ...]" if len(value) > FIRST else "]")
    if isinstance(value, float):
        return f"{value:.7g}"
    if not isinstance(value, str):
        return str(value)
    text = printable(value[: WIDTH + 1])
    return f'"{text}"' if len(text) <= WIDTH else f'"{text[:WIDTH]}..." ({len(value):,} characters)'
