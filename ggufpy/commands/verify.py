"""`ggufpy verify`: whether a file is whole and makes sense, to the last weight."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.commands._options import add_model_argument, add_threads_argument, find_model
from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    from ggufpy.format.verification import Problem

HELP = "check a whole file: header, metadata and every weight"
DESCRIPTION = """Check a file, or all files of a split set: the header, what the metadata say of each other and of the
tensors, and every scale and float of the weights, none of which may be infinite or NaN. Memory stays bounded.
Warnings (tensors of zeros, bytes after the end) leave the exit status 0; a problem makes it 1.
JSON: file, ok, files, tensors, bytes, seconds, problems: [{message, tensor, count, index, offset}], warnings.

examples:
  ggufpy verify model.gguf
  ggufpy verify model-00001-of-00003.gguf --json | jq .problems"""

SHOWN = 20  # problems printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    add_model_argument(parser, "file")
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is wrong; 0, or 1 where something is."""
    from ggufpy.format.verification import Problem

    started = time.perf_counter()
    try:
        report = _check(args)
    except GGUFError as e:
        if not args.json:
            raise
        report = {"problems": [Problem(str(e))], "warnings": [], "files": 0, "tensors": 0, "bytes": 0}
    report["seconds"] = time.perf_counter() - started
    if args.json:
        problems = [_as_json(problem) for problem in report["problems"]]
        print(json.dumps({"file": str(args.file), "ok": not problems, **report, "problems": problems}))
    else:
        _describe(args.file, report)
    return 1 if report["problems"] else 0


def _check(args: argparse.Namespace) -> dict[str, Any]:
    from ggufpy.backends.options import EngineOptions
    from ggufpy.format import open as open_gguf
    from ggufpy.format.verification import check_metadata, check_sizes, check_tensors
    from ggufpy.support.progress import Progress

    threads = EngineOptions(n_threads=args.n_threads).threads()
    args.file = find_model(args.file)
    with open_gguf(args.file) as file:
        problems = list(check_metadata(file))
        warnings = list(check_sizes(file))
        with Progress() as progress:
            bad, doubtful = check_tensors(file, threads, progress)
        return {
            "files": len(file.files),
            "tensors": len(file.tensors),
            "bytes": sum(t.nbytes for t in file.tensors.values()),
            "problems": problems + bad,
            "warnings": warnings + doubtful,
        }


def _as_json(problem: Problem) -> dict[str, Any]:
    if not problem.tensor:
        return {"message": problem.message}
    return {
        "message": problem.message,
        "tensor": problem.tensor,
        "count": problem.count,
        "index": list(problem.index),
        "offset": problem.offset,
    }


def _describe(path: Path, report: dict[str, Any]) -> None:
    from ggufpy.commands.inspect import printable
    from ggufpy.support.progress import human_bytes

    for kind, lines in (("", [p.message for p in report["problems"]]), ("warning: ", report["warnings"])):
        for line in lines[:SHOWN]:
            print(kind + printable(line))
        if len(lines) > SHOWN:
            print(f"{kind}and {len(lines) - SHOWN:,} more (--json lists them)")
    many = "1 file" if report["files"] == 1 else f"{report['files']} files"
    what = f"{many}, {report['tensors']:,} tensors, {human_bytes(report['bytes'])}"
    count = len(report["problems"])
    verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "ok"
    print(f"{printable(str(path))}: {verdict} ({what} in {report['seconds']:.1f} s)")
