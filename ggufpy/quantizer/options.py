"""What a caller may ask of a quantisation besides the file type."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format import Blocks, GGUFFile
from ggufpy.format.split import Limits
from ggufpy.support import checks
from ggufpy.support.cores import default_threads
from ggufpy.support.records import dataclass

Advance = Callable[[str, int, int], None]
DAMPING, MOST_DAMPING = 0.05, 10.0  # of GPTQ, over the mean of a Hessian's diagonal
FAR = 32.0  # bits per weight: nothing is larger


@runtime_checkable
class Importance(Protocol):
    """What quantising needs of an importance matrix; `ggufpy.quantizer.importance.ImportanceMatrix` is one."""

    @property
    def names(self) -> Sequence[str]:
        """The tensors that it has weights for."""

    @property
    def datasets(self) -> Sequence[str]:
        """The texts that it was measured on."""

    @property
    def chunks(self) -> int:
        """How many pieces of text that were."""

    def weights(self, name: str) -> NDArray[Any] | None:
        """float32 (matrices, columns), or None where there are none."""


@dataclass(frozen=True)
class Moments:
    """Of one input of matrices: the weights that are multiplied by it, and its second moments, as means over rows.

    `hessian` is the mean of x xᵀ, float32 (columns, columns), None for experts; `squares` its diagonal, float32
    (matrices, columns), a row for each expert.
    """

    names: tuple[str, ...]
    hessian: NDArray[Any] | None
    squares: NDArray[Any]


Solve = Callable[[Moments], Mapping[str, Blocks]]


@runtime_checkable
class Hessians(Protocol):
    """What GPTQ needs of a measurement; `ggufpy.measure.hessians.TextHessians` is one."""

    @property
    def dataset(self) -> str:
        """The name of the text."""

    def visit(self, file: GGUFFile, solve: Solve, progress: Advance) -> int:
        """Calls solve(moments) for every input of a layer's matrices, layer by layer; how many chunks were read.

        Later layers are measured behind the blocks that it returns, by the names of their weights.
        """


def _nothing(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class QuantizeOptions:
    """How a file is quantised; the defaults are llama-quantize's. GGUFError where a value cannot be.

    `imatrix` is a path or an `Importance`. `tensor_types` are (pattern, type) pairs: the first pattern that is found in
    a tensor's name decides. `target_bpw` chooses types by their measured errors so that the weights take that many
    bits at most. `limits` cuts what is written into files, `byteorder` is theirs. `gptq` measures Hessians: the
    matrices of layers are made by GPTQ then (`gptq.py`), with `gptq_damping` of the mean of a Hessian's diagonal added
    to it. `threads` None: one a core. `progress` is called with ("quantize", bytes read, all bytes), and before that
    ("calibrate", layers, all layers) where there is `gptq`.
    """

    imatrix: str | os.PathLike[str] | Importance | None = None
    tensor_types: Sequence[tuple[str, str]] = ()
    pure: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    leave_output_tensor: bool = False
    keep_split: bool = False
    dry_run: bool = False
    target_bpw: float | None = None
    threads: int | None = None
    allow_requantize: bool = False
    allow_nonfinite: bool = False
    limits: Limits | None = None
    byteorder: str = "little"
    progress: Advance = _nothing
    gptq: Hessians | None = None
    gptq_damping: float = DAMPING

    def __post_init__(self) -> None:
        if self.imatrix is not None and not isinstance(self.imatrix, Importance):
            checks.path("imatrix", self.imatrix, "the path of a file, or an importance matrix,")
        for name in ("pure", "leave_output_tensor", "keep_split", "dry_run", "allow_requantize", "allow_nonfinite"):
            checks.flag(name, getattr(self, name))
        self.patterns()
        for chosen in (self.output_tensor_type, self.token_embedding_type):
            if chosen is not None:
                writable(chosen)
        if self.target_bpw is not None and not 0 < checks.number("target_bpw", self.target_bpw) <= FAR:
            raise GGUFError(f"a target of {self.target_bpw:g} bits per weight cannot be: from 0 to {FAR:g} can")
        if self.keep_split and self.limits is not None:
            raise GGUFError("files are cut as the source is, or at limits: leave out keep_split or the limits")
        if self.gptq is not None and not isinstance(self.gptq, Hessians):
            raise GGUFError(f"gptq is {checks.shown(self.gptq)}; what measures Hessians is wanted (TextHessians)")
        if not 0 < checks.number("gptq_damping", self.gptq_damping) <= MOST_DAMPING:
            raise GGUFError(f"a damping of {self.gptq_damping:g} cannot be: above 0 and up to {MOST_DAMPING:g} can")
        if self.threads is not None and checks.whole("threads", self.threads) < 1:
            raise GGUFError(f"{self.threads} threads cannot work: ask for 1 or more, or leave it out for one a core")

    def thread_count(self) -> int:
        """The threads to work with."""
        return self.threads or default_threads()

    def patterns(self) -> list[tuple[re.Pattern[str], str]]:
        """`tensor_types`, compiled; as in llama-quantize, capitals and small letters are the same."""
        patterns = []
        for pair in checks.items("tensor_types", self.tensor_types, "a list of (pattern, type) pairs"):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise GGUFError(f"tensor_types holds {checks.shown(pair)}; (pattern, type) pairs are wanted")
            pattern, name = pair
            try:
                patterns.append((re.compile(pattern, re.IGNORECASE), writable(name)))
            except re.error as e:
                raise GGUFError(f"the tensor pattern {pattern!r} is not a regular expression: {e}") from None
        return patterns


def writable(name: str) -> str:
    """The proper name of a tensor type that can be written. GGUFError, with the types that can."""
    block = quants.get(name)
    if not block.encodes or block.name == "F64":
        able = ", ".join(known for known in quants.names() if quants.get(known).encodes and known != "F64")
        raise GGUFError(f"{block.name} cannot be written; types that can: {able}")
    return block.name
