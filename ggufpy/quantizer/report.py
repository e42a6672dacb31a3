"""What a quantisation cost: bytes, bits per weight, and the error of each tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ggufpy.support.progress import human_bytes
from ggufpy.support.records import dataclass


@dataclass(frozen=True)
class TensorReport:
    """One tensor: its shape in NumPy order, the types it had and has, its bytes now.

    `error` is the root mean square of the differences over that of the weights, on a sample of the tensor's rows; 0
    for one that was copied, None in a dry run. `nonfinite` weights were infinite or NaN. `gptq`: made by GPTQ, which
    trades this error for that of what the matrix gives.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    target: str
    bytes: int
    error: float | None = None
    nonfinite: int = 0
    gptq: bool = False

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def as_json(self) -> dict[str, Any]:
        """name, shape, from, to, bytes, error; nonfinite where there were any, gptq (true) where it was by GPTQ."""
        values: dict[str, Any] = {
            "name": self.name,
            "shape": list(self.shape),
            "from": self.source,
            "to": self.target,
            "bytes": self.bytes,
            "error": self.error,
        }
        more = {"nonfinite": self.nonfinite, "gptq": self.gptq}
        return values | {name: value for name, value in more.items() if value}


@dataclass(frozen=True)
class Report:
    """A whole file: bytes of the files read and written, bits that a weight takes now, seconds, every tensor.

    `files` are the paths written (none in a dry run), `notes` lines that whoever asked should read.
    """

    bytes_in: int
    bytes_out: int
    bits_per_weight: float
    seconds: float
    tensors: Sequence[TensorReport]
    files: Sequence[str] = ()
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """The fields that `ggufpy quantize --json` prints."""
        return {
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "bits_per_weight": self.bits_per_weight,
            "seconds": self.seconds,
            "tensors": [tensor.as_json() for tensor in self.tensors],
            "files": list(self.files),
            "notes": list(self.notes),
        }

    def table(self) -> Iterator[str]:
        """Lines for reading: tensors, bytes, bits per weight and error of each type, then all together."""
        types: dict[str, list[TensorReport]] = {}
        for tensor in self.tensors:
            types.setdefault(tensor.target, []).append(tensor)
        yield f"{'type':<8}{'tensors':>9}{'bytes':>17}{'bits/weight':>13}{'error':>9}"
        for name, some in sorted(types.items(), key=lambda item: -sum(t.bytes for t in item[1])):
            yield _row(name, some)
        yield _row("all", self.tensors)
        yield f"{human_bytes(self.bytes_in)} -> {human_bytes(self.bytes_out)}, {self.seconds:.1f} s"


def _row(name: str, tensors: Sequence[TensorReport]) -> str:
    size = sum(t.bytes for t in tensors)
    weights = sum(t.weights for t in tensors)
    bits = f"{8 * size / weights:.2f}" if weights else "-"
    error = joint_error(tensors)
    shown = "-" if error is None else f"{100 * error:.2f} %" if error else "0"
    return f"{name:<8}{len(tensors):>9}{size:>17,}{bits:>13}{shown:>9}"


def joint_error(tensors: Sequence[TensorReport]) -> float | None:
    """The root mean square of the errors of several tensors, each by its weights; None where one was not measured."""
    total = weights = 0.0
    for tensor in tensors:
        if tensor.error is None:
            return None
        total += tensor.error**2 * tensor.weights
        weights += tensor.weights
    return math.sqrt(total / weights) if weights else None
