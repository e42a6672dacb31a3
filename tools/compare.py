"""Measure ggufpy beside other engines: the same files, the same tokens, in turn, on this machine.

    python tools/compare.py                                  five files against llama.cpp from PyPI
    python tools/compare.py model.gguf -p 512 -n 64 -r 5
    python tools/compare.py 1.1b:Q4_0 1.1b:Q6_K --isa best   files of random weights, made when missing
    python tools/compare.py --llama-bench ~/llama.cpp/build/bin/llama-bench
    python tools/compare.py --llama-quantize ~/llama.cpp/build/bin/llama-quantize --types Q4_0,Q8_0,Q4_K_M

MODEL is a path, a name that ggufpy knows, hf:owner/repo[:file-or-quant], or SHAPE:TYPE for a file of random weights
(tools/synthetic.py), which is kept in the cache folder; the five files of the default take 3 GB there. Prompt and
decode rates are medians of -r turns, after one that does not count. Engines take turns, in an order that alternates,
and a ratio is the median of the ratios within the turns: a machine that slows down for a while slows both sides.
Prompts are read in steps of 512 tokens; decoding has the logits of each token and no sampling unless the table says so.
With --llama-quantize, what is measured is how long `ggufpy quantize` and that program take to make a file (default
MODEL: 1.1b:F16), and the two files are compared tensor by tensor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from peers import Ggufpy, LlamaBench, Peer, PeerError, Runner, Settings, Xllamacpp
from peers.quantizing import Quantising, compare_types, table
from synthetic import SHAPES, write_model

from ggufpy.backends.options import EngineOptions
from ggufpy.commands._measuring import cpu_name
from ggufpy.commands._options import whole
from ggufpy.errors import GGUFError
from ggufpy.hub import resolve
from ggufpy.simd import isa
from ggufpy.support.folders import cache_dir
from ggufpy.support.progress import Progress

DEFAULT_ISA = "best,avx2"
QUANTISED = ("1.1b:F16",)
MODELS = ("smollm2", "1.1b:Q4_0", "1.1b:Q4_K_M", "1.1b:Q8_0", "1.1b:Q5_0")
WARM_TOKENS = 4  # tokens decoded in the turn that does not count
MOST_SPREAD = 0.2  # of the median, between the least and the most; above it figures are not to be trusted
LEAST_TURNS = 3
MOST_LOAD = 0.25  # a core, before anything is measured

Rates = dict[str, dict[str, list[float]]]  # engine, task: tokens a second of each turn


@dataclass(frozen=True)
class Side:
    """Who takes part: engines of ours, and the peers that they are compared with."""

    ours: Sequence[Peer]
    peers: Sequence[Peer]

    @property
    def all(self) -> list[Peer]:
        return [*self.peers, *self.ours]


def find_model(name: str, folder: Path) -> Path:
    """The file that MODEL means; one of random weights is made in `folder`. Raises GGUFError."""
    shape, _, type_name = name.partition(":")
    if shape not in SHAPES or not type_name:
        with Progress() as progress:
            return resolve(name, progress)
    path = folder / f"{shape}-{type_name}.gguf"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"compare: writing {path}", file=sys.stderr)
        write_model(path, SHAPES[shape], type_name)
    return path


def levels(asked: str, available: Sequence[str]) -> list[str]:
    """SIMD levels out of a list such as "best,avx2", each once. Raises GGUFError for one that is not there.

    `available` is best first. A level of the default list that the machine lacks is left out.
    """
    found: list[str] = []
    for word in asked.split(","):
        name = available[0] if word == "best" else word
        if name not in available:
            if asked == DEFAULT_ISA:
                continue
            raise GGUFError(f"--isa {word}: this machine has {', '.join(available)}")
        if name not in found:
            found.append(name)
    return found


def measure(
    runners: Mapping[str, Runner], settings: Settings, say: Callable[[str], None], failed: dict[str, str]
) -> Rates:
    """Turns of every task on every engine, the order turned round each time. The first turn warms up.

    An engine that fails goes from the rates to `failed`, with its reason.
    """
    rates: Rates = {name: {task: [] for task in settings.tasks} for name in runners}
    for turn in range(settings.turns + 1):
        say(f"turn {turn} of {settings.turns}" if turn else "warming up")
        for task, tokens in settings.tasks.items():
            count = tokens if turn or task == "prompt" else min(tokens, WARM_TOKENS)
            for name in list(rates)[:: -1 if turn % 2 else 1]:
                try:
                    seconds = runners[name].seconds(task, count)
                except PeerError as error:
                    failed[name] = str(error)
                    del rates[name]
                    continue
                if turn:
                    rates[name][task].append(count / seconds)
    return rates


def summary(rates: Sequence[float]) -> dict[str, float]:
    """Median, ends and spread of one engine's turns at a task."""
    middle = median(rates)
    ends = {"tps_min": min(rates), "tps_max": max(rates)}
    return {"tps_median": middle, **ends, "spread": (ends["tps_max"] - ends["tps_min"]) / middle}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast: the median of the turns' ratios."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def report(rates: Rates, side: Side) -> dict[str, Any]:
    """Figures of one model: `engines` by name, and `ratios` of ours over each peer by name and task."""
    ours = [peer.name for peer in side.ours if peer.name in rates]
    theirs = [peer.name for peer in side.peers if peer.name in rates]

    def over(mine: str, other: str) -> dict[str, float]:
        return {task: ratio(turns, rates[other][task]) for task, turns in rates[mine].items()}

    return {
        "engines": {n: {task: summary(turns) for task, turns in rates[n].items()} for n in [*theirs, *ours]},
        "ratios": {mine: {other: over(mine, other) for other in theirs} for mine in ours},
    }


