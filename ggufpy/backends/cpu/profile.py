"""Where the time of steps goes: of every kind of call its seconds, floating-point operations and bytes.

In: tapes that ran with a clock. Out: one `OpTime` for each kernel and what it is for, all layers together.
"""

from __future__ import annotations

from dataclasses import dataclass

from ggufpy.backends.cpu.kernels.layout import quantised_row_bytes
from ggufpy.models.ops import Attend, ExpertMatMul, MatMul

from .lowering import Call
from .model import Model
from .needs import flops_of
from .step import Step
from .tape import Tape
from .threads import Team
from .workspace import Workspace


@dataclass
class OpTime:
    """A kind of call, summed up: `seconds` until all threads are through, of which the first was `waiting`.

    `flops` are those of matrix products and attention; `bytes` what goes through once: weights, rows, keys and values.
    """

    op: str
    kernel: str
    calls: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0


class Profile:
    """What the tapes of an engine have taken since it began."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._times: dict[tuple[str, str], OpTime] = {}
        self._active: dict[str, float] = {}  # by where they were chosen: experts that had rows, a mean of the layers

    def ops(self) -> list[OpTime]:
        """Every kind of call, the longest first."""
        return sorted(self._times.values(), key=lambda op: -op.seconds)

    def run(self, tape: Tape, team: Team, work: Workspace) -> None:
        """Runs a tape on a workspace, and adds what its calls took."""
        before = {name: lists.tally for name, lists in work.lists.items()}
        stamps = tape.timed(team)
        self._active = {name: _mean(before[name], lists.tally) for name, lists in work.lists.items()}
        for call, (busy, waiting) in zip(tape.calls, stamps, strict=True):
            key = (_name(call), call.kernel.source)
            one = self._times.setdefault(key, OpTime(*key))
            flops, nbytes = self._work(call, work)
            one.calls += 1
            one.seconds += busy + waiting
            one.waiting += waiting
            one.flops += flops
            one.bytes += nbytes

    def _work(self, call: Call, work: Workspace) -> tuple[float, float]:
        """Floating-point operations and bytes of a call."""
        op, (rows, exact, bulk) = call.op, work.step.counts
        if isinstance(op, MatMul) and call.kernel.source.startswith("matmul"):
            if call.kernel.source == "matmul_tiles":
                rows = bulk
            elif call.arguments["step_ptr"] == work.step.exact_rows:
                rows = exact
            (height, width), packed = op.weight.shape, self._model.matrices[op.weight.name].memory.nbytes
            return 2.0 * rows * height * width, packed + rows * _row_bytes(call, work)
        if isinstance(op, ExpertMatMul) and call.kernel.source == "expert_matmul":
            matrix, real = self._model.matrices[op.weight.name], exact + bulk
            return real * flops_of(op), self._active[op.chosen] * matrix.expert_bytes + real * _row_bytes(call, work)
        if isinstance(op, Attend) and call.kernel.source.startswith("attention"):
            return self._attention(op, call, work.step)
        return 0.0, rows * _row_bytes(call, work)

    def _attention(self, op: Attend, call: Call, step: Step) -> tuple[float, float]:
        """Each key and value that is seen counts once for a sequence's rows."""
        if call.kernel.source == "attention_join":
            return 0.0, 0.0
        heads, shape = op.heads, self._model.shape
        key, value = (kind.bits / 8 for kind in (shape.key_type, shape.value_type))
        length = heads.key_length + heads.value_length
        flops = nbytes = 0.0
        for _, count, position in step.spans(call.kernel.source == "attention_tiles").tolist():
            seen = [min(p + 1, op.window or p + 1) for p in range(position, position + count)]
            seen = seen if op.causal else [position + count] * count
            flops += 2.0 * sum(seen) * length * heads.queries
            behind = min(position + count, op.window + count if op.window else position + count)
            nbytes += behind * heads.shared * (heads.key_length * key + heads.value_length * value)
            nbytes += 4.0 * count * heads.queries * length
        return flops, nbytes


def _mean(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Of what was added to `ExpertLists.tally` in between."""
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


def _name(call: Call) -> str:
    """What a call is for: a weight without its layer, or the kernel."""
    weight = getattr(call.op, "weight", None)
    if weight is None:
        return call.kernel.source
    parts = weight.name.removesuffix(".weight").split(".")
    return ".".join(parts[2:] if parts[0] == "blk" else parts)


def _row_bytes(call: Call, work: Workspace) -> int:
    """Bytes of a row of all buffers that a call reads and writes."""
    total = 0
    for touched in (*call.reads, *call.writes):
        form, _, name = touched.partition(":")[2].rpartition(":")
        if name in work.columns:
            columns = work.columns[name]
            total += {"q": quantised_row_bytes(columns), "t": 2 * columns}.get(form, 4 * columns)
    return total
