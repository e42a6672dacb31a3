"""Check and measure layers on a GPU: kernels on random input, a real model's logits, then decode and prompt speed.

    python tools/gpu_bench.py                            all of it, on the first card
    python tools/gpu_bench.py --shapes 7b --types Q4_0 --layers all --no-checks
    python tools/gpu_bench.py --report                   the arithmetic of a 7B shape, without a card
    python tools/gpu_bench.py --report --every sm_75     all kernels as the compiler sees them

Kernels are checked by their own tests on the card, with random numbers of this run (pip install '.[test]'). Logits of
SmolLM2 are compared with those of float64 arithmetic on the same weights. Models of random weights are written to a
folder (--folder, some 8 GB at a time) and removed. A rate is the median of -r runs behind one that does not count; the
card's copy rate counts bytes read and bytes written, its matrix rate is that of cuBLAS.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu import rates, report
from gpu.exact import Divergences, divergences
from peers.worker import some_tokens
from synthetic import SHAPES, write_model

from ggufpy.backends.gpu import catalogue, cuda, listing
from ggufpy.commands._options import whole
from ggufpy.commands.bench import decode_seconds, prompt_seconds
from ggufpy.errors import GGUFError
from ggufpy.generate.loading import LoadOptions, load_parts
from ggufpy.hub import resolve
from ggufpy.support.console import note

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("1.1b", "7b", "8b")
TYPES = ("Q4_0", "Q4_K_M", "Q8_0")
LAYERS = ("0", "half", "all")
PROMPT, DECODED, DECODED_ON_CPU = 512, 128, 16  # tokens
WARM = 4  # tokens decoded in the turn that does not count: the second records the work
# Tests of kernels against NumPy; others are of the shim, of CuPy's names, or of what is decided on the host.
NOT_KERNELS = ("compile", "cuda", "messages", "shim", "placing", "bench")


@dataclass(frozen=True)
class Rates:
    """The card's own, in bytes and operations a second."""

    copy: float
    matrix: float


@dataclass(frozen=True)
class Speed:
    """One model with layers on the card: tokens a second, and what a token takes of weights (bytes) and a prompt of
    operations."""

    model: str
    layers: str
    decode: float
    prompt: float
    weights: int
    operations: float


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0, or 1 with one line on stderr."""
    args = parser().parse_args(argv)
    try:
        return reported(args) if args.report else measured(args)
    except (GGUFError, OSError) as error:
        note(f"gpu_bench: {error}")
        return 1
    except KeyboardInterrupt:
        note("gpu_bench: interrupted")
        return 130


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, choices, text in (
        ("--shapes", SHOWN, "sizes of models"), ("--types", TYPES, "types of weights"),
        ("--layers", LAYERS, "layers on the card"),
    ):  # fmt: skip
        made.add_argument(
            flag, default=",".join(choices), metavar="LIST", help=f"{text} (default: {','.join(choices)})"
        )
    made.add_argument("-r", "--repetitions", type=whole(1), default=5, metavar="N", help="runs of each (default: 5)")
    made.add_argument("--folder", type=Path, help="where models are written (default: a temporary one)")
    made.add_argument("--model", default="smollm2", help="whose logits are compared (default: smollm2)")
    made.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of the checks (default: the time)")
    made.add_argument("--no-checks", action="store_true", help="measure only")
    made.add_argument("--no-speed", action="store_true", help="check only")
    made.add_argument("--report", action="store_true", help="no card: what the compiler says, and what bytes take")
    made.add_argument("--every", metavar="LEVEL", help="with --report: all kernels at a level such as sm_75")
    made.add_argument(
        "--gb-per-s", type=float, default=report.DATA_SHEET, metavar="RATE",
        help=f"with --report: what memory is taken to give (default: {report.DATA_SHEET:,.0f}, NVIDIA's for an H100)",
    )  # fmt: skip
    return made


def reported(args: argparse.Namespace) -> int:
    """The arithmetic; nothing is measured."""
    if args.every:
        print(report.every_kernel(args.every))
        return 0
    shape = SHAPES[args.shapes.split(",")[0] if args.shapes != ",".join(SHOWN) else "7b"]
    for type_name in args.types.split(","):
        print(report.arithmetic(shape, type_name, args.gb_per_s), end="\n\n")
    return 0


def measured(args: argparse.Namespace) -> int:
    """Checks, then speeds; 1 where a check failed."""
    if fault := listing.why_none() or cuda.fault():
        raise GGUFError(f"there is nothing to measure: {fault}")
    speeds: list[Speed] = []
    wrong: list[str] = []
    found = card(args)
    if not args.no_checks:
        wrong += check_kernels(args.seed)
        wrong += check_logits(args.model)
    if not args.no_speed:
        for name in args.shapes.split(","):
            for type_name in args.types.split(","):
                speeds += model_speeds(name, type_name, args)
        print(report.layout(list(rows(speeds, found))))
    for line in wrong:
        note(f"gpu_bench: WRONG: {line}")
    return 1 if wrong else 0


def card(args: argparse.Namespace) -> Rates:
    """Loads every kernel, and measures what the card can do."""
    device = cuda.CudaDevice()
    facts, start, specs = device.facts, time.perf_counter(), catalogue.kernels()
    device.load(specs)
    loaded = time.perf_counter() - start
    found = Rates(rates.copy_rate(device), rates.matrix_rate(device))
    look = listing.look()
    print(f"card      {facts.name}, {facts.level}, {facts.processors} multiprocessors, {facts.memory / 1e9:.1f} GB")
    print(f"software  driver for CUDA {look.cuda}, {look.cupy}, Python {sys.version.split()[0]}")
    print(f"kernels   {len(specs)} loaded in {loaded:.1f} s")
    print(
        f"limits    copies {found.copy / 1e9:,.0f} GB/s (read and written), products {found.matrix / 1e12:,.0f} TFLOPS"
    )
    device.close()
    return found


# -- checks --


def check_kernels(seed: int) -> list[str]:
    """Runs the tests of kernels on the card; what failed."""
    if util.find_spec("pytest") is None or util.find_spec("xdist") is None:
        raise GGUFError("kernels are checked by their tests: pip install '.[test]', or give --no-checks")
    files = [
        str(path)
        for path in sorted((ROOT / "tests").glob("test_gpu_*.py"))
        if path.stem.removeprefix("test_gpu_").split("_")[0] not in NOT_KERNELS
    ]
    command = [sys.executable, "-m", "pytest", "-p", "gpu.card", "-n", "0", "-m", "not oracle and not browser", *files]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")])
    print(f"checks    kernels on random input, seed {seed} ...", flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths, "GGUFPY_SEED": str(seed)})
    return [f"tests of kernels fail (--seed {seed} does it again)"] if done.returncode else []


def check_logits(model: str) -> list[str]:
    """Compares a model's logits with exact ones, on the CPU and on the card; what differs too much."""
    wrong, path = [], resolve(model)
    for name, layers in (("CPU", "0"), ("card", "all"), ("both", "half")):
        found = divergences(path, on_card(layers, path))
        print(f"logits    {model}, {name}: KL divergence from float64 {_nats(found)}")
        if layers != "0":
            wrong += [f"{model} on the {name}: {line}" for line in found.faults()]
    return wrong