def compare(path: Path, side: Side, settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything about one model. An engine that cannot open it is left out, with its reason in `failed`."""
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for peer in side.all:
            say(f"loading into {peer.name}")
            try:
                runners[peer.name] = peer.open(path, settings)
            except PeerError as error:
                failed[peer.name] = str(error)
                continue
            stack.callback(runners[peer.name].close)
        rates = measure(runners, settings, say, failed)
        about = {name: dict(runners[name].about) for name in rates}
    return {**report(rates, side), "about": about, "failed": failed}


def warnings(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before believing the figures."""
    lines = []
    for model in models:
        for name, reason in model["failed"].items():
            lines.append(f"{model['model']}, {name}: left out: {reason}")
        for name, tasks in model["engines"].items():
            for task, figures in tasks.items():
                if figures["spread"] > MOST_SPREAD:
                    lines.append(
                        f"{model['model']}, {name}, {task}: turns differ by {figures['spread']:.0%}; "
                        "measure again on a quieter machine"
                    )
    return lines


def doubts(about: Mapping[str, Any], settings: Settings) -> list[str]:
    """What makes all figures of this run doubtful."""
    lines = []
    if settings.turns < LEAST_TURNS:
        lines.append(f"{settings.turns} turns say little; take {LEAST_TURNS} or more (-r)")
    if about["load"] is not None and about["load"] > MOST_LOAD * about["cores"]:
        lines.append(f"the machine was busy before this began: a load of {about['load']:.1f} on {about['cores']} cores")
    return lines


def machine(settings: Settings) -> dict[str, Any]:
    """What this is measured on."""
    import llvmlite
    import numba
    import numpy

    cores = EngineOptions().threads()
    return {
        "cpu": cpu_name(),
        "cores": cores,
        "threads": settings.threads,
        "load": os.getloadavg()[0] if sys.platform != "win32" else None,
        "levels": [level.name for level in isa.available()],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {
            "Python": platform.python_version(),
            "NumPy": numpy.__version__,
            "Numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
        },
    }


# -- what is printed --


def header(about: Mapping[str, Any], settings: Settings) -> str:
    """The machine and what is measured."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    depth = f" behind {settings.depth:,}" if settings.depth else ""
    return (
        f"machine   {about['cpu']}, {about['cores']} cores, {', '.join(about['levels'])}; {about['system']}\n"
        f"versions  {versions}\n"
        f"measured  {settings.threads} threads; prompt of {settings.prompt:,}, {settings.gen:,} decoded{depth}; "
        f"medians of {settings.turns} turns, spread = (most - least) / median"
    )


def columns(side: Side) -> list[str]:
    """The table's head: two columns of figures a task, and a column of ratios a peer."""
    head = ["model", "engine"]
    for task in ("prompt", "decode"):
        head += [f"{task} t/s", "spread", *(f"/ {peer.name}" for peer in side.peers)]
    return head


def rows(model: Mapping[str, Any], side: Side) -> Iterator[list[str]]:
    """The table's rows for one model, a row an engine; a dash is what was not measured."""
    title = f"{model['model']} ({model['gigabytes']:.2f} GB)"
    for i, peer in enumerate(side.all):
        cells = [title if i == 0 else "", peer.name]
        for task in ("prompt", "decode"):
            figures = model["engines"].get(peer.name, {}).get(task)
            ratios = model["ratios"].get(peer.name, {})
            cells += [f"{figures['tps_median']:,.1f}", f"{figures['spread']:.0%}"] if figures else ["-", "-"]
            for other in side.peers:
                value = ratios.get(other.name, {}).get(task)
                cells.append("" if value is None else f"{value:.2f} x")
        yield cells


def layout(lines: Sequence[Sequence[str]]) -> str:
    """Rows in columns: two of text, then numbers to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    placed = []
    for line in lines:
        texts = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        figures = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        placed.append("  ".join([*texts, *figures]).rstrip())
    return "\n".join(placed)


def legend(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each engine is, from what it said of itself."""
    known: dict[str, Mapping[str, Any]] = {}
    for model in models:
        known = {**model["about"], **known}
    lines = []
    for name, about in known.items():
        parts = [str(about["version"]), *(f"{k} {v}" for k, v in about.items() if k in ("build_commit", "backends"))]
        if "features" in about:
            parts.append("compiled for " + " ".join(about["features"]))
        lines.append(f"{name}: {', '.join(parts)}; decodes {about['decode']}")
    return lines


# -- the command line --


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("models", nargs="*", metavar="MODEL", help=f"(default: {' '.join(MODELS)})")
    for flag, name, value, least, text in (
        ("-p", "--n-prompt", 512, 0, "tokens of the prompt"),
        ("-n", "--n-gen", 64, 0, "tokens to decode"),
        ("-d", "--depth", 0, 0, "tokens in the context before decoding starts"),
        ("-r", "--repetitions", 5, 1, "turns"),
    ):
        made.add_argument(flag, name, type=whole(least), default=value, metavar="N", help=f"{text} (default: {value})")
    made.add_argument("-t", "--threads", type=whole(1), metavar="T", help="threads of all engines (default: cores)")
    made.add_argument("--isa", default=DEFAULT_ISA, metavar="LIST", help=f"our SIMD levels (default: {DEFAULT_ISA})")
    made.add_argument("--llama-bench", type=Path, metavar="PATH", help="compare with this llama-bench program")
    made.add_argument("--xllamacpp", action="store_true", help="with llama.cpp from PyPI too (alone: the default)")
    made.add_argument("--llama-quantize", type=Path, metavar="PATH", help="compare making files with this program")
    made.add_argument("--types", default="Q4_0,Q8_0,Q4_K_M", metavar="LIST", help="with --llama-quantize: what to make")
    made.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    return made


def sides(args: argparse.Namespace) -> Side:
    """Who takes part. Raises GGUFError for a level that the machine lacks."""
    peers: list[Peer] = []
    if args.xllamacpp or args.llama_bench is None:
        peers.append(Xllamacpp(cache_dir() / "compare"))
    if args.llama_bench is not None:
        peers.append(LlamaBench(args.llama_bench))
    names = levels(args.isa, [level.name for level in isa.available()])
    return Side([Ggufpy(name) for name in names], peers)


def compare_all(args: argparse.Namespace) -> int:
    """Measure and print; 1 if an engine had to be left out."""
    threads = args.threads or EngineOptions().threads()
    settings = Settings(args.n_prompt, args.n_gen, args.depth, args.repetitions, threads)
    if not settings.tasks:
        raise GGUFError("-p 0 and -n 0 leave nothing to measure")
    side = sides(args)
    for peer in side.all:
        peer.prepare()
    about, models = machine(settings), []
    for name in args.models or MODELS:
        path, title = find(name)

        def say(what: str, title: str = title) -> None:
            print(f"compare: {title}: {what}", file=sys.stderr)

        made = compare(path, side, settings, say)
        models.append({"model": title, "gigabytes": path.stat().st_size / 1e9, **made})
    noted = doubts(about, settings) + warnings(models)
    if args.json:
        print(json.dumps({"machine": about, "settings": asdict(settings), "models": models, "warnings": noted}))
    else:
        lines = [columns(side), *(row for model in models for row in rows(model, side))]
        print(header(about, settings), layout(lines), "\n".join(legend(models)), sep="\n\n")
    for line in noted:
        print(f"compare: warning: {line}", file=sys.stderr)
    return 1 if any(model["failed"] for model in models) else 0


def find(name: str) -> tuple[Path, str]:
    """A model's file, and what to call it."""
    path = find_model(name, cache_dir() / "compare")
    return path, path.stem if os.path.exists(name) else name


def compare_quantising(args: argparse.Namespace) -> int:
    """Measure and print how long making files takes; 1 if tensors came out in other types."""
    if not args.llama_quantize.is_file():
        raise GGUFError(f"there is no program {args.llama_quantize}: give --llama-quantize its path")
    threads = args.threads or EngineOptions().threads()
    settings = Quantising(args.types.split(","), args.repetitions, threads, args.llama_quantize.resolve())
    about, models = machine(Settings(turns=args.repetitions, threads=threads)), []
    for name in args.models or QUANTISED:
        path, title = find(name)

        def say(what: str, title: str = title) -> None:
            print(f"compare: {title}: {what}", file=sys.stderr)

        models.append({"model": title, "types": compare_types(path, settings, say)})
    if args.json:
        print(json.dumps({"machine": about, "models": models}))
    else:
        print(f"machine   {about['cpu']}, {threads} threads; medians of {args.repetitions} turns, whole processes\n")
        for model in models:
            print(layout(table(model["model"], model["types"])))
    others = [line for model in models for made in model["types"] for line in made["other_types"]]
    for line in others:
        print(f"compare: warning: other types (ours, theirs): {line}", file=sys.stderr)
    return 1 if others else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0, or 1 with one line on stderr."""
    args = parser().parse_args(argv)
    try:
        return compare_quantising(args) if args.llama_quantize else compare_all(args)
    except (GGUFError, PeerError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
