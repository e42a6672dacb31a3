"""Tokenizers of real checkpoints: what a GGUF file made of them gives, against the `tokenizers` library.

    python tools/check_tokenizers.py FOLDER [FOLDER ...] [--texts 2000] [--seed 11]

Each folder has a tokenizer.json (and whatever else a checkpoint has). Its vocabulary is converted, written to a GGUF
file and read again, then texts of several scripts, code, numbers, white space and emoji, with texts of special tokens
and without, are tokenized by both. Prints a line a folder and a closing line; exits 1 where a text differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

import ggufpy
from ggufpy.convert.vocabulary import Vocabulary, export_vocabulary, probes, vocabulary
from ggufpy.errors import GGUFError
from ggufpy.tokenizers import Tokenizer
from ggufpy.tokenizers.vocab import CONTROL, UNKNOWN


@dataclass(frozen=True)
class Result:
    """On how many texts ids differ: plain ones; with special tokens parsed; with these as text; framed by BOS and EOS;
    by a tokenizer.json that was made of the GGUF file. `example` is a text that differs."""

    kind: str
    counts: tuple[int, ...]
    notes: tuple[str, ...]
    example: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the folders on the command line; 0 where all agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args(arguments)
    print(f"{'plain':>7}{'parsed':>8}{'as text':>9}{'framed':>8}{'exported':>10}  kind, folder")
    wrong = 0
    for folder in args.folders:
        try:
            result = check(folder, args.texts, args.seed)
        except GGUFError as error:
            print(f"{'error':>7}  {folder}: {error}")
            wrong += 1
            continue
        plain, parsed, as_text, framed, exported = result.counts
        print(f"{plain:7}{parsed:8}{as_text:9}{framed:8}{exported:10}  {result.kind}, {folder}")
        for note in result.notes:
            print(f"         {note}")
        if result.example:
            print(f"         differs: {result.example[:100]!r}")
        wrong += any(result.counts)
    print(f"{len(args.folders) - wrong} of {len(args.folders)} tokenizers agree on {args.texts} texts a column")
    return int(wrong > 0)


def check(folder: Path, count: int, seed: int) -> Result:
    """What one folder gives."""
    made = vocabulary(folder, _config(folder), None)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "vocabulary.gguf"
        ggufpy.write(file, {"general.architecture": "llama", **made.keys}, {})
        own = ggufpy.load_tokenizer(file)
        exported = _exported(file, Path(place) / "out")
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    return _compared(own, library, exported, made, count, seed)


def _exported(file: Path, folder: Path) -> Any:
    folder.mkdir()
    with ggufpy.open(file) as opened:
        export_vocabulary(opened.metadata, folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def _compared(own: Tokenizer, library: Any, exported: Any, made: Vocabulary, count: int, seed: int) -> Result:
    plain = probes.texts(count, seed)
    added = [token.content for token in library.get_added_tokens_decoder().values()]
    special = [text for text in added if "\u2581\u2581" not in text]  # which a text of SentencePiece cannot have
    marked = probes.texts(count, seed + 1, special)
    as_text = _special_by_types(library, own)
    examples: list[str] = []

    def differing(texts: Sequence[str], ours: Callable[[str], list[int]], other: Callable[[str], list[int]]) -> int:
        found = [text for text in texts if ours(text) != other(text)]
        examples.extend(found[:1])
        return len(found)

    counts = (
        differing(plain, own.encode, lambda text: _ids(library, text)),
        differing(marked, lambda text: own.encode(text, parse_special=True), lambda text: _ids(library, text)),
        differing(marked, own.encode, lambda text: _ids(as_text, text)),
        differing(plain, lambda text: own.encode(text, True, True), lambda text: _ids(library, text, True)),
        differing(plain + marked, lambda text: own.encode(text, True, True), lambda text: _ids(exported, text, True)),
    )
    kind = made.keys["tokenizer.ggml.model"].value
    pre = made.keys.get("tokenizer.ggml.pre")
    return Result(f"{kind}/{pre.value if pre else 'tokenizer.json'}", counts, made.notes, next(iter(examples), ""))


def _special_by_types(library: Any, own: Tokenizer) -> Any:
    """The library's tokenizer to which tokens are text that are special by the types of the GGUF file."""
    description = json.loads(library.to_str())
    types = own.vocab.types
    for token in description["added_tokens"]:
        token["special"] = bool(types[token["id"]] in (CONTROL, UNKNOWN))
    made = tokenizers.Tokenizer.from_str(json.dumps(description))
    made.encode_special_tokens = True
    return made


def _ids(library: Any, text: str, framed: bool = False) -> list[int]:
    return list(library.encode(text, add_special_tokens=framed).ids)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
