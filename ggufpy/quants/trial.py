"""A known-answer check of compiled encoders and decoders: the level that they run at has given right answers here.

A decoder has NumPy's bits. What an encoder writes is decoded in NumPy and lies as close to the numbers as a type of so
many bits allows: a type of b bits a weight is off by 1.3 to 3.5 times 2^-b of the spread of normal numbers (measured,
all types), and zeros, or anything else that has not to do with the numbers, by all of it.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ggufpy import quants
from ggufpy.jit import verdicts
from ggufpy.jit.cache import Progress, folder, library
from ggufpy.jit.child import fault_in_child
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.quants.base import BlockType, Bytes, Floats
from ggufpy.simd import isa
from ggufpy.simd.isa import Level

ROWS, COLUMNS = 32, 512  # whole blocks of every type, and a row for every lane
FACTOR = 4.0  # of 2^-bits: the largest error that is right
ALL = 0.9  # of the spread: an error that no type may reach
_LOCK = threading.Lock()


def level_for(code: Kernel) -> Level:
    """The best level at which this encoder or decoder gives right answers on this machine."""
    with _LOCK:  # threads that share an array want one trial
        return _remembered(code, os.environ.get("GGUFPY_ISA", ""), str(folder()))


@functools.cache
def _remembered(code: Kernel, forced: str, cache: str) -> Level:
    """`level_for`, until the environment changes."""
    return tried([code])


def tried(codecs: Iterable[Kernel], progress: Progress | None = None) -> Level:
    """Loads encoders and decoders at the best level at which all give right answers; `progress` counts compiling."""
    wanted = list(dict.fromkeys(codecs))

    def fault(level: Level) -> str:
        library(level).load(wanted, progress)
        new = [code for code in wanted if not verdicts.was_right([code], level)]
        reason = _fault(new, level) if new else ""
        for code in [] if reason else new:
            verdicts.record_right([code], level)
        return reason

    return verdicts.first_right(fault)


def _fault(codecs: Iterable[Kernel], level: Level) -> str:
    listed = [{"source": code.source, **code.parameters} for code in codecs]
    return fault_in_child(__name__, {"level": level.name, "codecs": listed})


def fault_here(trial: Mapping[str, Any]) -> str:
    """Runs the codecs of a trial in this process: the first that is wrong, in words, or an empty string."""
    level = isa.named(trial["level"])
    for constants in trial["codecs"]:
        given = dict(constants)
        code, block = kernel(given.pop("source"), **given), quants.get(given["type"])
        fault = _decoder_fault(block, level) if code.source == "decode" else _encoder_fault(block, given, level)
        if fault:
            return fault
    return ""


def _decoder_fault(block: BlockType, level: Level) -> str:
    from ggufpy.quants.decoding import run_kernel

    raw = np.random.default_rng(1).integers(0, 256, (ROWS * COLUMNS // block.weights, block.nbytes), np.uint8)
    weights = np.zeros((len(raw), block.weights), np.float32)
    run_kernel(block, raw, weights, level)
    same = np.array_equal(weights, _decoded(block, raw), equal_nan=True)
    return "" if same else f"it decodes {block.name} to other numbers than NumPy"


def _encoder_fault(block: BlockType, constants: Mapping[str, Any], level: Level) -> str:
    from ggufpy.quants.encoding import run_kernel

    x = np.random.default_rng(2).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    importance = np.linspace(0.5, 2, COLUMNS, dtype=np.float32)[None] if constants["weighted"] else None
    out = np.zeros((ROWS, COLUMNS // block.weights * block.nbytes), np.uint8)
    run_kernel(block, x, importance, out, level)
    wrong_by = _decoded(block, out.reshape(-1, block.nbytes)) - x.reshape(-1, block.weights)
    error = float(np.sqrt((wrong_by**2).mean()))
    right = error <= min(FACTOR * 2 ** (-8 * block.nbytes / block.weights), ALL)
    return "" if right else f"numbers encoded as {block.name} are off by {error:.2g} of their spread"


def _decoded(block: BlockType, blocks: Bytes) -> Floats:
    """(m, nbytes) → (m, weights), in NumPy."""
    out = np.empty((len(blocks), block.weights), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        block.decode_blocks(blocks, out)
    return out
