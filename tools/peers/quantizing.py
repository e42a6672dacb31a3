"""Making a file of another type: ggufpy beside a llama-quantize program, in turn, and what differs in the files.

In: a file of float weights, type names, a path. Out: figures for `tools/compare.py` to print. Seconds are of
whole processes, start to exit; files go to a scratch folder beside the model's and are removed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import ggufpy
from ggufpy import quants

from . import PeerError, last_line

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Quantising:
    """What is measured: types, turns, threads, and the program to compare with."""

    types: Sequence[str]
    turns: int
    threads: int
    program: Path

    def ours(self, source: Path, target: Path, type_name: str) -> list[str]:
        """Our command."""
        words = [sys.executable, "-m", "ggufpy", "quantize", str(source), str(target), type_name]
        return [*words, "-t", str(self.threads)]

    def theirs(self, source: Path, target: Path, type_name: str) -> list[str]:
        """llama-quantize's command: the threads come last."""
        return [str(self.program), str(source), str(target), type_name, str(self.threads)]


def seconds(command: Sequence[str], target: Path) -> float:
    """How long a command takes to make `target`. Raises PeerError if it fails."""
    target.unlink(missing_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    try:
        ran = subprocess.run(command, capture_output=True, env=env, check=False)
    except OSError as error:
        raise PeerError(f"{command[0]} cannot be run: {error.strerror}") from error
    took = time.perf_counter() - start
    if ran.returncode or not target.is_file():
        raise PeerError(f"{Path(command[0]).name} ended with status {ran.returncode}: {last_line(ran.stderr)}")
    return took


def compare_types(source: Path, settings: Quantising, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Figures of each type: seconds of both, how many times as fast ours is, and how the files differ."""
    made = []
    with tempfile.TemporaryDirectory(dir=source.parent, prefix="compare-") as folder:
        ours, theirs = Path(folder, "ours.gguf"), Path(folder, "theirs.gguf")
        for name in settings.types:
            turns: list[tuple[float, float]] = []
            for turn in range(settings.turns + 1):
                say(f"{name}: turn {turn} of {settings.turns}" if turn else f"{name}: warming up")
                pair = [(settings.ours, ours), (settings.theirs, theirs)]
                took = {to: seconds(command(source, to, name), to) for command, to in pair[:: -1 if turn % 2 else 1]}
                if turn:
                    turns.append((took[ours], took[theirs]))
            figures = {
                "type": name,
                "seconds": median(mine for mine, _ in turns),
                "their_seconds": median(other for _, other in turns),
                "ratio": median(other / mine for mine, other in turns),
            }
            made.append({**figures, **differences(ours, theirs)})
    return made


def differences(ours: Path, theirs: Path) -> dict[str, Any]:
    """`other_types`: tensors whose types differ, as "name: ours, theirs"; `equal_blocks`: the share of the rest's."""
    other, same, blocks = [], 0, 0
    with ggufpy.open(ours) as mine, ggufpy.open(theirs) as yours:
        if set(mine.tensors) != set(yours.tensors):
            raise PeerError(f"{theirs.name} has other tensors than {ours.name}")
        for name in mine.tensors:
            x, y = mine.tensors[name], yours.tensors[name]
            if x.type != y.type or x.shape != y.shape:
                other.append(f"{name}: {x.type}, {y.type}")
                continue
            width = quants.get(x.type).nbytes
            equal = (x.data.reshape(-1, width) == y.data.reshape(-1, width)).all(axis=1)
            same, blocks = same + int(np.count_nonzero(equal)), blocks + equal.size
    return {"other_types": other, "equal_blocks": same / max(blocks, 1)}


def table(model: str, made: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows for printing, with their head."""
    head = ["model", "type", "ggufpy s", "llama-quantize s", "times as fast", "equal blocks", "other types"]
    rows = [
        [
            model if i == 0 else "",
            row["type"],
            f"{row['seconds']:.1f}",
            f"{row['their_seconds']:.1f}",
            f"{row['ratio']:.2f} x",
            f"{row['equal_blocks']:.4%}",
            str(len(row["other_types"])),
        ]
        for i, row in enumerate(made)
    ]
    return [head, *rows]
