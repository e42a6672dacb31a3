"""`ggufpy bench`: how fast a model reads prompts and writes text here, beside what the machine could do."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.commands._options import (
    add_cache_arguments,
    add_default_model_argument,
    add_engine_arguments,
    load_options,
    report_machine,
    whole,
)
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.commands._bench_profile import Profiles
    from ggufpy.generate.loading import LoadOptions, Parts
    from ggufpy.runtime import Engine
    from ggufpy.runtime.sequence import Sequence as Text
    from ggufpy.support.progress import Progress

HELP = "measure prompt and decode speed, beside the machine's limits"
DESCRIPTION = """Measure how fast a model reads a prompt (pp) and writes text (tg), in tokens a second.

Both alternate, after one warm-up each, with measurements of the machine's own limits: for the prompt the
matrix arithmetic that its threads reach, for the text the bytes a second that they read from memory.
Figures are medians of -r runs with the least and the most. -p 0 or -n 0 leaves one half out.
-p, -d and -np take lists: prompts of several lengths, decoding behind several depths, and several
sequences that decode together (all tokens a second, and how many times one sequence's).
JSON: model, type, bytes, threads, isa, pp {tokens, tps_median, tps_min, tps_max, tflops, peak_tflops},
tg {tokens, tps_median, tps_min, tps_max, gb_per_s, machine_gb_per_s}, load_seconds, import_seconds;
pp and tg are of the first of each list, pp_runs [pp], tg_runs [tg and depth] and
parallel [{sequences, tokens, tps_median, tps_min, tps_max, ratio}] have all.
--profile runs the first prompt and the first decoding once more with a clock: each op's time (waits: what
the first thread waits for the others), floating-point operations and bytes that pass once. JSON: profile
{pp, tg}, lists of {op, kernel, calls, seconds, waiting, flops, bytes}.

examples:
  ggufpy bench                              the default model
  ggufpy bench model.gguf -p 512 -n 128 -t 4 -r 5
  ggufpy bench model.gguf -p 0 -n 32 -d 4096    decoding behind 4,096 tokens
  ggufpy bench model.gguf -p 512 -n 16 --profile
  ggufpy bench -p 64,256,1024 -d 0,512,1024 -np 1,2,4,8 --plot speed.png"""

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
WARM_TOKENS = 4  # tokens decoded in the turn that does not count


@dataclass(frozen=True)
class Runs:
    """Seconds of each run, and what the machine reached right beside it (FLOP/s or bytes/s).

    `tokens` is of one sequence; `depth` tokens were in its context before.
    """

    tokens: int
    depth: int = 0
    sequences: int = 1
    seconds: list[float] = field(default_factory=list)
    machine: list[float] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Tokens a second of each run, of all sequences together."""
        return [self.tokens * self.sequences / s for s in self.seconds]

    def rates(self) -> dict[str, float | int | None]:
        """The fields that all kinds of runs share."""
        speeds = self.speeds
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
        return {own: per_token * median(self.speeds) / 1e9, peak: median(self.machine) / 1e9}


@dataclass(frozen=True)
class Measured:
    """All runs: prompts by length, decoding by depth, sequences side by side by their number."""

    prompts: list[Runs]
    decodes: list[Runs]
    parallel: list[Runs]


def numbers(least: int) -> Callable[[str], list[int]]:
    """An argument type: whole numbers with commas between them, each at least `least`."""
    one = whole(least)
    return lambda text: [one(part) for part in text.split(",")]


