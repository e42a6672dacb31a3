"""Layers in a device's memory: their packed matrices and vectors, and what a program of them takes."""

from __future__ import annotations

from collections.abc import Callable

from ggufpy.backends.cpu.model import Model, cache_shape
from ggufpy.backends.cpu.needs import main_type, matrix_names, products, prompt_flops, vectors
from ggufpy.backends.embedding import Embeddings
from ggufpy.backends.options import EngineOptions
from ggufpy.models.elsewhere import elsewhere
from ggufpy.models.ops import ExpertMatMul
from ggufpy.models.plan import Plan
from ggufpy.models.source import WeightSource

from .device import Device
from .elsewhere import Other
from .memory import Vectors
from .program import GpuProgram
from .uploading import uploaded
from .weights import vector


class GpuModel:
    """`plan`, which may be a part of a model's, with what it needs on a device that is its own.

    `other` has what the plan has run elsewhere (`models/elsewhere.plan_of`), on the CPU. See `backends/program.py`.
    Raises GGUFError for tensors that cannot be packed, a context longer than the model's, or too little memory.
    """

    bulk_rows = True

    def __init__(
        self, source: WeightSource, plan: Plan, options: EngineOptions, device: Device, other: Model | None = None
    ) -> None:
        if bool(elsewhere(plan)) != (other is not None):
            raise ValueError("what a plan has run elsewhere must be loaded there, and nothing else")
        self.plan, self.device, self.options, self._other = plan, device, options, other
        self._tensors = source.tensors
        self._names = matrix_names((*plan.body, *plan.head))
        self.shape = cache_shape(plan, options)
        self.threads = options.threads()
        tensors = [self._tensors[name] for name in self._names]
        advance = self._counter(sum(tensor.nbytes for tensor in tensors))
        self.matrices, self._memory = uploaded(device, tensors, self.threads, advance)
        self.vectors = Vectors(device, {w.name: vector(self._tensors[w.name]) for w in vectors(plan)})
        self.embeddings = Embeddings(plan.embed, self._tensors)

    def _counter(self, total: int) -> Callable[[int], None]:
        """advance(bytes): reports what is on the device, as a sum."""
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if self.options.progress is not None:
                self.options.progress("load", done, total)

        return advance

    @property
    def positions(self) -> int:
        """Of a sequence."""
        return self.shape.positions

    @property
    def sequences(self) -> int:
        """That can be full at once."""
        return self.shape.sequences

    @property
    def isa(self) -> str:
        """The device's name, and the SIMD level of what runs beside it."""
        name = self.device.facts.name
        return name if self._other is None else f"{name} + {self._other.isa}"

    @property
    def weight_bytes(self) -> int:
        """Bytes of matrices that are read for a token: all of them, or those of the experts that it uses."""
        read: dict[str, int] = {}
        for op in products((*self.plan.body, *self.plan.head)):
            used = op.count / op.weight.shape[0] if isinstance(op, ExpertMatMul) else 1
            read[op.weight.name] = int(self.matrices[op.weight.name].nbytes * used)
        return sum(read.values()) + (0 if self._other is None else self._other.weight_bytes)

    @property
    def type_name(self) -> str:
        """The type that most of the matrices' bytes are in."""
        beside = () if self._other is None else matrix_names(self._other.plan.body)
        return main_type(self._tensors[name] for name in (*self._names, *beside))

    def prompt_flops(self, tokens: int) -> float:
        """Floating-point operations of the matrix products for a text, and for the logits of its last token."""
        return prompt_flops(self.plan, tokens) + (0.0 if self._other is None else self._other.prompt_flops(tokens))

    def other(self, rows: int) -> Other | None:
        """See `program.Weights`."""
        return None if self._other is None else self._other.program(rows)

    def program(self, rows: int) -> GpuProgram:
        """For steps of at most so many rows. The device is given back where it cannot be made."""
        try:
            return GpuProgram(self, rows)
        except BaseException:
            self.device.close()
            raise