def _nats(found: Divergences) -> str:
    return f"{found.decode:.5f} in decode, {found.prompt:.5f} in prompts"


# -- speeds --


def model_speeds(name: str, type_name: str, args: argparse.Namespace) -> Iterator[Speed]:
    """Of one model of random weights, which is removed afterwards."""
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / f"{name}-{type_name}.gguf"
        note(f"gpu_bench: writing {path.name}")
        write_model(path, shape, type_name)
        for layers in args.layers.split(","):
            note(f"gpu_bench: {path.stem}, -ngl {layers}")
            yield speed(path, layers, args.repetitions)


def on_card(layers: str, model: str | Path) -> int | str:
    """What -ngl is given for "0", "half", "all" or a number."""
    if layers != "half":
        return layers if layers == "all" else int(layers)
    from ggufpy import format as gguf_format

    file = gguf_format.open(model)
    try:
        return int(file.metadata[f"{file.metadata['general.architecture']}.block_count"]) // 2
    finally:
        file.close()


def speed(path: Path, layers: str, turns: int) -> Speed:
    """Medians of runs behind one that does not count."""
    given = on_card(layers, path)
    options = LoadOptions(n_ctx=PROMPT + DECODED + 8, text=False, n_gpu_layers=given)
    parts = load_parts(path, options)
    engine = parts.engine
    count = DECODED if layers == "all" else DECODED_ON_CPU
    ids = some_tokens(PROMPT, engine.n_vocab)
    prompts, decodes = [], []
    for turn in range(turns + 1):
        prompts.append(prompt_seconds(engine, ids))
        decodes.append(decode_seconds(engine, ids[:8], ids[: count if turn else WARM]))
    made = Speed(
        path.stem, layers, count / median(decodes[1:]), PROMPT / median(prompts[1:]), engine.weight_bytes,
        engine.prompt_flops(PROMPT),
    )  # fmt: skip
    engine.close()
    return made


def rows(speeds: Sequence[Speed], found: Rates) -> Iterator[tuple[str, ...]]:
    """The table: beside the card's limits only where all layers are on it."""
    yield ("model", "ngl", "decode t/s", "GB/s", "/ copy", "prompt t/s", "TFLOPS", "/ matrix")
    for one in speeds:
        read, worked = one.decode * one.weights, one.prompt * one.operations / PROMPT
        whole_model = one.layers == "all"
        yield (
            one.model, one.layers, f"{one.decode:,.1f}", f"{read / 1e9:,.0f}",
            f"{read / found.copy:.2f}" if whole_model else "-", f"{one.prompt:,.0f}", f"{worked / 1e12:,.1f}",
            f"{worked / found.matrix:.2f}" if whole_model else "-",
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
