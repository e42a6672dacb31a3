"""`ggufpy export`: a GGUF file back to a folder as Hugging Face has them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ggufpy.commands._options import add_model_argument, find_model
from ggufpy.support import console
from ggufpy.support.progress import human_bytes

HELP = "make a Hugging Face folder of a GGUF file"
DESCRIPTION = """Write MODEL to the new folder DIR as Hugging Face has models: config.json, safetensors, tokenizer,
and a model card (README.md) of what the file says of its license, makers, tags and sources.

Weights in blocks are decoded to BF16 (--dtype F32 for every bit of them), plain ones stay what they are. What was
converted comes back bit for bit. The folder gets its name when it is whole.
JSON: folder, files, bytes_out, dtype, notes.

examples:
  ggufpy export model.gguf ./model-hf
  ggufpy export smollm2 ./smollm2-hf --dtype F32"""

DTYPES = ("F32", "F16", "BF16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    add_model_argument(parser)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that is not there yet, or empty")
    parser.add_argument("--dtype", type=str.upper, choices=DTYPES, help="type of all weights")


def run(args: argparse.Namespace) -> int:
    """Export, and print what was written or one object of JSON."""
    from ggufpy.convert.export import export
    from ggufpy.format import open as open_gguf
    from ggufpy.support.progress import Progress

    path = find_model(args.model)
    with Progress() as progress, open_gguf(path) as file:
        done = export(file, args.folder, args.dtype, progress)
    for note in done.notes:
        console.note(f"ggufpy export: {note}")
    if args.json:
        print(json.dumps({"folder": str(args.folder), "files": list(done.files), "bytes_out": done.bytes_out,
                          "dtype": done.dtype, "notes": list(done.notes)}))  # fmt: skip
        return 0
    print(f"{args.folder}: {', '.join(done.files)} ({human_bytes(done.bytes_out)} of {done.dtype})")
    return 0
