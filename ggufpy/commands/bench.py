"""`ggufpy bench`: how fast a model reads prompts and writes text here, beside what the machine could do."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.commands._options import MODEL_HELP, add_engine_arguments, whole
from ggufpy.hub import DEFAULT_MODEL

if TYPE_CHECKING:
    from ggufpy.llm import Parts
    from ggufpy.runtime import Session

HELP = "measure prompt and decode speed, beside the machine's limits"
DESCRIPTION = """Measure how fast a model reads a prompt (pp) and writes text (tg), in tokens a second.

Both alternate, after one warm-up each, with measurements of the machine's own limits: for the prompt the
matrix arithmetic that its threads reach, for the text the bytes a second that they read from memory.
Figures are medians of -r runs with the least and the most. -p 0 or -n 0 leaves one half out.
JSON: model, type, bytes, threads, isa, pp {tokens, tps_median, tps_min, tps_max, tflops, peak_tflops},
tg {tokens, tps_median, tps_min, tps_max, gb_per_s, machine_gb_per_s}, load_seconds, import_seconds.

examples:
  ggufpy bench                              the default model
  ggufpy bench model.gguf -p 512 -n 128 -t 4 -r 5
  ggufpy bench model.gguf -p 0 -n 32 -d 4096    decoding behind 4,096 tokens"""


@dataclass(frozen=True)
class Runs:
    """Seconds of each run, and what the machine reached right beside it (FLOP/s or bytes/s)."""

    tokens: int
    seconds: Sequence[float]
    machine: Sequence[float]

    def rates(self) -> dict[str, float | int | None]:
        """The fields that both halves share."""
        speeds = [self.tokens / s for s in self.seconds]
        return {
            "tokens": self.tokens,
            "tps_median": median(speeds) if speeds else None,
            "tps_min": min(speeds, default=None),
            "tps_max": max(speeds, default=None),
        }

    def ratio(self, per_token: float, own: str, peak: str) -> dict[str, float | None]:
        """Work a second at `per_token` units a token, and the machine's own rate, both over 1e9."""
        if not self.seconds:
            return {own: None, peak: None}
        speed = median(self.tokens / s for s in self.seconds)
        return {own: per_token * speed / 1e9, peak: median(self.machine) / 1e9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench`."""
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help=MODEL_HELP)
    for flag, name, value, least, text in (
        ("-p", "--n-prompt", 512, 0, "tokens of the prompt"),
        ("-n", "--n-gen", 128, 0, "tokens to decode"),
        ("-d", "--depth", 0, 0, "tokens in the context before decoding starts"),
        ("-r", "--repetitions", 5, 1, "runs of each"),
    ):
        parser.add_argument(
            flag, name, type=whole(least), default=value, metavar="N", help=f"{text} (default: {value})"
        )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load, measure, print."""
    if not args.n_prompt and not args.n_gen:
        raise UsageError("-p 0 and -n 0 leave nothing to measure")
    start = time.perf_counter()
    from ggufpy.llm import LoadOptions, load_parts
    from ggufpy.progress import Progress
    from ggufpy.runtime import machine

    import_module("ggufpy.format")

    imported = time.perf_counter()
    with Progress() as progress:
        options = LoadOptions(
            n_ctx=max(args.n_prompt, args.depth + args.n_gen),
            n_threads=args.threads,
            n_batch=args.batch,
            n_gpu_layers=args.n_gpu_layers,
            text=False,
            progress=progress,
        )
        parts = load_parts(args.model, options)
    loaded = time.perf_counter()
    try:
        with Progress() as progress:
            pp, tg = _measure(parts.session, args, machine, progress)
        report = _report(parts, pp, tg)
    finally:
        parts.session.close()
        parts.file.close()
    report |= {"load_seconds": loaded - imported, "import_seconds": imported - start}
    print(json.dumps(report) if args.json else _table(report))
    return 0


def _measure(
    session: Session, args: argparse.Namespace, machine: Any, progress: Callable[[str, int, int], None]
) -> tuple[Runs, Runs]:
    """Warm up, then alternate prompt, decode and the machine's limits."""
    import numpy as np

    tokens = np.random.default_rng(0).integers(
        0, session.n_vocab, max(args.n_prompt, args.depth, args.n_gen, 1)
    )
    ids: list[int] = tokens.tolist()
    pp: list[float] = []
    tg: list[float] = []
    flops: list[float] = []
    reads: list[float] = []
    for turn in range(args.repetitions + 1):
        if args.n_prompt:
            seconds = _prompt(session, ids[: args.n_prompt])
            peak = machine.matrix_peak(session.n_threads) if turn else 0.0
            if turn:
                pp.append(seconds)
                flops.append(peak)
        if args.n_gen:
            count = args.n_gen if turn else min(args.n_gen, 4)
            seconds = _decode(session, ids[: args.depth], ids[:count])
            if turn:
                tg.append(seconds)
                reads.append(machine.read_rate(session.n_threads))
        progress("measuring", turn + 1, args.repetitions + 1)
    return Runs(args.n_prompt, pp, flops), Runs(args.n_gen, tg, reads)


def _prompt(session: Session, ids: list[int]) -> float:
    """Seconds to read `ids` into a fresh context."""
    session.truncate(0)
    start = time.perf_counter()
    session.eval(ids)
    session.last_logits()
    return time.perf_counter() - start


def _decode(session: Session, before: list[int], ids: list[int]) -> float:
    """Seconds to evaluate `ids` one by one, each to its logits, behind the tokens `before`."""
    session.truncate(0)
    if before:
        session.eval(before)
    start = time.perf_counter()
    for token in ids:
        session.eval([token])
        session.last_logits()
    return time.perf_counter() - start


def _report(parts: Parts, pp: Runs, tg: Runs) -> dict[str, Any]:
    session = parts.session
    prompt = pp.ratio(session.flops_per_token / 1e3, "tflops", "peak_tflops")
    if prompt["peak_tflops"] is not None:
        prompt["peak_tflops"] /= 1e3
    return {
        "model": parts.name,
        "type": session.type_name,
        "bytes": sum(tensor.nbytes for tensor in parts.file.tensors.values()),
        "threads": session.n_threads,
        "isa": session.isa,
        "pp": {**pp.rates(), **prompt},
        "tg": {**tg.rates(), **tg.ratio(session.weight_bytes, "gb_per_s", "machine_gb_per_s")},
    }


def _table(report: dict[str, Any]) -> str:
    """The report for reading."""
    from ggufpy.progress import human_bytes

    lines = [
        f"model    {report['model']} ({report['type']}, {human_bytes(report['bytes'])})",
        f"machine  {report['threads']} threads, {report['isa']}",
        f"loading  {report['load_seconds']:.2f} s (imports {report['import_seconds']:.2f} s)",
    ]
    for key, what, own, peak, unit in (
        ("pp", "prompt", "tflops", "peak_tflops", "TFLOPS"),
        ("tg", "decode", "gb_per_s", "machine_gb_per_s", "GB/s"),
    ):
        half = report[key]
        if half["tps_median"] is not None:
            share = f"{half[own]:.3g} of the machine's {half[peak]:.3g} {unit}"
            spread = f"{half['tps_min']:.1f}-{half['tps_max']:.1f}"
            lines.append(
                f"{what} {half['tokens']:>5} tokens  {half['tps_median']:9.1f} t/s  ({spread})  {share}"
            )
    return "\n".join(lines)
