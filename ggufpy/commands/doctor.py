"""`ggufpy doctor`: what this machine has, what was found out about it, and what is missing; for bug reports."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.commands._options import add_threads_argument

if TYPE_CHECKING:
    from ggufpy.simd.isa import Level
    from ggufpy.support.progress import Progress

HELP = "check this machine: CPU, SIMD levels and whether they compute right, speeds, GPUs, cache, versions"
DESCRIPTION = """Show what a bug report needs: the CPU, its SIMD levels with the verdict of a known-answer check,
threads, how fast memory is read and matrices are multiplied, NVIDIA GPUs with the versions of the driver and CuPy or
what is missing to run layers there, the folder of compiled kernels and fetched models, versions, and what is missing
for extras. Each level runs a small model in a process of its own and is compared with
NumPy; the first time, its kernels are compiled, which takes about half a minute a level.
JSON: cpu, system, levels [{name, verdict, current}], threads {used, cores, quota}, machine_gb_per_s, peak_tflops,
gpus {devices [{index, name, level, processors, memory}], driver_cuda, cupy, missing}, cache {folder, bytes, kernels,
writable}, versions, missing [{extra, package, gives}]. Exit status 1 where a level of
this CPU computes wrongly.

examples:
  ggufpy doctor
  ggufpy doctor --json > report.json
  ggufpy doctor --quick           no measurements, no new trials"""

_PACKAGES = ("numpy", "numba", "llvmlite", "tokenizers", "sentencepiece", "jinja2", "rich")
_EXTRAS = (
    ("hub", "huggingface_hub", "models by hf:owner/repo"),
    ("plot", "matplotlib", "plots of bench and compare-quants"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("--quick", action="store_true", help="tell what is known; measure and try nothing")
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if a level of this CPU is wrong."""
    from ggufpy.backends.options import EngineOptions
    from ggufpy.commands._measuring import cpu_name
    from ggufpy.support.progress import Progress

    threads = EngineOptions(n_threads=args.n_threads).threads()
    with Progress() as progress:
        levels = _levels(args.quick, progress)
    report: dict[str, Any] = {
        "cpu": cpu_name(),
        "system": platform.platform(),
        "levels": levels,
        "threads": {"used": threads, "cores": os.cpu_count(), "quota": _quota()},
        **({"machine_gb_per_s": None, "peak_tflops": None} if args.quick else _speeds(threads)),
        "gpus": _gpus(),
        "cache": _cache(),
        "versions": _versions(),
        "missing": [
            {"extra": extra, "package": package, "gives": gives}
            for extra, package, gives in _EXTRAS
            if util.find_spec(package) is None
        ],
    }
    print(_text(report))
    if args.json:
        print(json.dumps(report))
    return 1 if any(level["verdict"].startswith("wrong") for level in levels) else 0


def _levels(quick: bool, progress: Progress) -> list[dict[str, Any]]:
    """Every level that there is, best first, with what is known of it."""
    from ggufpy.jit import verdicts
    from ggufpy.simd import isa

    present = isa.available()
    levels = []
    for level in isa.LEVELS:
        if level not in present:
            verdict = f"not here: {isa.absence(level)}"
        elif reason := verdicts.fault(level):
            verdict = f"wrong: {reason}"
        else:
            verdict = "not tried" if quick else _tried(level, progress)
        levels.append({"name": level.name, "verdict": verdict})
    best = verdicts.current().name
    return [{**level, "current": level["name"] == best} for level in levels]


