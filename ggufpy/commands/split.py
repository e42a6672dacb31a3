"""`ggufpy split`: one model into files of a limited size, as llama-gguf-split does."""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

from ggufpy.commands._options import add_model_argument, find_model, whole

HELP = "split a model into several files"
DESCRIPTION = """Split a model into PREFIX-00001-of-0000N.gguf and so on, as llama-gguf-split does: every 128
tensors, or where the tensor data of a file would pass a size. Programs open the set by its first file.
All files are written, checked and synced before the first takes its name: there is the whole set or nothing.
JSON: files: [{path, tensors, bytes}], bytes, seconds, dry_run.

examples:
  ggufpy split model.gguf model --split-max-size 4G
  ggufpy split model.gguf parts/model --split-max-tensors 64 --no-tensor-first-split
  ggufpy split model.gguf model --split-max-size 500M --dry-run"""

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    add_model_argument(parser, "file", "IN")
    parser.add_argument("prefix", metavar="PREFIX", type=Path, help="what the names of the files begin with")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--split-max-size", type=size, metavar="N(M|G)", help="bytes of tensor data a file: 4G is four times 10^9"
    )
    limit.add_argument(
        "--split-max-tensors", type=whole(1), default=128, metavar="N", help="tensors a file (default: 128)"
    )
    parser.add_argument("--no-tensor-first-split", action="store_true", help="the first file has the metadata alone")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    parser.add_argument("--force", action="store_true", help="replace files that are there already")


def size(text: str) -> int:
    """An argument type: bytes, as `4G` or `500M`, units of 1000."""
    match = re.fullmatch(r"(\d{1,18})([KMGT]?)", text.upper())
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4G or 500M")
    return int(match[1]) * _UNITS[match[2]]


def run(args: argparse.Namespace) -> int:
    """Split, and print the files; 0. Raises GGUFError, with nothing written, where that is not possible."""
    from ggufpy.commands.inspect import printable
    from ggufpy.format import open as open_gguf
    from ggufpy.format.split import Limits, plan, split
    from ggufpy.support.progress import Progress, human_bytes

    started = time.perf_counter()
    limits = Limits(args.split_max_size, args.split_max_tensors, not args.no_tensor_first_split)
    with open_gguf(find_model(args.file)) as file:
        parts = plan(file, args.prefix, limits)
        written = 0
        if not args.dry_run:
            with Progress() as progress:
                written = split(file, parts, force=args.force, progress=progress)
    if args.json:
        files = [{"path": str(p.path), "tensors": len(p.tensors), "bytes": p.nbytes} for p in parts]
        seconds = time.perf_counter() - started
        print(json.dumps({"files": files, "bytes": written, "seconds": seconds, "dry_run": args.dry_run}))
        return 0
    for part in parts:
        count = len(part.tensors)
        print(f"{printable(str(part.path))}  {count} tensor{'s' * (count != 1)}, {human_bytes(part.nbytes)}")
    many, verb = ("1 file", "was") if len(parts) == 1 else (f"{len(parts)} files", "were")
    print(f"{many} {'would be' if args.dry_run else verb} written")
    return 0
