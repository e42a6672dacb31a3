"""`ggufpy compare-quants`: what each quantised type of a model costs, measured and drawn."""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.commands._measuring import add_text_arguments, check_text_arguments, cpu_name, nats, text_windows
from ggufpy.commands._options import (
    add_engine_arguments,
    add_model_argument,
    find_model,
    load_options,
    report_machine,
    whole,
)
from ggufpy.commands.bench import plot_path
from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    from ggufpy.measure.comparison import Task
    from ggufpy.support.progress import Progress

HELP = "quantise a model to several types and compare size, KL divergence and speed"
DESCRIPTION = """Quantise MODEL to each of --types and measure what that costs: the picture to choose a type by.

MODEL is best an F16, BF16 or F32 file. Every type is measured on the text against the model's own logits (see
'ggufpy perplexity --help'); then all of them decode -n tokens by turns, -r times. Files go to a temporary folder,
which must have room for all of them together (TMPDIR moves it), or stay in --keep DIR.
JSON: model, threads, isa, cpu, text, chunks, n_ctx, tokens, imatrix; source and types [{type, path, bytes,
bits_per_weight, ppl, ppl_error, ppl_ratio, kld_mean, kld_median, kld_p99, kld_max, same_top, tg_tps_median,
tg_tps_min, tg_tps_max, quantize_seconds}].

examples:
  ggufpy compare-quants model-f16.gguf -f wiki.test.raw --chunks 20 --types Q8_0,Q6_K,Q4_K_M,Q4_0,Q2_K
  ggufpy compare-quants model-f16.gguf -f text.txt --types Q4_0,Q3_K_M --imatrix m.imatrix.gguf --plot types.png"""


def names(text: str) -> list[str]:
    """An argument type: names with commas between them, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as Q4_0,Q4_K_M")
    return list(dict.fromkeys(parts))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `compare-quants`."""
    add_model_argument(parser)
    add_text_arguments(parser, required=True)
    parser.add_argument("--types", type=names, required=True, metavar="LIST", help="file types, such as Q8_0,Q4_K_M")
    parser.add_argument("--imatrix", metavar="FILE", help="quantise with this importance matrix")
    parser.add_argument(
        "--allow-requantize", action="store_true", help="take a model that is quantised already, as the truth"
    )
    parser.add_argument("--keep", metavar="DIR", help="keep the quantised files in this folder")
    parser.add_argument("-n", "--n-gen", type=whole(1), default=64, metavar="N", help="tokens to decode (default: 64)")
    parser.add_argument(
        "-r", "--repetitions", type=whole(1), default=3, metavar="N", help="runs of decoding for each (default: 3)"
    )
    parser.add_argument(
        "--plot", type=plot_path, metavar="FILE", help="draw the figures into a .png, .svg or .pdf (extra: plot)"
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Quantise, measure, print, draw; 0."""
    check_text_arguments(args)
    if args.file == "-":
        raise UsageError("the text is read from a file here: give -f TEXT")
    if args.plot is not None:
        from ggufpy.commands import _bench_plot

        _bench_plot.require()
    if args.keep is not None and not Path(args.keep).is_dir():
        raise GGUFError(f"there is no folder {args.keep!r} to keep files in: make it first")
    from ggufpy.measure.comparison import as_json, compare
    from ggufpy.support.progress import Progress

    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        source = find_model(args.model)
        folder = args.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="ggufpy-types-"))
        report = as_json(compare(_task(args, source, Path(folder), progress)))
    report |= {"cpu": cpu_name(), "text": args.file, "n_ctx": args.ctx_size, "imatrix": args.imatrix}
    print(json.dumps(report) if args.json else table(report))
    if args.plot is not None:
        from ggufpy.commands import _types_plot

        _types_plot.draw(report, args.plot)
    if args.verbose:
        report_machine()
    return 0


def _task(args: argparse.Namespace, source: Path, folder: Path, progress: Progress) -> Task:
    """What was asked for, with types by their proper names. Raises GGUFError for one that there is not."""
    from ggufpy.measure.comparison import Task
    from ggufpy.quantizer import QuantizeOptions, file_type

    proper = dict.fromkeys(file_type(name).name for name in args.types)
    return Task(
        source=source,
        types=tuple(proper),
        folder=folder,
        windows=lambda llm: text_windows(llm, args.file, args.ctx_size, args.chunks),
        load=load_options(args, n_ctx=args.ctx_size),
        quantize=QuantizeOptions(imatrix=args.imatrix, threads=args.n_threads, allow_requantize=args.allow_requantize),
        rounds=args.repetitions,
        decode=args.n_gen,
        note=progress,
    )


def table(report: dict[str, Any]) -> str:
    """The report for reading, one line a model."""
    from ggufpy.support.progress import human_bytes

    header = f"{'type':<10}{'size':>10}{'bits':>7}{'KL mean':>11}{'median':>11}{'99 %':>10}{'top':>9}"
    lines = [
        f"{Path(report['model']).name} on {report['tokens']:,} tokens of {Path(report['text']).name}, "
        f"{report['cpu']}, {report['threads']} threads, {report['isa']}",
        header + f"{'ppl':>13}{'decode':>13}",
    ]
    for one in (report["source"], *report["types"]):
        lines.append(
            f"{one['type']:<10}{human_bytes(one['bytes']):>10}{one['bits_per_weight']:>7.2f}"
            f"{nats(one['kld_mean'], 6):>11}{nats(one['kld_median'], 6):>11}{nats(one['kld_p99'], 4):>10}"
            f"{100 * one['same_top']:>7.2f} %{one['ppl']:>13.4f}{one['tg_tps_median']:>9.1f} t/s"
        )
    return "\n".join(lines)