def _tried(level: Level, progress: Progress) -> str:
    """The verdict of a trial with the common types of weights, kept like those of models."""
    from ggufpy.jit import verdicts
    from ggufpy.models.ops import Heads
    from ggufpy.runtime.trial import common, fault_of

    types = ("F16", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q6_K", "Q8_0")
    progress(f"trying {level.name}", 0, 0)
    reason = fault_of(common(level.name, types, Heads(9, 3, 64, 64)))
    if reason:
        verdicts.record_fault(level, reason)
    return f"wrong: {reason}" if reason else "right"


def _speeds(threads: int) -> dict[str, float]:
    from ggufpy.backends.cpu import machine

    return {
        "machine_gb_per_s": machine.read_rate(threads) / 1e9,
        "peak_tflops": machine.matrix_peak(threads) / 1e12,
    }


def _quota() -> float | None:
    """Cores that a container may use (cgroup v2 cpu.max), or None without a limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None  # no cgroups here: no limit that could be told


def _gpus() -> dict[str, Any]:
    """NVIDIA devices, and why no layers can run there, if so. CuPy is loaded only where all else is there."""
    from ggufpy.backends.gpu import cuda, listing

    found = listing.look()
    return {
        "devices": [vars(device) for device in found.devices],
        "driver_cuda": found.cuda or None,
        "cupy": found.cupy or None,
        "missing": found.fault or cuda.fault() or None,
    }


def _cache() -> dict[str, Any]:
    from ggufpy.support.folders import cache_dir

    root = cache_dir()
    sizes = [_size(Path(folder, name)) for folder, _, names in os.walk(root) for name in names]
    kernels = sum(name.endswith(".o") for _, _, names in os.walk(root) for name in names)
    nearest = next(path for path in (root, *root.parents) if path.exists())
    return {
        "folder": str(root),
        "bytes": sum(sizes),
        "kernels": kernels,
        "writable": os.access(nearest, os.W_OK),
    }


def _size(path: Path) -> int:
    """Bytes of a file; 0 for one that another process has just removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _versions() -> dict[str, str]:
    from ggufpy import __version__

    versions = {"ggufpy": __version__, "python": sys.version.split()[0]}
    return versions | {name: metadata.version(name) for name in _PACKAGES}


def _text(report: dict[str, Any]) -> str:
    """The report for reading."""
    from ggufpy.support.progress import human_bytes

    threads, cache = report["threads"], report["cache"]
    quota = "" if threads["quota"] is None else f", quota {threads['quota']:g}"
    kept = f"{human_bytes(cache['bytes'])}, {cache['kernels']} kernels"
    lines = [f"cpu       {report['cpu']}", f"system    {report['system']}"]
    for i, level in enumerate(report["levels"]):
        used = "  (in use)" if level["current"] else ""
        lines.append(f"{'levels' if i == 0 else '':9} {level['name']:9} {level['verdict']}{used}")
    lines.append(f"threads   {threads['used']} (cores: {threads['cores']}{quota})")
    if report["machine_gb_per_s"] is not None:
        lines.append(f"memory    {report['machine_gb_per_s']:.1f} GB/s read")
        lines.append(f"matrices  {report['peak_tflops']:.3g} TFLOPS at most")
    lines += _gpu_lines(report["gpus"])
    lines.append(f"cache     {cache['folder']} ({kept}{'' if cache['writable'] else '; CANNOT BE WRITTEN'})")
    lines.append("versions  " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    for extra in report["missing"]:
        lines.append(f"missing   {extra['package']}, for {extra['gives']}: pip install 'ggufpy[{extra['extra']}]'")
    return "\n".join(lines)


def _gpu_lines(gpus: dict[str, Any]) -> list[str]:
    """Devices, a line each, then what is missing, or else what runs layers there."""
    from ggufpy.support.progress import human_bytes

    told = [
        f"{gpu['index']}: {gpu['name']}, {gpu['level']}, {human_bytes(gpu['memory'])}, "
        f"{gpu['processors']} multiprocessors"
        for gpu in gpus["devices"]
    ]
    driver = f"driver for CUDA {gpus['driver_cuda']}, {gpus['cupy']}"
    told.append(f"no layers on a GPU: {gpus['missing']}" if gpus["missing"] else driver)
    return [f"{'gpus' if i == 0 else '':9} {line}" for i, line in enumerate(told)]