def plot_path(text: str) -> Path:
    """An argument type: a picture that can be written, known before anything is measured."""
    path = Path(text)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(PLOT_SUFFIXES)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench`."""
    add_default_model_argument(parser)
    for flag, name, kind, value, text in (
        ("-p", "--n-prompt", numbers(0), "512", "tokens of the prompt, or a list such as 128,512"),
        ("-n", "--n-gen", whole(0), "128", "tokens to decode"),
        ("-d", "--depth", numbers(0), "0", "tokens in the context before decoding starts, or a list"),
        ("-r", "--repetitions", whole(1), "5", "runs of each"),
    ):
        parser.add_argument(flag, name, type=kind, default=value, metavar="N", help=f"{text} (default: {value})")
    parser.add_argument(
        "-np",
        "--parallel",
        type=numbers(1),
        default=[],
        metavar="LIST",
        help="sequences that decode together, such as 1,2,4,8 (one is always measured with them)",
    )
    parser.add_argument("--profile", action="store_true", help="also show where the time goes, op by op")
    parser.add_argument(
        "--plot", type=plot_path, metavar="FILE", help="draw the figures into a .png, .svg or .pdf (extra: plot)"
    )
    add_engine_arguments(parser)
    add_cache_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load, measure, print, draw."""
    prompts = [count for count in args.n_prompt if count]
    if not prompts and not args.n_gen:
        raise UsageError("-p 0 and -n 0 leave nothing to measure")
    if args.parallel and not args.n_gen:
        raise UsageError("-np decodes, and -n 0 leaves nothing to decode")
    if args.plot is not None:
        from ggufpy.commands import _bench_plot

        _bench_plot.require()
    start = time.perf_counter()
    from ggufpy.generate.loading import load_parts
    from ggufpy.support.progress import Progress

    import_module("ggufpy.format")
    import_module("ggufpy.runtime")

    imported = time.perf_counter()
    if args.verbose:
        report_machine()
    with Progress() as progress:
        parts = load_parts(args.model, _load_options(args, progress))
    loaded = time.perf_counter()
    try:
        with Progress() as progress:
            measured = _measure(parts.engine, args, progress)
        profiles = _profiles(parts.engine, args) if args.profile else {}
        report = _report(parts, measured)
    finally:
        parts.engine.close()
        parts.file.close()
    report |= {"load_seconds": loaded - imported, "import_seconds": imported - start}
    report |= _lists(parts.engine, measured)
    if args.profile:
        report["profile"] = profiles
    print(json.dumps(report) if args.json else _table(report))
    if args.plot is not None:
        _bench_plot.draw(report, args.plot)
    return 0


def _load_options(args: argparse.Namespace, progress: Progress) -> LoadOptions:
    n_ctx = max(*args.n_prompt, *(depth + args.n_gen for depth in args.depth))
    return load_options(args, n_ctx=n_ctx, n_parallel=max(args.parallel, default=1), text=False, progress=progress)


def _measure(engine: Engine, args: argparse.Namespace, progress: Callable[[str, int, int], None]) -> Measured:
    """Warm up, then alternate prompts, decoding, the machine's limits, and sequences side by side."""
    from ggufpy.backends.cpu import machine

    ids = _tokens(engine, args)
    together = sorted({1, *args.parallel}) if args.parallel else []
    sequences = Together(engine, max(together), load_options(args).n_batch) if together else None
    prompts = [Runs(count) for count in args.n_prompt if count]
    decodes = [Runs(args.n_gen, depth) for depth in args.depth] if args.n_gen else []
    parallel = [Runs(args.n_gen, args.depth[0], count) for count in together]
    for turn in range(args.repetitions + 1):
        for runs in prompts:
            seconds = prompt_seconds(engine, ids[: runs.tokens])
            _note(runs, turn, seconds, lambda: machine.matrix_peak(engine.n_threads))
        for runs in decodes:
            count = runs.tokens if turn else min(runs.tokens, WARM_TOKENS)
            seconds = decode_seconds(engine, ids[: runs.depth], ids[:count])
            _note(runs, turn, seconds, lambda: machine.read_rate(engine.n_threads))
        for runs in parallel:
            assert sequences is not None
            count = runs.tokens if turn else min(runs.tokens, WARM_TOKENS)
            _note(runs, turn, sequences.seconds(runs.sequences, ids[: runs.depth], ids[:count]))
        progress("measuring", turn + 1, args.repetitions + 1)
    return Measured(prompts, decodes, parallel)


def _tokens(engine: Engine, args: argparse.Namespace) -> list[int]:
    """As many tokens, any of the vocabulary, as the longest run wants."""
    import numpy as np

    most = max(*args.n_prompt, *args.depth, args.n_gen)
    ids: list[int] = np.random.default_rng(0).integers(0, engine.n_vocab, most).tolist()
    return ids


def _profiles(engine: Engine, args: argparse.Namespace) -> Profiles:
    """One run more of the first prompt and the first decoding, timed op by op."""
    from ggufpy.commands import _bench_profile

    ids, count, depth = _tokens(engine, args), next(filter(None, args.n_prompt), 0), args.depth[0]
    profiles: Profiles = {}
    text = engine.sequence()
    if count:
        profiles["pp"] = _bench_profile.profile(engine, lambda: engine.read(text, ids[:count]))
    if args.n_gen:
        text.truncate(0)
        engine.read(text, ids[:depth])
        profiles["tg"] = _bench_profile.profile(engine, lambda: decode(engine, text, ids[: args.n_gen]))
    text.close()
    return profiles


def _note(runs: Runs, turn: int, seconds: float, limit: Callable[[], float] | None = None) -> None:
    """Keeps a run, and what the machine reaches now, unless it was the first, which warms up."""
    if turn:
        runs.seconds.append(seconds)
        if limit is not None:
            runs.machine.append(limit())


def prompt_seconds(engine: Engine, ids: Sequence[int]) -> float:
    """Seconds to read `ids` into a fresh context, to the logits of the last."""
    text = engine.sequence()
    start = time.perf_counter()
    engine.read(text, ids)
    seconds = time.perf_counter() - start
    text.close()
    return seconds


def decode_seconds(engine: Engine, before: Sequence[int], ids: Sequence[int]) -> float:
    """Seconds to evaluate `ids` one by one, each to its logits, behind the tokens `before`."""
    text = engine.sequence()
    engine.read(text, before)
    start = time.perf_counter()
    decode(engine, text, ids)
    seconds = time.perf_counter() - start
    text.close()
    return seconds


class Together:
    """Sequences that decode in the same steps."""

    def __init__(self, engine: Engine, count: int, n_batch: int) -> None:
        from ggufpy.runtime.engine import Chunk

        self._engine, self._chunk, self._batch = engine, Chunk, n_batch
        self._sequences = [self._engine.sequence() for _ in range(count)]

    def seconds(self, count: int, before: Sequence[int], ids: Sequence[int]) -> float:
        """Seconds that `count` sequences take for a step with a token each, to their logits, for each of `ids`."""
        taking = self._sequences[:count]
        for sequence in taking:
            for first in range(0, len(before), self._batch):
                self._engine.step([self._chunk(sequence, before[first : first + self._batch], logits="none")])
        start = time.perf_counter()
        for i in range(len(ids)):
            tokens = [ids[(i + k) % len(ids)] for k in range(count)]  # not all the same
            pairs = zip(taking, tokens, strict=True)
            self._engine.step([self._chunk(sequence, [token], logits="last") for sequence, token in pairs])
        seconds = time.perf_counter() - start
        for sequence in taking:
            sequence.truncate(0)
        return seconds


def decode(engine: Engine, text: Text, ids: Sequence[int]) -> None:
    """Evaluates `ids` one by one behind a text, each to its logits."""
    for token in ids:
        engine.read(text, [token])


def _report(parts: Parts, measured: Measured) -> dict[str, Any]:
    """The model, and the first of each list."""
    engine = parts.engine
    return {
        "model": parts.name,
        "type": engine.type_name,
        "bytes": sum(tensor.nbytes for tensor in parts.file.tensors.values()),
        "threads": engine.n_threads,
        "isa": engine.isa,
        "pp": _prompt_fields(engine, measured.prompts[0] if measured.prompts else Runs(0)),
        "tg": _decode_fields(engine, measured.decodes[0] if measured.decodes else Runs(0)),
    }


def _lists(engine: Engine, measured: Measured) -> dict[str, Any]:
    """Every run: `pp_runs`, `tg_runs`, `parallel`."""
    one = next((median(runs.speeds) for runs in measured.parallel if runs.sequences == 1), None)
    together = []
    for runs in measured.parallel:
        assert one is not None
        ratio = median(runs.speeds) / one
        together.append({"sequences": runs.sequences, **runs.rates(), "ratio": ratio})
    return {
        "pp_runs": [_prompt_fields(engine, runs) for runs in measured.prompts],
        "tg_runs": [{**_decode_fields(engine, runs), "depth": runs.depth} for runs in measured.decodes],
        "parallel": together,
    }


def _prompt_fields(engine: Engine, runs: Runs) -> dict[str, Any]:
    per_token = engine.prompt_flops(runs.tokens) / max(runs.tokens, 1)
    limits = runs.ratio(per_token / 1e3, "tflops", "peak_tflops")
    if limits["peak_tflops"] is not None:
        limits["peak_tflops"] /= 1e3
    return {**runs.rates(), **limits}


def _decode_fields(engine: Engine, runs: Runs) -> dict[str, Any]:
    return {**runs.rates(), **runs.ratio(engine.weight_bytes, "gb_per_s", "machine_gb_per_s")}


def _table(report: dict[str, Any]) -> str:
    """The report for reading."""
    from ggufpy.commands import _bench_profile
    from ggufpy.support.progress import human_bytes

    lines = [
        f"model    {report['model']} ({report['type']}, {human_bytes(report['bytes'])})",
        f"machine  {report['threads']} threads, {report['isa']}",
        f"loading  {report['load_seconds']:.2f} s (imports {report['import_seconds']:.2f} s)",
    ]
    for pp in report["pp_runs"]:
        share = f"{pp['tflops']:.3g} of the machine's {pp['peak_tflops']:.3g} TFLOPS"
        lines.append(f"prompt {pp['tokens']:>5} tokens  {_speed(pp)}  {share}")
    for tg in report["tg_runs"]:
        share = f"{tg['gb_per_s']:.3g} of the machine's {tg['machine_gb_per_s']:.3g} GB/s"
        behind = f" behind {tg['depth']:,}" if tg["depth"] else ""
        lines.append(f"decode {tg['tokens']:>5} tokens  {_speed(tg)}  {share}{behind}")
    for some in report["parallel"]:
        each = "sequence, alone" if some["sequences"] == 1 else f"sequences, {some['ratio']:.2f} times one"
        lines.append(f"decode {some['tokens']:>5} each    {_speed(some)}  {some['sequences']} {each}")
    lines += ["\n" + _bench_profile.table(name, ops) for name, ops in report.get("profile", {}).items()]
    return "\n".join(lines)


def _speed(fields: dict[str, Any]) -> str:
    return f"{fields['tps_median']:9.1f} t/s  ({fields['tps_min']:.1f}-{fields['tps_max']:.1f})"
