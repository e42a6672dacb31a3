"""`ggufpy merge`: a split set into one file."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ggufpy.commands._options import add_model_argument, find_model

HELP = "merge a split model into one file"
DESCRIPTION = """Merge the files of a split set into one, without the split.* keys. The set is found by any of its
files, and must be complete. OUT is there whole at the end, or as it was before.
JSON: file, files, tensors, bytes, seconds.

examples:
  ggufpy merge model-00001-of-00003.gguf model.gguf"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    add_model_argument(parser, "first", "FIRST")
    parser.add_argument("output", metavar="OUT", type=Path, help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace OUT where it is there already")


def run(args: argparse.Namespace) -> int:
    """Merge, and print the file; 0. Raises GGUFError where the set is not complete or OUT cannot be written."""
    from ggufpy.commands.inspect import printable
    from ggufpy.format import open as open_gguf
    from ggufpy.format.split import merge
    from ggufpy.support.progress import Progress, human_bytes

    started = time.perf_counter()
    with open_gguf(find_model(args.first)) as file:
        with Progress() as progress:
            written = merge(file, args.output, force=args.force, progress=progress)
        files, tensors = len(file.files), len(file.tensors)
    if args.json:
        report = {"file": str(args.output), "files": files, "tensors": tensors, "bytes": written}
        print(json.dumps({**report, "seconds": time.perf_counter() - started}))
    else:
        print(f"{printable(str(args.output))}  {tensors} tensors of {files} files, {human_bytes(written)}")
    return 0
