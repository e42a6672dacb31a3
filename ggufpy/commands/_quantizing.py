"""What `convert` and `quantize` share: the options of the quantiser, and what is printed of its report."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.commands._options import add_threads_argument, real
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.quantizer import QuantizeOptions, Report
    from ggufpy.support.progress import Progress


def tensor_type(text: str) -> tuple[str, str]:
    """An argument type: `REGEX=TYPE`."""
    pattern, equals, name = text.partition("=")
    if not (pattern and equals and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not REGEX=TYPE, such as attn_v=Q8_0")
    return pattern, name


def add_quantizing_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare them; what comes back is the group of those that choose types, for more of the kind."""
    parser.add_argument("--imatrix", metavar="FILE", help="weigh columns by this importance matrix")
    add_threads_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="show types and sizes, write nothing")
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="take infinite weights and NaN: as zero, where a type has none"
    )
    group = parser.add_argument_group("which tensor gets which type")
    group.add_argument(
        "--tensor-type", type=tensor_type, action="append", default=[], metavar="REGEX=TYPE",
        help="type of the tensors in whose name REGEX is found; again for more, the first that is found counts",
    )  # fmt: skip
    group.add_argument("--target-bpw", type=real, metavar="X", help="choose types by measured error, X bits a weight")
    group.add_argument("--pure", action="store_true", help="one type for all matrices, no mix")
    return group


def check_quantizing(args: argparse.Namespace) -> None:
    """Raise UsageError for options that contradict each other."""
    if args.pure and args.target_bpw is not None:
        raise UsageError("--pure is one type for all, --target-bpw chooses one for each: leave one of them out")


def quantizing_options(args: argparse.Namespace, progress: Progress, **more: Any) -> QuantizeOptions:
    """The options of `add_quantizing_arguments`, and `more`, which one command has alone."""
    from ggufpy.quantizer import QuantizeOptions

    return QuantizeOptions(
        imatrix=args.imatrix,
        tensor_types=tuple(args.tensor_type),
        pure=args.pure,
        dry_run=args.dry_run,
        target_bpw=args.target_bpw,
        threads=args.n_threads,
        allow_nonfinite=args.allow_nonfinite,
        progress=progress,
        **more,
    )


def print_report(args: argparse.Namespace, command: str, report: Report) -> None:
    """Notes on stderr; on stdout the table, with -v every tensor, or with --json one object."""
    from ggufpy.commands.inspect import printable

    for note in report.notes:
        console.note(f"ggufpy {command}: {printable(note)}")
    if bad := sum(tensor.nonfinite for tensor in report.tensors):
        console.note(f"ggufpy {command}: {bad} weights were infinite or NaN")
    if args.json:
        print(json.dumps(report.as_json()))
        return
    if args.verbose:
        for tensor in report.tensors:
            print(f"{printable(tensor.name):<40}{tensor.source:>8} -> {tensor.target:<8}{tensor.bytes:>15,}")
    if report.tensors:
        for line in report.table():
            print(line)
        print(f"{report.bits_per_weight:.3f} bits per weight, {_written(report)}")
    else:
        print(_written(report))


def _written(report: Report) -> str:
    """Where the file is."""
    if not report.files:
        return "nothing written"
    more = f" and {len(report.files) - 1} more" if len(report.files) > 1 else ""
    return f"in {report.files[0]}{more}"
