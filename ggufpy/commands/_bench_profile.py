"""`bench --profile`: the time of a prompt and of decoding, op by op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggufpy.runtime import Engine

Profiles = dict[str, list[dict[str, Any]]]


def profile(engine: Engine, work: Callable[[], object]) -> list[dict[str, Any]]:
    """Where the time of `work` with the engine goes, the longest op first."""
    with engine.profile() as profiled:
        work()
    return [asdict(op) for op in profiled.ops()]


def table(name: str, ops: Sequence[dict[str, Any]]) -> str:
    """One line an op, and their sum."""
    title = {"pp": "prompt", "tg": "decode"}[name]
    total = sum(op["seconds"] for op in ops)
    lines = [f"{title + ' by op':<16} {'kernel':<15} {'calls':>6} {'ms':>9} {'share':>6} {'waits':>6} "
             f"{'GFLOP':>8} {'GFLOPS':>8} {'MB':>9} {'GB/s':>6}"]  # fmt: skip
    for op in ops:
        lines.append(_line(op, total))
    lines.append(f"{'in all':<39} {total * 1e3:9.2f}")
    return "\n".join(lines)


def _line(op: dict[str, Any], total: float) -> str:
    seconds = max(op["seconds"], 1e-9)
    flops = f"{op['flops'] / 1e9:8.2f} {op['flops'] / seconds / 1e9:8.1f}" if op["flops"] else f"{'-':>8} {'-':>8}"
    moved = f"{op['bytes'] / 1e6:9.1f} {op['bytes'] / seconds / 1e9:6.1f}" if op["bytes"] else f"{'-':>9} {'-':>6}"
    shares = f"{op['seconds'] / total:6.1%} {op['waiting'] / seconds:6.1%}"
    return f"{op['op']:<16} {op['kernel']:<15} {op['calls']:>6} {op['seconds'] * 1e3:9.2f} {shares} {flops} {moved}"
